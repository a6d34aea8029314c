"""The HTTP edge: the API of the contract and the dashboard."""
