"""A package of somebody else that brings sotune a method, a judge and a data set."""
