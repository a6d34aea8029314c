"""The dashboard: pages for people, drawn from the same API."""
