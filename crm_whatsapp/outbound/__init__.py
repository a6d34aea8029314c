"""Adapters that speak to addresses people configured: webhook targets and alert channels."""
