"""What the module does for a company: keep its session alive and tell the truth about it."""
