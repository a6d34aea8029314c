"""When the login of a client is answered."""

LOGIN_SETTLED = frozenset(
    {
        "ClientConnected",
        "LoggedOut",
        "TemporarilyBanned",
        "ConnectFailed",
        "ClientOutdated",
        "StreamReplaced",
        "ClientDisconnected",
        "PairingSucceeded",
        "PairingFailed",
        "PairingExpired",
    }
)
"""Events after which a start can no longer be what ended the process.

The Device event is not among them: WhatsApp refuses a login only after the handshake, and two of
its refusals (413, 414) end the process.
"""
