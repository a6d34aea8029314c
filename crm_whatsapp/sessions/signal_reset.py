"""What a store that is not the newest must forget before a client uses it.

A Signal session that went on elsewhere, or before a crash, must not be continued from an old copy:
it would number its messages as others that were sent already, and their readers drop such messages
without a word. Measured by scripts/experiments/rollback.py.
"""

import sqlite3


def forget_ratchets(db: sqlite3.Connection) -> None:
    """Delete the Signal sessions and this device's own sender keys; the caller commits.

    Sessions are made anew from one-time keys. Sender keys of others stay: they only run forward,
    so an old one still opens what is new, and an own one is handed out again with the next message.

    Raises:
        sqlite3.Error: it is no store of whatsmeow.
    Source:
        whatsmeow send.go (sender keys are stored under SignalAddress() of our LID, once of our
        number) and types/jid.go (`user:device`, `user_1:device` for a LID).
    """
    db.execute("delete from whatsmeow_sessions")
    for jid, lid in db.execute("select jid, lid from whatsmeow_device").fetchall():
        for own in (_address(jid, ""), _address(lid, "_1") if lid else None):
            db.execute("delete from whatsmeow_sender_keys where sender_id = ?", (own,))


def _address(jid: str, agent: str) -> str:
    user, _, device = jid.partition("@")[0].partition(":")
    return f"{user}{agent}:{device or 0}"
