"""Status polls: many at once start one restore; where something is decided they only report."""

import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from deployment import Deployment
from pollster import Pollster

from service_process import API, Answer, wait_for

pytestmark = pytest.mark.e2e

RESTORING = "Restoring connection from saved session..."
NEVER_CONNECTED = 'Not connected. Click "Connect WhatsApp" to start.'


def all_at_once(count: int, call: Callable[[], Answer]) -> list[tuple[Answer, float]]:
    """Make the call on so many threads that start together; return answers and seconds."""
    together = threading.Barrier(count)

    def one() -> tuple[Answer, float]:
        together.wait()
        begun = time.monotonic()
        answer = call()
        return answer, time.monotonic() - begun

    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(one) for _ in range(count)]]


def poll(deployment: Deployment, company_id: str) -> Callable[[], Answer]:
    path = f"{API}/status?company_id={company_id}"
    return lambda: deployment.service.request("GET", path)


def restores_by_poll(deployment: Deployment, company_id: str) -> int:
    return sum(item["event"] == "PollArrived" for item in deployment.history(company_id))


def test_fifty_polls_at_once_of_a_cold_company_start_one_restore(
    deployment: Deployment, record_property: Any
) -> None:
    ((company_id, jid),) = deployment.seed(1).items()
    begun = deployment.phones.last_event()
    deployment.phones.call("black-hole", {"jid": jid, "mode": "login"})
    deployment.start(SESSION_RECOVERY_ENABLED="false")

    answers = all_at_once(50, poll(deployment, company_id))

    # WhatsApp has not answered yet: nobody waited for it.
    for answer, _ in answers:
        body = answer.json()
        assert (answer.status, body["status"], body["message"]) == (200, "connecting", RESTORING)
    slowest = max(seconds for _, seconds in answers)
    record_property("slowest_of_50_polls_seconds", slowest)
    assert slowest < 5, f"the slowest of 50 polls took {slowest:.2f} s"

    deployment.phones.call("black-hole", {"jid": jid, "mode": "off"})
    deployment.await_status(company_id, "connected")
    for answer, _ in all_at_once(50, poll(deployment, company_id)):
        assert answer.json()["status"] == "connected"
    counters = deployment.phones.counters(jid)
    assert (counters["logins"], counters["failures"]) == (1, 0)
    assert counters["max_simultaneous"] == 1
    assert len(deployment.phones.events(begun, type="connection", phase="handshake")) == 1
    deployment.await_row(company_id, status="connected")
    assert restores_by_poll(deployment, company_id) == 1


def test_polls_of_a_company_without_anything_saved_only_say_so(deployment: Deployment) -> None:
    begun = deployment.phones.last_event()
    deployment.start()
    company_id = str(uuid.uuid4())

    for answer, _ in all_at_once(20, poll(deployment, company_id)):
        body = answer.json()
        assert (body["status"], body["message"]) == ("disconnected", NEVER_CONNECTED)
        assert body["user_action"] == "connect"

    assert deployment.row(company_id) is None
    assert not deployment.folders.session_path(company_id).exists()
    assert not deployment.phones.events(begun, type="connection")


def test_polls_only_report_where_something_is_decided(deployment: Deployment) -> None:
    """failed, banned, logged_out, client-outdated, backoff, disconnected; a folder left or not."""
    failed, banned, out, outdated, backing_off, stopped, control = deployment.seed(7).items()
    decided = [failed, banned, out, outdated, backing_off, stopped]
    phones = deployment.phones
    phones.fail_logins(banned[1], 402, code=101, expire=3600)
    phones.fail_logins(out[1], 401)
    phones.fail_logins(outdated[1], 405)
    phones.fail_logins(backing_off[1], 400)
    phones.fail_logins(failed[1], 413)
    phones.fail_logins(control[1], 405)
    deployment.start(SESSION_RECOVERY_RETRY_DELAY="600000", SESSION_BACKOFF_MAX_SECONDS="600")
    # Two answers of the kind that end an engine: this one fails for good and not by its budget.
    deployment.await_status(failed[0], "failed", 60, reason="engine-crash")
    deployment.await_status(banned[0], "banned", reason="temporary-ban")
    deployment.await_status(out[0], "logged_out", reason="logged-out-by-server")
    deployment.await_status(outdated[0], "failed", reason="client-outdated")
    waiting = deployment.await_status(backing_off[0], "connecting", reason="connect-failure")
    assert datetime.fromisoformat(waiting["retry_at"]) > datetime.now(UTC)
    deployment.await_status(control[0], "failed", reason="client-outdated")
    deployment.await_status(stopped[0], "connected", timeout_seconds=30)
    assert deployment.service.post("disconnect", company_id=stopped[0]).status == 200
    assert wait_for(lambda: not deployment.phones.open_connections(), 20)
    before = {company_id: deployment.service.status(company_id) for company_id, _ in decided}
    assert before[stopped[0]]["status"] == "disconnected"
    assert before[stopped[0]]["reason"] == "stopped"
    after_all = phones.last_event()

    for company_id, _ in decided:
        for answer, _ in all_at_once(8, poll(deployment, company_id)):
            assert answer.json() == before[company_id]

    # Whatever the polls had ordered would be under way before what is ordered now.
    phones.fail_logins(control[1], 405, count=0)
    assert deployment.service.post("restore", company_id=control[0]).status == 202
    deployment.await_status(control[0], "connected")
    for company_id, jid in decided:
        new = phones.events(after_all, jid=jid)
        assert not new, f"{before[company_id]['reason']}: {new}"
        saved = deployment.folders.has_credentials(company_id)
        assert saved is (company_id != out[0]), before[company_id]["reason"]


def test_a_failed_session_is_tried_by_polls_once_an_interval(deployment: Deployment) -> None:
    interval_seconds = 1.5
    ((company_id, jid),) = deployment.seed(1).items()
    deployment.phones.fail_logins(jid, 400)
    begun = deployment.phones.last_event()
    deployment.start(
        SESSION_RECOVERY_MAX_RETRIES="0",
        SESSION_FAILED_POLL_INTERVAL_SECONDS=str(interval_seconds),
    )
    deployment.await_status(company_id, "failed", reason="connect-failure")

    with Pollster(deployment.service, [company_id], per_second=40) as pollster:
        assert wait_for(lambda: deployment.phones.counters(jid)["failures"] >= 4, 30)
    pollster.assert_all_answered()

    tried_at = [
        datetime.fromisoformat(event["at"]).timestamp()
        for event in deployment.phones.events(begun, type="login-failed", jid=jid)
    ]
    gaps = [later - earlier for earlier, later in pairwise(tried_at)]
    assert min(gaps) >= interval_seconds, gaps

    deployment.phones.fail_logins(jid, 400, count=0)
    deployment.await_status(company_id, "connected")


def test_polls_do_not_disturb_a_pairing(deployment: Deployment) -> None:
    deployment.start()
    company_id = str(uuid.uuid4())
    deployment.service.post("connect", company_id=company_id, method="qr")
    shown = deployment.qr(company_id)

    for answer, _ in all_at_once(20, poll(deployment, company_id)):
        assert answer.json()["status"] == "awaiting_scan"

    assert deployment.qr(company_id) == shown
    deployment.phones.scan(shown)
    deployment.await_status(company_id, "connected")


def test_a_stop_written_into_the_table_is_not_undone_by_polls(deployment: Deployment) -> None:
    """Polls restore only what should run; who may say so includes the CRM's own SQL."""
    ((company_id, jid),) = deployment.seed(1).items()
    deployment.start(SYNC_INTERVAL_SECONDS="0.5")
    deployment.await_row(company_id, 20, status="connected")
    deployment.rows(
        "update public.whatsapp_connections set desired_state = 'stop' "
        "where company_id = %s returning company_id",
        company_id,
    )
    deployment.await_row(company_id, 20, status="disconnected", reason="stopped")
    for answer, _ in all_at_once(10, poll(deployment, company_id)):
        assert answer.json()["reason"] == "stopped"
    assert deployment.row(company_id) is not None
    assert deployment.phones.counters(jid)["logins"] == 1


@pytest.mark.parametrize(
    "clicks",
    [
        ("disconnect", "connect"),
        ("disconnect", "restore"),
    ],
)
def test_clicks_in_quick_succession_never_cost_a_saved_session(
    deployment: Deployment, clicks: tuple[str, str]
) -> None:
    """The company's row is not known here, and its first dial cannot be stopped at once."""
    ((company_id, jid),) = deployment.seed(1).items()
    deployment.phones.call("black-hole", {"jid": "*", "mode": "login"})
    service = deployment.start(SESSION_RECOVERY_ENABLED="false")
    begun = deployment.phones.last_event()
    service.post("connect", company_id=company_id, method="qr")
    deployment.phones.await_event(begun, type="connection", phase="black-hole")
    for call in clicks:
        more = {"method": "qr"} if call == "connect" else {}
        answer = service.post(call, company_id=company_id, **more)
        assert answer.status in (200, 202), answer.content
        assert answer.json()["reason"] in ("restoring", "stopped"), answer.json()
    deployment.phones.call("black-hole", {"jid": "*", "mode": "off"})

    deployment.await_status(company_id, "connected")
    assert not (deployment.sessions_dir / "quarantine").exists()
    assert deployment.phones.counters(jid)["pairings"] == 0
    assert deployment.phones.counters(jid)["max_simultaneous"] == 1
