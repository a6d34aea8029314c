"""Store files as whatsmeow leaves them: the device table of its schema and some bulk."""

import sqlite3
from contextlib import closing
from pathlib import Path

JID = "5511999990001:3@s.whatsapp.net"
LID = "123456789012345:3@lid"

# Columns and checks as in whatsmeow's store/sqlstore/upgrades/00-latest-schema.sql.
DEVICE_TABLE = """
create table whatsmeow_device (
    jid text primary key, lid text, facebook_uuid uuid,
    registration_id bigint not null,
    noise_key bytea not null, identity_key bytea not null, signed_pre_key bytea not null,
    signed_pre_key_id integer not null, signed_pre_key_sig bytea not null,
    adv_key bytea not null, adv_details bytea not null, adv_account_sig bytea not null,
    adv_account_sig_key bytea not null, adv_device_sig bytea not null,
    platform text not null default '', business_name text not null default '',
    push_name text not null default '', lid_migration_ts bigint not null default 0)
"""
BULK_TABLE = "create table whatsmeow_pre_keys (jid text, key_id integer, key bytea not null)"


def device_values(jid: str = JID, **changes: object) -> dict[str, object]:
    """Return the columns of a device; changes replace single ones."""
    values: dict[str, object] = {
        "jid": jid,
        "lid": LID,
        "registration_id": 4711,
        "noise_key": bytes(32),
        "identity_key": bytes(32),
        "signed_pre_key": bytes(32),
        "signed_pre_key_id": 1,
        "signed_pre_key_sig": bytes(64),
        "adv_key": bytes(32),
        "adv_details": b"\x08\x01",
        "adv_account_sig": bytes(64),
        "adv_account_sig_key": bytes(32),
        "adv_device_sig": bytes(64),
        "platform": "android",
        "push_name": "Loja",
    }
    values.update(changes)
    return values


def write_store(
    path: Path, *devices: dict[str, object], journal_mode: str = "delete", keys: int = 200
) -> None:
    """Make a store with these devices and so many one-time keys, closed cleanly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"pragma journal_mode = {journal_mode}")
        fill_store(db, *devices, keys=keys)


def fill_store(db: sqlite3.Connection, *devices: dict[str, object], keys: int = 200) -> None:
    """Make the tables on an open connection; the caller commits."""
    db.execute(DEVICE_TABLE)
    db.execute(BULK_TABLE)
    for device in devices:
        names, marks = ", ".join(device), ", ".join("?" * len(device))
        statement = f"insert into whatsmeow_device ({names}) values ({marks})"  # noqa: S608
        db.execute(statement, tuple(device.values()))
    db.executemany(
        "insert into whatsmeow_pre_keys values (?, ?, ?)",
        [(JID, number, bytes([number % 256]) * 32) for number in range(keys)],
    )
