"""A company scans once: its session comes back from snapshots, and only when it should."""

import json
import shutil
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from deployment import Deployment

from crm_whatsapp.sessions.key_ring import KeyRing, generate_key_entry
from crm_whatsapp.sessions.snapshot_cipher import EnvelopeCipher
from crm_whatsapp.sessions.store_copier import SqliteStoreCopier
from crm_whatsapp.sessions.store_fingerprint import fingerprint_of
from crm_whatsapp.stores.snapshot_store import SupabaseSnapshotStore
from crm_whatsapp.stores.supabase_client import close_client, make_client
from local_supabase import LocalSupabase
from service_process import API, wait_for

pytestmark = pytest.mark.e2e

KEY = generate_key_entry("first")
SCAN_SECONDS = 0.3
RESTORED = "session restored from its snapshot"
FRIEND = "5511977770000"
SETTINGS = {
    "SNAPSHOT_ENCRYPTION_KEYS": KEY,
    "SNAPSHOT_SCAN_SECONDS": str(SCAN_SECONDS),
    "SNAPSHOT_RATCHET_INTERVAL_SECONDS": "1",
    "DATABASE_RETRY_MAX_SECONDS": "0.5",
    "DATABASE_TIMEOUT_SECONDS": "3",
    "LEASE_TTL_SECONDS": "6",
    "LEASE_RENEW_SECONDS": "1",
}


@pytest.fixture(autouse=True)
def snapshots_on(deployment: Deployment, stack: LocalSupabase) -> Iterator[None]:
    """Every service takes snapshots; a working database is left to the next test."""
    deployment.settings |= SETTINGS
    yield
    if stack.running()["postgrest"] is None:
        stack.start_postgrest()
    stack.thaw_postgrest()


# --- a lost disk ------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_a_lost_disk_costs_nobody_a_scan(deployment: Deployment, end: str) -> None:
    companies = deployment.seed(10)
    service = deployment.start()
    paired = str(uuid.uuid4())
    companies[paired] = deployment.pair(paired)
    deployment.await_all_connected(list(companies))
    await_snapshots(deployment, list(companies))
    pairings = {jid: counted(deployment, jid, "pairings") for jid in companies.values()}
    getattr(service, end)()
    lose_disk(deployment)

    service.start()

    deployment.await_all_connected(list(companies), 30)
    assert deployment.log().count(RESTORED) == len(companies)
    for company_id, jid in companies.items():
        assert service.status(company_id)["status"] == "connected"
        assert counted(deployment, jid, "pairings") == pairings[jid]
        assert counted(deployment, jid, "max_simultaneous") == 1
        deployment.await_row(company_id, status="connected", jid=jid)
    assert pairings[companies[paired]] == 1
    for company_id in (paired, next(iter(companies))):
        assert_exchanges_messages(deployment, company_id, companies[company_id])


def test_a_poll_finds_a_company_that_exists_only_as_a_snapshot(deployment: Deployment) -> None:
    companies = deployment.seed(2)
    service = deployment.start()
    deployment.await_all_connected(list(companies))
    await_snapshots(deployment, list(companies))
    service.terminate()
    lose_disk(deployment)

    service = deployment.start(SESSION_RECOVERY_ENABLED="false")
    assert deployment.connected_count() == 0

    for company_id in companies:
        assert service.status(company_id)["status"] in ("connecting", "connected")
        deployment.await_status(company_id, "connected")
    assert deployment.log().count(RESTORED) == 2


def test_a_disk_lost_while_the_database_is_away_is_made_good_when_it_returns(
    deployment: Deployment, stack: LocalSupabase
) -> None:
    companies = deployment.seed(2)
    service = deployment.start()
    deployment.await_all_connected(list(companies))
    await_snapshots(deployment, list(companies))
    service.terminate()
    lose_disk(deployment)
    stack.stop_postgrest(kill=True)
    service.start()
    polled, unpolled = companies
    for _ in range(5):
        assert service.status(polled)["status"] in ("connecting", "disconnected")

    stack.start_postgrest()

    # Nobody polls the other one; the next regular comparison is minutes away.
    deployment.await_all_connected(list(companies), 20)
    for jid in companies.values():
        assert counted(deployment, jid, "max_simultaneous") == 1
    assert service.status(unpolled)["status"] == "connected"


# --- damage -----------------------------------------------------------------------------------


def test_a_flipped_bit_in_the_newest_snapshot_makes_the_next_older_one_do(
    deployment: Deployment,
) -> None:
    companies = deployment.seed(3)
    service = deployment.start()
    deployment.await_all_connected(list(companies))
    await_snapshots(deployment, list(companies))
    service.terminate()
    for share, company_id in zip((0.0, 0.5, 0.999), companies, strict=True):
        rows = snapshots(deployment, company_id)
        assert len(rows) >= 2, rows
        flip_in_database(deployment, rows[0], share)
    lose_disk(deployment)

    service.start()

    deployment.await_all_connected(list(companies))
    assert deployment.log().count("a snapshot is damaged") == 3
    assert deployment.log().count(RESTORED) == 3


def test_snapshots_that_are_all_damaged_are_told_and_kept(deployment: Deployment) -> None:
    ((company_id, _),) = deployment.seed(1).items()
    service = deployment.start()
    deployment.await_all_connected([company_id])
    await_snapshots(deployment, [company_id])
    service.terminate()
    rows = snapshots(deployment, company_id)
    for row in rows:
        flip_in_database(deployment, row, 0.3)
    lose_disk(deployment)

    service.start()

    deployment.await_status(company_id, "failed", reason="store-corrupt")
    assert positions(snapshots(deployment, company_id)) == positions(rows)


def header_of_store(folder: Path) -> None:
    flip_in_file(folder / "store.db", 3)


def page_of_store(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "store.db")) as db:
        (page,) = db.execute(
            "select rootpage from sqlite_schema where name = 'whatsmeow_device'"
        ).fetchone()
        (size,) = db.execute("pragma page_size").fetchone()
    flip_in_file(folder / "store.db", (page - 1) * size)


def start_of_credentials(folder: Path) -> None:
    flip_in_file(folder / "creds.json", 0)


def jid_in_credentials(folder: Path) -> None:
    content = (folder / "creds.json").read_bytes()
    flip_in_file(folder / "creds.json", content.index(b"@s.whatsapp.net") - 4)


DAMAGES: Sequence[Callable[[Path], None]] = (
    header_of_store,
    page_of_store,
    start_of_credentials,
    jid_in_credentials,
)


def test_a_flipped_bit_on_disk_is_found_and_the_snapshot_used(deployment: Deployment) -> None:
    companies = deployment.seed(len(DAMAGES) + 1)
    service = deployment.start()
    deployment.await_all_connected(list(companies))
    await_snapshots(deployment, list(companies))
    service.terminate()
    damaged = dict(zip(companies, DAMAGES, strict=False))
    before: dict[str, tuple[bytes, bytes]] = {}
    for company_id, damage in damaged.items():
        damage(deployment.folders.session_path(company_id))
        before[company_id] = both_files(deployment.folders.session_path(company_id))

    service.start()

    deployment.await_all_connected(list(companies))
    assert deployment.log().count(RESTORED) == len(damaged)
    for company_id, damage in damaged.items():
        (aside,) = quarantined(deployment, company_id)
        assert both_files(aside) == before[company_id], damage
    assert len(list((deployment.sessions_dir / "quarantine").iterdir())) == len(damaged)


# --- keys -------------------------------------------------------------------------------------


OTHER_KEYS = {
    "another key": generate_key_entry("second"),
    "another key of the same name": generate_key_entry("first"),
    "no key": "",
}


def test_without_the_key_nothing_is_touched_until_it_is_back(deployment: Deployment) -> None:
    companies = deployment.seed(2)
    lost, damaged = companies
    service = deployment.start()
    deployment.await_all_connected(list(companies))
    await_snapshots(deployment, list(companies))
    service.terminate()
    before = {item: snapshots(deployment, item) for item in companies}
    shutil.rmtree(deployment.folders.session_path(lost))
    header_of_store(deployment.folders.session_path(damaged))
    content = both_files(deployment.folders.session_path(damaged))

    for name, keys in OTHER_KEYS.items():
        service = deployment.start(SNAPSHOT_ENCRYPTION_KEYS=keys)
        for company_id in companies:
            shown = deployment.await_status(company_id, "failed", reason="key-missing")
            assert shown["user_action"] == "contact-support", name
        if not keys:
            assert readiness_of_snapshots(deployment)["detail"].startswith("off:")
            assert service.readiness()["degraded"] is True
        service.terminate()
        assert both_files(deployment.folders.session_path(damaged)) == content, name
        assert not deployment.folders.session_path(lost).exists(), name
        assert not (deployment.sessions_dir / "quarantine").exists(), name
        assert {item: snapshots(deployment, item) for item in companies} == before, name

    deployment.start(SNAPSHOT_ENCRYPTION_KEYS=f"{OTHER_KEYS['another key']},{KEY}")
    deployment.await_all_connected(list(companies))
    assert deployment.log().count(RESTORED) == 2
    (aside,) = quarantined(deployment, damaged)
    assert both_files(aside) == content


def test_without_any_key_sessions_run_and_readiness_says_what_is_missing(
    deployment: Deployment,
) -> None:
    companies = deployment.seed(1)
    service = deployment.start(SNAPSHOT_ENCRYPTION_KEYS="")
    deployment.await_all_connected(list(companies))

    check = readiness_of_snapshots(deployment)

    assert check["ok"] is False
    assert "SNAPSHOT_ENCRYPTION_KEYS" in check["detail"]
    answer = service.request("GET", "/readyz")
    assert (answer.status, answer.json()["degraded"]) == (200, True)
    service.terminate()
    assert deployment.rows("select 1 from public.whatsapp_session_snapshots") == []


# --- the database away ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_snapshots_wait_for_the_database_and_the_newest_wins(
    deployment: Deployment, stack: LocalSupabase, how: str
) -> None:
    ((company_id, jid),) = deployment.seed(1).items()
    service = deployment.start(DATABASE_TIMEOUT_SECONDS="1")
    deployment.await_all_connected([company_id])
    await_snapshots(deployment, [company_id])
    (stack.freeze_postgrest if how == "frozen" else stack.stop_postgrest)()
    for number in range(3):
        receive(deployment, jid, f"551197777000{number}")
    assert wait_for(lambda: not readiness_of_snapshots(deployment)["ok"], 10)

    (stack.thaw_postgrest if how == "frozen" else stack.start_postgrest)()

    await_newest_is_the_store(deployment, company_id, 20)
    assert wait_for(lambda: readiness_of_snapshots(deployment)["ok"], 10)
    service.terminate()
    rows = snapshots(deployment, company_id)
    assert len(positions(rows)) == len(set(positions(rows))) <= 3
    assert len({row["sha256"] for row in rows}) == len(rows)
    lose_disk(deployment)
    service.start()
    deployment.await_all_connected([company_id])


def test_a_lease_that_came_late_does_not_let_an_older_snapshot_win(
    deployment: Deployment, stack: LocalSupabase
) -> None:
    """Started while the database was away: the term of the snapshot begins after the client."""
    ((company_id, _),) = deployment.seed(1).items()
    stack.stop_postgrest(kill=True)
    service = deployment.start()
    deployment.await_all_connected([company_id])
    stack.start_postgrest()
    await_snapshots(deployment, [company_id])
    service.kill()

    service.start()

    deployment.await_all_connected([company_id])
    assert RESTORED not in deployment.log()
    assert not (deployment.sessions_dir / "quarantine").exists()


# --- which one wins ---------------------------------------------------------------------------


def test_a_snapshot_wins_over_a_whole_store_only_from_a_later_term(
    deployment: Deployment,
) -> None:
    companies = deployment.seed(4)
    later, same, earlier, paired_anew = companies
    service = deployment.start()
    deployment.await_all_connected(list(companies))
    await_snapshots(deployment, list(companies))
    service.terminate()
    rewrite_credentials(deployment, later, epoch=0)
    rewrite_credentials(deployment, earlier, epoch=1_000)
    rewrite_credentials(deployment, paired_anew, epoch=0, paired_at="2099-01-01T00:00:00+00:00")
    store = (deployment.folders.session_path(later) / "store.db").read_bytes()

    service.start()

    deployment.await_all_connected(list(companies))
    assert companies_restored(deployment) == [later]
    (aside,) = quarantined(deployment, later)
    assert (aside / "store.db").read_bytes() == store
    assert len(list((deployment.sessions_dir / "quarantine").iterdir())) == 1
    for jid in companies.values():
        assert counted(deployment, jid, "max_simultaneous") == 1
    assert service.status(same)["status"] == "connected"


def test_a_whole_older_store_is_better_than_snapshots_that_nobody_can_open(
    deployment: Deployment,
) -> None:
    ((company_id, _),) = deployment.seed(1).items()
    service = deployment.start()
    deployment.await_all_connected([company_id])
    await_snapshots(deployment, [company_id])
    service.terminate()
    rewrite_credentials(deployment, company_id, epoch=0)
    for row in snapshots(deployment, company_id):
        flip_in_database(deployment, row, 0.5)

    service.start()

    deployment.await_all_connected([company_id])
    assert companies_restored(deployment) == []
    # From now on there is a good one again, which outranks the damaged ones.
    await_newest_is_the_store(deployment, company_id)


# --- the second chance, logout, delete ---------------------------------------------------------


def test_one_unauthorized_login_costs_nobody_a_scan(deployment: Deployment) -> None:
    service = deployment.start()
    company_id = str(uuid.uuid4())
    jid = deployment.pair(company_id)
    await_snapshots(deployment, [company_id])
    service.terminate()
    deployment.phones.fail_logins(jid, 401, count=1)

    service.start()

    deployment.await_status(company_id, "connected")
    assert "no store of before the start" not in deployment.log()
    assert companies_restored(deployment) == []
    assert counted(deployment, jid, "pairings") == 1
    assert counted(deployment, jid, "failures") == 1
    assert snapshots(deployment, company_id)
    assert_exchanges_messages(deployment, company_id, jid)


def test_a_second_unauthorized_login_is_final_and_retires_the_snapshots(
    deployment: Deployment,
) -> None:
    service = deployment.start()
    company_id = str(uuid.uuid4())
    jid = deployment.pair(company_id)
    await_snapshots(deployment, [company_id])
    service.terminate()
    deployment.phones.fail_logins(jid, 401, count=2)

    service.start()

    deployment.await_status(company_id, "logged_out", reason="logged-out-by-server")
    assert wait_for(lambda: not snapshots(deployment, company_id), 10)
    assert tombstones(deployment, company_id)
    service.terminate()
    service.start()
    assert service.status(company_id)["status"] == "logged_out"
    assert counted(deployment, jid, "failures") == 2


def test_old_snapshots_never_come_back_after_a_logout_and_a_new_pairing(
    deployment: Deployment,
) -> None:
    service = deployment.start()
    company_id = str(uuid.uuid4())
    first = deployment.pair(company_id)
    await_snapshots(deployment, [company_id])
    service.post("logout", company_id=company_id)
    deployment.await_status(company_id, "logged_out")
    assert wait_for(lambda: not snapshots(deployment, company_id), 10)
    old = tombstones(deployment, company_id)
    assert old

    second = deployment.pair(company_id)

    assert_only_the_new_pairing_comes_back(deployment, company_id, second)
    assert set(positions(old)) <= set(positions(tombstones(deployment, company_id)))
    assert counted(deployment, first, "logins") == 2


def test_old_snapshots_never_come_back_after_pairing_afresh(deployment: Deployment) -> None:
    """The same term of the lease goes on, so the numbers of the old snapshots are taken."""
    service = deployment.start()
    company_id = str(uuid.uuid4())
    deployment.pair(company_id)
    await_snapshots(deployment, [company_id])
    assert service.post("connect", company_id=company_id, method="qr", fresh=True).status == 202
    second = deployment.phones.scan(deployment.qr(company_id))
    deployment.await_status(company_id, "connected")

    assert_only_the_new_pairing_comes_back(deployment, company_id, second)


def test_a_logout_while_the_database_is_away_retires_the_snapshots_even_after_a_kill(
    deployment: Deployment, stack: LocalSupabase
) -> None:
    companies = deployment.seed(2)
    logged_out, deleted = companies
    service = deployment.start()
    deployment.await_all_connected(list(companies))
    await_snapshots(deployment, list(companies))
    stack.stop_postgrest()
    service.post("logout", company_id=logged_out)
    delete(deployment, deleted)
    deployment.await_status(logged_out, "logged_out")
    assert wait_for(lambda: service.status(deleted)["reason"] == "never-connected", 10)
    service.kill()
    stack.start_postgrest()

    service.start()

    for company_id, jid in companies.items():
        assert wait_for(lambda item=company_id: not snapshots(deployment, item), 10), company_id
        assert service.status(company_id)["status"] in ("logged_out", "disconnected")
        assert counted(deployment, jid, "logins") == 1
        assert not deployment.folders.session_path(company_id).exists()


def test_a_deleted_company_leaves_no_snapshot(deployment: Deployment) -> None:
    ((company_id, jid),) = deployment.seed(1).items()
    service = deployment.start()
    deployment.await_all_connected([company_id])
    await_snapshots(deployment, [company_id])

    delete(deployment, company_id)

    assert wait_for(lambda: not all_snapshots(deployment, company_id), 10)
    service.terminate()
    service.start()
    assert service.status(company_id)["reason"] == "never-connected"
    assert counted(deployment, jid, "logins") == 1


# --- when one is taken ------------------------------------------------------------------------


def test_a_clean_stop_marks_the_snapshot_and_it_is_the_store(deployment: Deployment) -> None:
    companies = deployment.seed(3)
    stopped = next(iter(companies))
    service = deployment.start()
    deployment.await_all_connected(list(companies))
    await_snapshots(deployment, list(companies))
    service.post("disconnect", company_id=stopped)
    assert wait_for(lambda: snapshots(deployment, stopped)[0]["clean"], 10)

    service.terminate()

    for company_id in companies:
        assert snapshots(deployment, company_id)[0]["clean"] is True
        await_newest_is_the_store(deployment, company_id, 0)


def test_idle_sessions_cost_no_write_over_many_scans(deployment: Deployment) -> None:
    companies = deployment.seed(5)
    deployment.start(KEEPALIVE_INTERVAL_SECONDS="1", SNAPSHOT_SCAN_SECONDS="0.1")
    deployment.await_all_connected(list(companies))
    await_snapshots(deployment, list(companies))
    assert await_scans(deployment, 10)
    written = readiness_of_snapshots(deployment)["written"]
    rows = {item: positions(snapshots(deployment, item)) for item in companies}

    assert await_scans(deployment, 10)

    assert readiness_of_snapshots(deployment)["written"] == written
    assert {item: positions(snapshots(deployment, item)) for item in companies} == rows


def test_a_change_is_copied_in_time(
    deployment: Deployment, record_property: Callable[[str, object], None]
) -> None:
    ((company_id, jid),) = deployment.seed(1).items()
    deployment.start()
    deployment.await_all_connected([company_id])
    await_snapshots(deployment, [company_id])
    await_newest_is_the_store(deployment, company_id)
    for name, change in (
        ("received", lambda: receive(deployment, jid, FRIEND)),
        ("sent", lambda: send(deployment, company_id, "5511977770009")),
    ):
        before = positions(snapshots(deployment, company_id))[0]
        begun = time.monotonic()
        change()

        def copied(before: tuple[int, int] = before) -> bool:
            return positions(snapshots(deployment, company_id))[0] > before

        assert wait_for(copied, SCAN_SECONDS + 5), f"{name}: no snapshot"
        await_newest_is_the_store(deployment, company_id, SCAN_SECONDS + 5)
        took = time.monotonic() - begun
        record_property(f"{name}: seconds until the copy", round(took, 2))
        assert took <= SCAN_SECONDS + 5


# --- small things -----------------------------------------------------------------------------


def lose_disk(deployment: Deployment) -> None:
    shutil.rmtree(deployment.sessions_dir)


def counted(deployment: Deployment, jid: str, name: str) -> int:
    return deployment.phones.counters(jid).get(name, 0)


def all_snapshots(deployment: Deployment, company_id: str) -> list[dict[str, Any]]:
    """Return every row, newest first."""
    return deployment.rows(
        "select * from public.whatsapp_session_snapshots where company_id = %s "
        "order by epoch desc, seq desc",
        company_id,
    )


def snapshots(deployment: Deployment, company_id: str) -> list[dict[str, Any]]:
    """Return those in use, newest first."""
    rows = all_snapshots(deployment, company_id)
    return [row for row in rows if row["tombstoned_at"] is None]


def tombstones(deployment: Deployment, company_id: str) -> list[dict[str, Any]]:
    rows = all_snapshots(deployment, company_id)
    return [row for row in rows if row["tombstoned_at"] is not None]


def positions(rows: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
    return [(row["epoch"], row["seq"]) for row in rows]


def await_snapshots(deployment: Deployment, companies: Sequence[str]) -> None:
    missing = set(companies)

    def written() -> bool:
        missing.difference_update(
            str(row["company_id"])
            for row in deployment.rows(
                "select distinct company_id from public.whatsapp_session_snapshots "
                "where tombstoned_at is null"
            )
        )
        return not missing

    assert wait_for(written, 20), f"no snapshot of {missing}"


def await_scans(deployment: Deployment, count: int) -> bool:
    """Wait for so many more runs of the search for changes."""
    checks = {check["name"]: check for check in deployment.service.readiness()["checks"]}
    begun = checks["jobs"]["snapshot-scan"]["runs"]

    def run() -> bool:
        now = {check["name"]: check for check in deployment.service.readiness()["checks"]}
        return bool(now["jobs"]["snapshot-scan"]["runs"] >= begun + count)

    return wait_for(run, count * SCAN_SECONDS + 10)


def readiness_of_snapshots(deployment: Deployment) -> dict[str, Any]:
    checks = {check["name"]: check for check in deployment.service.readiness()["checks"]}
    found: dict[str, Any] = checks["snapshots"]
    return found


def flip_in_file(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x04
    path.write_bytes(content)


def flip_in_database(deployment: Deployment, row: dict[str, Any], share: float) -> None:
    """Flip one bit of the payload, at this share of its length."""
    offset = int(row["size_bytes"] * share)
    changed = deployment.rows(
        "update public.whatsapp_session_snapshots "
        "set payload = set_byte(payload, %s, get_byte(payload, %s) # 4) "
        "where company_id = %s and epoch = %s and seq = %s returning seq",
        offset,
        offset,
        row["company_id"],
        row["epoch"],
        row["seq"],
    )
    assert len(changed) == 1


def both_files(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "store.db").read_bytes(), (folder / "creds.json").read_bytes()


def quarantined(deployment: Deployment, company_id: str) -> list[Path]:
    return list((deployment.sessions_dir / "quarantine").glob(f"{company_id}-*"))


def companies_restored(deployment: Deployment) -> list[str]:
    """Return the companies whose snapshot was put in place, in that order."""
    lines = [line for line in deployment.log().splitlines() if RESTORED in line]
    return [json.loads(line)["company_id"] for line in lines]


def rewrite_credentials(deployment: Deployment, company_id: str, **changes: Any) -> None:
    path = deployment.folders.session_path(company_id) / "creds.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def await_newest_is_the_store(
    deployment: Deployment, company_id: str, timeout_seconds: float = 15.0
) -> None:
    """The newest snapshot opens, and holds what the store on disk holds."""
    stack = deployment.stack
    client = make_client(stack.url, stack.service_key, 5.0)
    cipher = EnvelopeCipher(KeyRing.parse(KEY))
    try:
        store = SupabaseSnapshotStore(client)

        def same() -> bool:
            newest = store.list(company_id)[0]
            copy = cipher.open(store.read(company_id, newest.epoch, newest.seq))
            with closing(sqlite3.connect(":memory:")) as db:
                db.text_factory = bytes
                db.deserialize(copy.database[:18] + b"\x01\x01" + copy.database[20:])
                copied = fingerprint_of(db)
            return copied == SqliteStoreCopier(deployment.folders).fingerprint(company_id)

        assert wait_for(same, timeout_seconds), "the newest snapshot is older than the store"
    finally:
        close_client(client)


def receive(deployment: Deployment, jid: str, number: str) -> None:
    """A phone writes; the company's device says that it could read it."""
    begun = deployment.phones.last_event()
    body = {"jid": jid, "from": number, "text": f"from {number}"}
    sent = deployment.phones.call("messages", body)["id"]

    def read() -> bool:
        return any(
            sent in event["ids"] and event["receipt"] != "retry"
            for event in deployment.phones.events(begun, type="receipt")
        )

    assert wait_for(read, 20), deployment.phones.events(begun)


def send(deployment: Deployment, company_id: str, number: str) -> None:
    """The company writes; the phone can read it."""
    text = f"to {number} {uuid.uuid4()}"
    answer = deployment.service.post(
        "messages/send", company_id=company_id, to=f"+{number}", type="text", text=text
    )
    assert answer.status == 200, answer.content

    def read() -> bool:
        return text in [entry["text"] for entry in deployment.phones.call("messages?after=0")]

    assert wait_for(read, 20), f"{number} did not read it"


def assert_exchanges_messages(deployment: Deployment, company_id: str, jid: str) -> None:
    receive(deployment, jid, FRIEND)
    send(deployment, company_id, FRIEND)


def delete(deployment: Deployment, company_id: str) -> None:
    answer = deployment.service.request("DELETE", f"{API}/sessions/{company_id}")
    assert answer.status == 200, answer.content


def assert_only_the_new_pairing_comes_back(
    deployment: Deployment, company_id: str, jid: str
) -> None:
    """With the disk lost the new session comes back; with its snapshots damaged, none does."""
    service = deployment.service
    await_snapshots(deployment, [company_id])
    await_newest_is_the_store(deployment, company_id)
    service.terminate()
    lose_disk(deployment)
    service.start()
    deployment.await_status(company_id, "connected")
    deployment.await_row(company_id, status="connected", jid=jid)
    service.terminate()
    lose_disk(deployment)
    for row in snapshots(deployment, company_id):
        flip_in_database(deployment, row, 0.5)
    service.start()
    deployment.await_status(company_id, "failed", reason="store-corrupt")
