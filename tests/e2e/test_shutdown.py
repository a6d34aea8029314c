"""The service ends in time, whatever hangs, and leaves every store whole and no process behind."""

import http.client
import os
import signal
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from deployment import Deployment

from local_supabase import LocalSupabase
from service_process import API, Answer, ServiceProcess, is_alive, kill_all, wait_for

pytestmark = pytest.mark.e2e

GRACE_SECONDS = 6.0
GRACE = {"GRACEFUL_SHUTDOWN_TIMEOUT": f"{GRACE_SECONDS * 1000:.0f}"}


def test_sigterm_ends_all_and_the_next_start_finds_all(deployment: Deployment) -> None:
    companies = deployment.seed(3)
    service = deployment.start(**GRACE)
    deployment.await_all_connected(list(companies))
    with closing(idle_connection(service)):
        took = assert_ends_in_time(service, terminate)
    assert took < 3, f"nothing hung, and yet it took {took:.1f} s"
    assert_stores_are_whole(deployment, list(companies))
    for company_id in companies:
        row = deployment.row(company_id)
        assert row is not None
        assert (row["status"], row["reason"]) == ("disconnected", "service-stopped")
        assert row["desired_state"] == "run"
    assert "3 of 3 sessions preserved cleanly" in deployment.log()
    assert leases_held(deployment) == 0

    service.start()
    deployment.await_all_connected(list(companies))
    for jid in companies.values():
        assert deployment.phones.counters(jid)["max_simultaneous"] == 1


def interrupt(pid: int) -> None:
    """As `kill -INT` does."""
    os.kill(pid, signal.SIGINT)


def interrupt_group(pid: int) -> None:
    """As Ctrl+C in a terminal does: every process of the group gets it."""
    os.killpg(pid, signal.SIGINT)


def terminate_group(pid: int) -> None:
    """As systemd does: every process of the unit gets it."""
    os.killpg(pid, signal.SIGTERM)


def terminate_twice(pid: int) -> None:
    """As somebody impatient does."""
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGTERM)


@pytest.mark.parametrize(
    "signal_it", [interrupt, interrupt_group, terminate_group, terminate_twice]
)
def test_every_way_of_asking_ends_all_cleanly(
    deployment: Deployment, signal_it: Callable[[int], None]
) -> None:
    companies = deployment.seed(2)
    service = deployment.start(**GRACE)
    deployment.await_all_connected(list(companies))

    assert_ends_in_time(service, signal_it)

    assert_stores_are_whole(deployment, list(companies))
    assert "2 of 2 sessions preserved cleanly" in deployment.log()


def test_sigterm_during_a_pairing(deployment: Deployment) -> None:
    service = deployment.start(**GRACE)
    unscanned, agreed = str(uuid.uuid4()), str(uuid.uuid4())
    service.post("connect", company_id=unscanned, method="qr")
    deployment.qr(unscanned)
    deployment.phones.call("network", {"slow_login_ms": 60_000})
    service.post("connect", company_id=agreed, method="qr")
    jid = deployment.phones.scan(deployment.qr(agreed))
    deployment.await_status(agreed, "connecting", reason="finishing-pairing")

    assert_ends_in_time(service, terminate)

    assert_stores_are_whole(deployment, [agreed])
    deployment.await_row(unscanned, status="disconnected", reason="pairing-expired")
    deployment.phones.call("network", {"slow_login_ms": 0})
    service.start()
    assert service.status(unscanned)["reason"] == "pairing-expired"
    deployment.await_status(agreed, "connected")
    assert deployment.phones.counters(jid)["pairings"] == 1


def test_sigterm_with_a_frozen_link(deployment: Deployment) -> None:
    companies = deployment.seed(3)
    service = deployment.start(**GRACE)
    deployment.await_all_connected(list(companies))
    frozen = next(iter(companies))
    deployment.phones.call("black-hole", {"jid": companies[frozen], "mode": "link"})

    assert_ends_in_time(service, terminate)

    assert_stores_are_whole(deployment, list(companies))
    deployment.phones.call("black-hole", {"jid": companies[frozen], "mode": "off"})
    service.start()
    deployment.await_all_connected(list(companies))


def test_sigterm_with_a_hanging_send(deployment: Deployment) -> None:
    companies = deployment.seed(2)
    service = deployment.start(**GRACE)
    deployment.await_all_connected(list(companies))
    sender = next(iter(companies))
    number = deployment.phones.call("phones", {})["number"]
    deployment.phones.call("network", {"drop_acks": True})
    seen = deployment.phones.last_event()
    answers: list[Answer | OSError | http.client.HTTPException] = []
    sending = threading.Thread(target=send_into, args=(service, sender, number, answers))
    sending.start()
    deployment.phones.await_event(seen, type="ack-dropped", jid=companies[sender])

    assert_ends_in_time(service, terminate)

    sending.join(10)
    assert not sending.is_alive(), "the caller was left without an answer"
    if isinstance(answers[0], Answer):
        assert answers[0].status != 200, "an unconfirmed send must not be reported as sent"
    assert_stores_are_whole(deployment, list(companies))


def test_sigterm_with_a_frozen_database(deployment: Deployment, stack: LocalSupabase) -> None:
    companies = deployment.seed(2)
    service = deployment.start(**GRACE)
    deployment.await_all_connected(list(companies))
    for company_id in companies:
        deployment.await_row(company_id, status="connected")
    stack.freeze_postgrest()
    try:
        assert_ends_in_time(service, terminate)
    finally:
        stack.thaw_postgrest()
    assert_stores_are_whole(deployment, list(companies))

    service.start()
    deployment.await_all_connected(list(companies))
    for company_id in companies:
        deployment.await_row(company_id, status="connected")
        reasons = [entry["reason"] for entry in deployment.history(company_id)]
        assert reasons.count("service-stopped") == 1, reasons


def test_sigterm_while_sessions_are_starting(deployment: Deployment) -> None:
    companies = deployment.seed(5)
    deployment.phones.call("black-hole", {"jid": "*", "mode": "login"})
    service = deployment.start(**GRACE)
    for company_id in companies:
        assert service.status(company_id)["status"] == "connecting"

    assert_ends_in_time(service, terminate)

    assert_stores_are_whole(deployment, list(companies))


@pytest.mark.alone
def test_sigterm_during_the_boot(deployment: Deployment) -> None:
    companies = deployment.seed(2)
    service = deployment.new_service(**GRACE)
    service.spawn()
    assert wait_for(lambda: "Booting worker" in deployment.log(), 20)

    assert_ends_in_time(service, terminate)

    service.start()
    deployment.await_all_connected(list(companies))
    for jid in companies.values():
        assert deployment.phones.counters(jid)["max_simultaneous"] == 1


def assert_ends_in_time(service: ServiceProcess, signal_it: Callable[[int], None]) -> float:
    """Signal it and wait for the end of the whole tree; return how many seconds that took."""
    assert service.process is not None
    tree = service.processes()
    begun = time.monotonic()
    signal_it(service.process.pid)
    try:
        service.process.wait(GRACE_SECONDS + 20)
        took = time.monotonic() - begun
        left = [pid for pid in {*tree, *service.survivors()} if is_alive(pid)]
    finally:
        kill_all([pid for pid in tree if is_alive(pid)])
    assert took <= GRACE_SECONDS, f"it took {took:.2f} s"
    assert not left, f"processes {left} of {tree} outlived the service"
    assert service.process.returncode == 0
    return took


def terminate(pid: int) -> None:
    """As an orchestrator does."""
    os.kill(pid, signal.SIGTERM)


def idle_connection(service: ServiceProcess) -> http.client.HTTPConnection:
    """Open a connection, use it once and keep it, as every HTTP client with a pool does."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    connection.request("GET", "/healthz")
    connection.getresponse().read()
    return connection


def send_into(
    service: ServiceProcess,
    company_id: str,
    number: str,
    answers: list[Answer | OSError | http.client.HTTPException],
) -> None:
    """Send a text and keep what came of it."""
    body = {"company_id": company_id, "to": f"+{number}", "type": "text", "text": "hello"}
    try:
        answers.append(service.request("POST", f"{API}/messages/send", body))
    except (OSError, http.client.HTTPException) as error:
        answers.append(error)


def assert_stores_are_whole(deployment: Deployment, companies: list[str]) -> None:
    """Nothing waits in a journal beside a store, and SQLite finds no fault in any."""
    stores = [deployment.folders.store_path(company_id) for company_id in companies]
    for path in [*stores, deployment.sessions_dir / "state.db"]:
        for suffix in ("-journal", "-wal"):
            beside = path.with_name(path.name + suffix)
            assert not beside.exists() or beside.stat().st_size == 0, f"{beside} has content"
        assert quick_check(path) == "ok"


def quick_check(path: Path) -> str:
    """Return SQLite's verdict, without changing anything."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as database:
        return str(database.execute("pragma quick_check").fetchone()[0])


def leases_held(deployment: Deployment) -> int:
    """Return how many leases have not been released."""
    sql = "select count(*) as n from public.whatsapp_leases where expires_at > now()"
    return int(deployment.rows(sql)[0]["n"])


def test_a_second_signal_hurries(deployment: Deployment) -> None:
    companies = deployment.seed(2)
    service = deployment.start(GRACEFUL_SHUTDOWN_TIMEOUT="60000")
    deployment.await_all_connected(list(companies))
    for jid in companies.values():
        deployment.phones.call("black-hole", {"jid": jid, "mode": "link"})
    worker = service.worker_pid()
    tree = service.processes()
    os.kill(worker, signal.SIGTERM)
    assert wait_for(lambda: "service-stopped" in deployment.log(), 10)
    first = time.monotonic()
    assert wait_for(lambda: time.monotonic() - first > 0.6, 5)

    os.kill(worker, signal.SIGTERM)

    assert wait_for(lambda: not is_alive(worker), 4), "the worker went on waiting"
    assert "a second signal" in deployment.log()
    service.kill()
    assert wait_for(lambda: not any(map(is_alive, tree)), 10)
    deployment.phones.call("black-hole", {"jid": "*", "mode": "off"})
    service.start()
    deployment.await_all_connected(list(companies))
    for jid in companies.values():
        assert deployment.phones.counters(jid)["pairings"] == 0
