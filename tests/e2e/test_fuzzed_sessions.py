"""A hundred damaged sessions in one service: none connects, none hurts the web process."""

import json
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from deployment import Deployment

pytestmark = pytest.mark.e2e

HEALTHY = 3
DAMAGED = 100
KEYS = ["noise_key", "identity_key", "signed_pre_key", "adv_account_sig", "adv_device_sig"]


def cut_off(folder: Path, dice: random.Random) -> None:
    store = folder / "store.db"
    whole = store.read_bytes()
    store.write_bytes(whole[: dice.randrange(1, len(whole) - 4096)])


def rubbish(folder: Path, dice: random.Random) -> None:
    (folder / "store.db").write_bytes(dice.randbytes(dice.randrange(1, 20_000)))


def damaged_schema(folder: Path, dice: random.Random) -> None:
    store = folder / "store.db"
    content = bytearray(store.read_bytes())
    start = dice.randrange(0, 60)
    content[start:4096] = dice.randbytes(4096 - start)
    store.write_bytes(content)


def rubbish_credentials(folder: Path, dice: random.Random) -> None:
    (folder / "creds.json").write_bytes(dice.randbytes(dice.randrange(0, 2_000)))


def flipped_credentials(folder: Path, dice: random.Random) -> None:
    content = bytearray((folder / "creds.json").read_bytes())
    content[dice.randrange(len(content))] ^= 0x80  # no longer UTF-8
    (folder / "creds.json").write_bytes(content)


def odd_credentials(folder: Path, dice: random.Random) -> None:
    record = json.loads((folder / "creds.json").read_text())
    name = dice.choice(["format_version", "company_id", "jid", "paired_at", "epoch"])
    record[name] = dice.choice([None, -1, 10**400, 1.5, [], {}, "x" * 2_000, "\x00", True])
    if (name, record[name]) == ("format_version", True):
        record[name] = 2
    (folder / "creds.json").write_text(json.dumps(record))


def without_table(folder: Path, dice: random.Random) -> None:
    change(folder, "drop table whatsmeow_device")


def without_device(folder: Path, dice: random.Random) -> None:
    change(folder, "delete from whatsmeow_device")


def swapped_tables(folder: Path, dice: random.Random) -> None:
    change(
        folder,
        "alter table whatsmeow_device rename to aside",
        "alter table whatsmeow_identity_keys rename to whatsmeow_device",
        "alter table aside rename to whatsmeow_identity_keys",
    )


def odd_key(folder: Path, dice: random.Random) -> None:
    value = dice.choice(["zeroblob(31)", "zeroblob(65)", "'x'", "9223372036854775807", "1e308"])
    change(
        folder,
        "create table copied as select * from whatsmeow_device",
        "drop table whatsmeow_device",
        "alter table copied rename to whatsmeow_device",
        f"update whatsmeow_device set {dice.choice(KEYS)} = {value}",  # noqa: S608
    )


def unreadable_name(folder: Path, dice: random.Random) -> None:
    change(
        folder,
        "pragma writable_schema = on",
        "update sqlite_master set name = cast(x'ff00fe' as text), "
        "tbl_name = cast(x'ff00fe' as text) where name = 'whatsmeow_device'",
    )


def change(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / "store.db", isolation_level=None)) as db:
        for statement in ("pragma foreign_keys = off", *statements):
            db.execute(statement)


DAMAGES: list[Callable[[Path, random.Random], None]] = [
    cut_off,
    rubbish,
    damaged_schema,
    rubbish_credentials,
    flipped_credentials,
    odd_credentials,
    without_table,
    without_device,
    swapped_tables,
    odd_key,
    unreadable_name,
]


def test_no_damaged_session_connects_and_the_others_stay(deployment: Deployment) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - shown with a failure
    dice = random.Random(seed)  # noqa: S311 - not for secrets
    seeded = deployment.seed(HEALTHY + DAMAGED)
    healthy, damaged = list(seeded)[:HEALTHY], list(seeded)[HEALTHY:]
    kinds = {}
    for number, company_id in enumerate(damaged):
        kinds[company_id] = DAMAGES[number % len(DAMAGES)]
        kinds[company_id](deployment.folders.session_path(company_id), dice)

    service = deployment.start(
        SNAPSHOT_ENCRYPTION_KEYS="k1:" + "A" * 43 + "=", SNAPSHOT_SCAN_SECONDS="0.2"
    )
    worker = service.worker_pid()
    deployment.await_all_connected(healthy, 30)
    for company_id in damaged:
        shown = deployment.await_status(company_id, "failed")
        assert shown["reason"] == "store-corrupt", (kinds[company_id].__name__, shown)
        assert service.post("restore", company_id=company_id).status < 500
    for company_id in damaged:
        deployment.await_status(company_id, "failed")
        asked = service.request("GET", f"/api/whatsapp/session-info?company_id={company_id}")
        assert asked.status == 200, (kinds[company_id].__name__, asked.content)
        assert not asked.json()["persistence"]["will_survive_restart"], kinds[company_id].__name__
        assert service.post("backup-session", company_id=company_id).status in (404, 409, 422, 503)
        assert not deployment.phones.counters(seeded[company_id]).get("logins")

    assert service.worker_pid() == worker
    assert deployment.connected_count() == HEALTHY
    for company_id in healthy:
        assert service.status(company_id)["status"] == "connected"
        assert deployment.phones.counters(seeded[company_id])["logins"] == 1
    copied = deployment.rows("select distinct company_id::text from whatsapp_session_snapshots")
    assert {row["company_id"] for row in copied} <= set(healthy)
    assert not deployment.engine_deaths()
    assert "Traceback" not in deployment.log()
