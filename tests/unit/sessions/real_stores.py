"""Stores with whatsmeow's own tables, as they are after pairing: 812 one-time keys."""

import base64
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from sandbox.seed_stores import write_store

JID = "5511999990001:3@s.whatsapp.net"
LID = "123456789012345:3@lid"


def fresh_store(path: Path, *, jid: str = JID, one_time_keys: int = 812) -> None:
    """Write a store in WAL mode, closed cleanly."""
    write_store(path, _device(jid, one_time_keys))
    with closing(sqlite3.connect(path)) as db:
        db.execute("pragma journal_mode = wal")


def add_sessions(path: Path, count: int) -> None:
    """Let the account have written to so many people."""
    with closing(sqlite3.connect(path)) as db, db:
        db.executemany(
            "insert into whatsmeow_sessions values (?, ?, ?)",
            [(JID, f"{number}_1:0", os.urandom(700)) for number in range(count)],
        )
        db.executemany(
            "insert into whatsmeow_identity_keys values (?, ?, ?)",
            [(JID, f"{number}_1:0", os.urandom(32)) for number in range(count)],
        )


def change(path: Path, *statements: str) -> None:
    """Run the statements in one transaction and close, which folds the log in."""
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)


def _device(jid: str, one_time_keys: int) -> dict[str, Any]:
    return {
        "jid": jid,
        "lid": LID,
        "registration_id": 4711,
        "noise_private": _random(32),
        "identity_private": _random(32),
        "signed_prekey": {"private": _random(32), "id": 1, "signature": _random(64)},
        "adv_secret": _random(32),
        "account": {
            "details": _random(20),
            "account_signature": _random(64),
            "account_signature_key": _random(32),
            "device_signature": _random(64),
        },
        "platform": "android",
        "push_name": "Loja",
        "one_time_keys": [
            {"id": number, "private": _random(32)} for number in range(1, one_time_keys + 1)
        ],
    }


def _random(size: int) -> str:
    return base64.b64encode(os.urandom(size)).decode()
