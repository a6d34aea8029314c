"""Supabase repositories and the local state journal; the only place that imports supabase."""
