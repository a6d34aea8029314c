"""The server's side of the socket: gunicorn's threads, kept from waiting for bad clients."""
