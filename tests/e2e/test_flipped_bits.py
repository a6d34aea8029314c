"""A bit that flips inside a value of a store is found, though SQLite finds no fault with it."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from deployment import Deployment

from crm_whatsapp.sessions.device_row import read_device_row
from crm_whatsapp.sessions.key_ring import generate_key_entry
from crm_whatsapp.sessions.page_record import FILE_NAME
from crm_whatsapp.sessions.write_ahead_log import open_log
from service_process import wait_for

pytestmark = pytest.mark.e2e

RESTORED = "session restored from its snapshot"
DAMAGED = "the store of a running session is damaged"
ONE_TIME_KEY = "select key from whatsmeow_pre_keys order by key_id desc limit 1"
DEVICE_KEY = "select noise_key from whatsmeow_device"
SETTINGS = {
    "SNAPSHOT_ENCRYPTION_KEYS": generate_key_entry("flips"),
    "SNAPSHOT_SCAN_SECONDS": "0.3",
    "SNAPSHOT_RATCHET_INTERVAL_SECONDS": "0.5",
    "LEASE_TTL_SECONDS": "6",
    "LEASE_RENEW_SECONDS": "1",
}


@pytest.fixture(autouse=True)
def snapshots_on(deployment: Deployment) -> Iterator[None]:
    deployment.settings |= SETTINGS
    yield


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def value_of(folder: Path, sql: str) -> bytes:
    with closing(sqlite3.connect(f"file:{folder / 'store.db'}?mode=ro", uri=True)) as db:
        return bytes(db.execute(sql).fetchone()[0])


def one_time_key(folder: Path) -> None:
    flip_in_store(folder, value_of(folder, ONE_TIME_KEY))


def key_of_the_device(folder: Path) -> None:
    flip_in_store(folder, value_of(folder, DEVICE_KEY))


def flip_in_store(folder: Path, value: bytes) -> None:
    """Flip a bit of the value where SQLite reads it: in the log if the log has its page."""
    log_file = folder / "store.db-wal"
    if log_file.exists() and (newest := log_file.read_bytes().rfind(value)) >= 0:
        flip(log_file, newest + 5)
    else:
        store = folder / "store.db"
        flip(store, store.read_bytes().index(value) + 5)


def last_transaction(folder: Path) -> None:
    """Flip a bit of the newest page in the log."""
    with open_log(folder / "store.db") as log:
        header = log.header()
        assert header is not None
        end = [commit.end.frame for commit in log.commits_after(header.start)][-1]
    flip(folder / "store.db-wal", 32 + end * (24 + 4096) - 100)


DAMAGES: tuple[Callable[[Path], None], ...] = (one_time_key, key_of_the_device, last_transaction)


def test_bits_flipped_after_a_kill_are_found_and_the_snapshot_used(deployment: Deployment) -> None:
    companies = deployment.seed(2 * len(DAMAGES) + 2)
    service = deployment.start()
    deployment.await_all_connected(list(companies))
    for jid in companies.values():
        receive(deployment, jid)
    await_snapshots(deployment, list(companies))
    for company_id in companies:
        await_page_record(deployment, company_id)
    service.kill()
    damaged = dict(zip(companies, DAMAGES * 2, strict=False))
    for company_id, damage in damaged.items():
        folder = deployment.folders.session_path(company_id)
        damage(folder)
        assert_sqlite_finds_no_fault(folder, deployment.folder)

    service.start()

    deployment.await_all_connected(list(companies), 30)
    lines = [json.loads(line) for line in deployment.log().splitlines() if RESTORED in line]
    assert {line["company_id"] for line in lines} == set(damaged)
    for line in lines:
        assert line["instead_of"] == "corrupt"
        assert "changed by no client" in line["detail"], line
    for company_id, jid in companies.items():
        counters = deployment.phones.counters(jid)
        assert counters.get("pairings", 0) == 0, (company_id, counters)
        assert counters["max_simultaneous"] == 1, (company_id, counters)
        assert len(quarantined(deployment, company_id)) == (company_id in damaged)
        receive(deployment, jid)


def test_a_bit_flipped_under_a_running_client_gets_into_no_snapshot(
    deployment: Deployment,
) -> None:
    """The copy that a change asks for finds it; the session starts again from its snapshot."""
    ((company_id, jid),) = deployment.seed(1).items()
    deployment.start()
    folder, key = damaged_while_running(deployment, company_id)

    receive(deployment, jid)  # a change that is to be copied

    assert_replaced(deployment, company_id, jid)
    assert "no snapshot was taken" in deployment.log()
    assert value_of(folder, DEVICE_KEY) == key


def test_a_bit_flipped_in_a_store_that_nobody_changes_is_found_in_time(
    deployment: Deployment,
) -> None:
    ((company_id, jid),) = deployment.seed(1).items()
    deployment.start(STORE_CHECK_SECONDS="1")

    folder, key = damaged_while_running(deployment, company_id)

    assert_replaced(deployment, company_id, jid)
    assert value_of(folder, DEVICE_KEY) == key


def test_without_a_snapshot_a_damaged_store_goes_on(deployment: Deployment) -> None:
    """A start would lose a session that still works: people are told, and it is left alone."""
    ((company_id, jid),) = deployment.seed(1).items()
    service = deployment.start(SNAPSHOT_ENCRYPTION_KEYS="", STORE_CHECK_SECONDS="1")
    deployment.await_all_connected([company_id])
    await_page_record(deployment, company_id)

    key_of_the_device(deployment.folders.session_path(company_id))

    assert wait_for(lambda: DAMAGED in deployment.log(), 20), deployment.log_tail()
    assert "left alone" in deployment.log()
    receive(deployment, jid)
    assert service.status(company_id)["status"] == "connected"
    assert deployment.phones.counters(jid)["logins"] == 1


def damaged_while_running(deployment: Deployment, company_id: str) -> tuple[Path, bytes]:
    """Flip a bit in the device's key when it is in a snapshot; return the folder and the key."""
    deployment.await_all_connected([company_id])
    await_snapshots(deployment, [company_id])
    await_page_record(deployment, company_id)
    folder = deployment.folders.session_path(company_id)
    key = value_of(folder, DEVICE_KEY)
    key_of_the_device(folder)
    return folder, key


def assert_replaced(deployment: Deployment, company_id: str, jid: str) -> None:
    """Assert that the session came back from its snapshot by itself, and works."""
    assert wait_for(lambda: RESTORED in deployment.log(), 20), deployment.log_tail()
    deployment.await_status(company_id, "connected")
    assert deployment.log().count(RESTORED) == 1
    assert deployment.log().count(DAMAGED) == 1
    assert "changed by no client" in deployment.log()
    assert len(quarantined(deployment, company_id)) == 1
    counters = deployment.phones.counters(jid)
    assert counters.get("pairings", 0) == 0, counters
    assert counters["max_simultaneous"] == 1, counters
    receive(deployment, jid)


def assert_sqlite_finds_no_fault(folder: Path, scratch: Path) -> None:
    """Let SQLite check a copy of the store, as it would open it."""
    copy = scratch / f"copy-of-{folder.name}"
    copy.mkdir()
    for name in ("store.db", "store.db-wal"):
        if (folder / name).exists():
            shutil.copyfile(folder / name, copy / name)
    assert read_device_row(copy / "store.db", quick_check=True) is not None


def await_snapshots(deployment: Deployment, companies: list[str]) -> None:
    def copied() -> bool:
        rows = deployment.rows("select distinct company_id from public.whatsapp_session_snapshots")
        return {str(row["company_id"]) for row in rows} >= set(companies)

    assert wait_for(copied, 20), "no snapshot of some company"


def await_page_record(deployment: Deployment, company_id: str) -> None:
    """Wait until there is a record: a seeded store is no WAL store before its first start."""
    record = deployment.folders.session_path(company_id) / FILE_NAME
    assert wait_for(record.exists, 20), f"no record of the pages of {company_id}"


def quarantined(deployment: Deployment, company_id: str) -> list[Path]:
    return list((deployment.sessions_dir / "quarantine").glob(f"{company_id}-*"))


def receive(deployment: Deployment, jid: str) -> None:
    """A phone writes; the company's device says that it could read it."""
    begun = deployment.phones.last_event()
    body = {"jid": jid, "from": "5511977770000", "text": "hello"}
    sent = deployment.phones.call("messages", body)["id"]

    def read() -> bool:
        return any(
            sent in event["ids"] and event["receipt"] != "retry"
            for event in deployment.phones.events(begun, type="receipt")
        )

    assert wait_for(read, 20), deployment.phones.events(begun)
