"""Supabase's data plane on this machine: Postgres, PostgREST and a gateway, without Docker."""
