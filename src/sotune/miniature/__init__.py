"""miniature."""
