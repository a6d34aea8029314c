"""The WhatsApp engines: child processes that run neonize, and the supervisor that keeps them.

Parent side: `supervisor`, `engine_process` and what they use; these never import neonize.
Child side: `__main__` and what it uses; only `neonize_client` imports neonize.
"""
