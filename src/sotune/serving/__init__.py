"""A run as a service: jobs of rows over HTTP, weighed with a warm encoder."""
