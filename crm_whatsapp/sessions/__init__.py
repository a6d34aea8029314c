"""Session folders on disk: detect, validate, creds.json, locks and the service's own files."""
