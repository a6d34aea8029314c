"""What of a store a snapshot must not miss, and what may wait, as two hashes.

Tables of whatsmeow's store/sqlstore/upgrades/00-latest-schema.sql. Contacts, chat settings,
message secrets and buffers are in neither: WhatsApp tells them again, or they are short-lived.
"""

import hashlib
import sqlite3
from collections.abc import Sequence

from crm_whatsapp.domain.snapshots import StoreFingerprint

# One-time keys never change but for `uploaded`, so their numbers will do. The others are joined
# by SQLite: 5,000 sessions take 5 ms, and 40 ms as rows (measured). Without an order: rows come
# as they lie in the table, and at worst the same content looks new once.
_ONE_TIME_KEYS = """
select count(*), min(key_id), max(key_id), sum(key_id), sum(uploaded) from whatsmeow_pre_keys
"""
_IMPORTANT = (
    ("identity_keys", ("their_id", "identity")),
    ("app_state_sync_keys", ("key_id", "timestamp", "key_data")),
    ("app_state_version", ("name", "version", "hash")),
)
_RATCHETS = (
    ("sessions", ("their_id", "session")),
    ("sender_keys", ("chat_id", "sender_id", "sender_key")),
)


def fingerprint_of(db: sqlite3.Connection) -> StoreFingerprint | None:
    """Return the fingerprint of an open store; None when it holds no device.

    Args:
        db: with `bytes` as its text factory.
    Raises:
        sqlite3.Error: it is damaged, in use, or no store of whatsmeow.
    """
    db.execute("begin")  # one condition of the store, whatever is written meanwhile
    device = db.execute("select * from whatsmeow_device").fetchall()
    if not device:
        return None
    one_time_keys = db.execute(_ONE_TIME_KEYS).fetchall()
    return StoreFingerprint(
        important=_hash(repr((device, one_time_keys)).encode(), *_contents(db, _IMPORTANT)),
        ratchets=_hash(*_contents(db, _RATCHETS)),
    )


def _contents(
    db: sqlite3.Connection, tables: Sequence[tuple[str, Sequence[str]]]
) -> Sequence[bytes]:
    found = []
    for table, columns in tables:
        # Each value after its length, so that no two contents read the same.
        parts = (f"ifnull(length({name})||'.'||{name}, '-')" for name in columns)
        statement = f"select group_concat({'||'.join(parts)}, '') from whatsmeow_{table}"  # noqa: S608
        found.append(db.execute(statement).fetchone()[0] or b"")
    return found


def _hash(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()
