"""The rules of the session policy, one function an event; `session_policy` picks them."""
