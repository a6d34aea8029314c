"""What the service tells Prometheus: counted as it happens, or read from its parts when asked."""
