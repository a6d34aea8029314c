"""Networks fail in every way: nobody else waits, and everything comes back by itself."""

import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from deployment import Deployment
from pollster import Pollster

from service_process import wait_for

pytestmark = pytest.mark.e2e


@pytest.fixture
def silent_proxy() -> Iterator[str]:
    """A proxy that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(autouse=True)
def healthy_network(deployment: Deployment) -> Iterator[None]:
    """Leave a network in which the service can end."""
    yield
    deployment.phones.call("black-hole", {"jid": "*", "mode": "off"})
    deployment.phones.call(
        "network", {"refuse": False, "latency_ms": 0, "jitter_ms": 0, "slow_login_ms": 0}
    )


def seconds_of(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["at"]).timestamp()


def timed_send(deployment: Deployment, company_id: str) -> float:
    begun = time.monotonic()
    answer = deployment.service.post(
        "messages/send", company_id=company_id, to="+5511987654321", type="text", text="hello"
    )
    assert answer.status == 200, answer.content
    return time.monotonic() - begun


def timed_restart(deployment: Deployment, company_id: str, jid: str) -> float:
    """Disconnect and connect; return the seconds from the click to the login."""
    deployment.service.post("disconnect", company_id=company_id)
    before = deployment.phones.last_event()
    begun = time.time()
    deployment.service.post("connect", company_id=company_id, method="qr")
    return seconds_of(deployment.phones.await_event(before, type="login", jid=jid)) - begun


@pytest.mark.parametrize("hole", ["login", "dial"])
@pytest.mark.alone
def test_a_black_holed_session_delays_nobody(
    deployment: Deployment, silent_proxy: str, record_property: Any, hole: str
) -> None:
    """Before and after it has been given up; `dial` is the case that cannot be stopped."""
    seeded = deployment.seed(12)
    (lost, lost_jid), *others = seeded.items()
    if hole == "login":
        deployment.phones.call("black-hole", {"jid": lost_jid, "mode": "login"})
    service = deployment.start(
        SESSION_RECOVERY_TIMEOUT="2000",
        SESSION_RECOVERY_RETRY_DELAY="500",
        ENGINE_ABANDONED_GRACE_SECONDS="2",
    )
    if hole == "dial":
        deployment.await_all_connected(list(seeded), 30)
        service.post("disconnect", company_id=lost)
        answer = service.post("connect", company_id=lost, method="qr", proxy=silent_proxy)
        assert answer.status == 202
    deployment.await_all_connected([company_id for company_id, _ in others], 30)
    restarts: list[float] = []
    sends: list[float] = []

    with Pollster(service, list(seeded), per_second=40) as pollster:
        for company_id, jid in others[:6]:
            restarts.append(timed_restart(deployment, company_id, jid))
            deployment.await_status(company_id, "connected")
            sends.append(timed_send(deployment, company_id))
        given_up = deployment.await_row(
            lost, 30, status="connecting", reason="whatsapp-unreachable", user_action="wait"
        )
        for company_id, jid in others[6:]:
            restarts.append(timed_restart(deployment, company_id, jid))
            deployment.await_status(company_id, "connected")
            sends.append(timed_send(deployment, company_id))

    pollster.assert_all_answered()
    record_property("slowest_start_seconds", max(restarts))
    record_property("slowest_send_seconds", max(sends))
    record_property("slowest_poll_seconds", pollster.slowest_seconds())
    assert max(restarts) < 3, [round(item, 2) for item in restarts]
    assert max(sends) < 2, [round(item, 2) for item in sends]
    assert pollster.slowest_seconds() < 1
    assert given_up["retry_at"] is not None
    seen = {(poll.status, poll.reason) for poll in pollster.polls if poll.company_id == lost}
    assert {status for status, _ in seen} == {"connecting"}
    assert not deployment.engine_deaths()
    for _, jid in others:
        assert deployment.phones.counters(jid)["max_simultaneous"] == 1


def test_a_black_holed_session_comes_back_when_the_hole_closes(deployment: Deployment) -> None:
    ((company_id, jid),) = deployment.seed(1).items()
    deployment.phones.call("black-hole", {"jid": jid, "mode": "login"})
    deployment.start(
        SESSION_RECOVERY_TIMEOUT="1000",
        SESSION_RECOVERY_RETRY_DELAY="200",
        ENGINE_ABANDONED_GRACE_SECONDS="1",
    )
    deployment.await_row(company_id, 30, status="connecting", reason="whatsapp-unreachable")
    deployment.phones.call("black-hole", {"jid": jid, "mode": "off"})
    deployment.await_row(company_id, 40, status="connected")
    assert deployment.phones.counters(jid)["max_simultaneous"] == 1


def test_whatsapp_unreachable_at_boot_is_waited_for(
    deployment: Deployment, record_property: Any
) -> None:
    outage_seconds, longest_pause_seconds = 20.0, 4.0
    seeded = deployment.seed(10)
    companies, jids = list(seeded), list(seeded.values())
    deployment.phones.call("network", {"refuse": True})
    begun = deployment.phones.last_event()
    outage_ends = time.monotonic() + outage_seconds
    service = deployment.start(
        SESSION_RECOVERY_RETRY_DELAY="250",
        SESSION_BACKOFF_MAX_SECONDS=str(longest_pause_seconds),
        SESSION_RECOVERY_MAX_RETRIES="1",  # being unreachable spends none of it
    )
    pauses: set[int] = set()

    def outage_is_over() -> bool:
        for row in deployment.rows(
            "select retry_at, last_event_at from public.whatsapp_connections "
            "where reason = 'whatsapp-unreachable' and retry_at is not null"
        ):
            pauses.add(round(4 * (row["retry_at"] - row["last_event_at"]).total_seconds()))
        return time.monotonic() >= outage_ends

    with Pollster(service, companies, per_second=10) as pollster:
        assert wait_for(outage_is_over, 30, 0.25)
    for company_id in companies:
        shown = service.status(company_id)
        assert (shown["status"], shown["user_action"]) == ("connecting", "wait")
    pollster.assert_all_answered()
    assert {poll.status for poll in pollster.polls} == {"connecting"}
    assert {poll.reason for poll in pollster.polls} <= {"restoring", "whatsapp-unreachable"}
    assert len(pauses) >= 4, f"backoff does not grow: {sorted(pauses)} quarters of a second"
    assert max(pauses) <= 4 * longest_pause_seconds
    dials = len(deployment.phones.events(begun, type="connection-refused"))
    record_property("dials_per_session", dials / len(jids))
    assert dials <= len(jids) * 12, f"{dials} dials in {outage_seconds} s"

    deployment.phones.call("network", {"refuse": False})
    open_again = time.time()
    back = wait_for(lambda: len(deployment.phones.events(begun, type="login")) >= len(jids), 30)
    logins = deployment.phones.events(begun, type="login")
    assert back, f"{len(logins)} of {len(jids)} came back"
    seconds = max(map(seconds_of, logins)) - open_again
    record_property("all_back_seconds", seconds)
    assert seconds <= longest_pause_seconds + 3
    for company_id in companies:
        row = deployment.await_row(company_id, status="connected")
        assert row["retry_at"] is None
    assert not deployment.engine_deaths()


def test_all_lines_cut_at_once_come_back_by_themselves(
    deployment: Deployment, record_property: Any
) -> None:
    seeded = deployment.seed(20)
    companies, jids = list(seeded), list(seeded.values())
    service = deployment.start()
    deployment.await_all_connected(companies, 30)
    engines = service.engine_pids()
    before = deployment.phones.last_event()

    with Pollster(service, companies, per_second=40) as pollster:
        cut_at = time.time()
        deployment.phones.call("cut", {"jid": "*"})
        back = wait_for(
            lambda: len(deployment.phones.events(before, type="login")) >= len(jids), 30
        )
    logins = deployment.phones.events(before, type="login")
    assert back, f"{len(logins)} of {len(jids)} came back"
    seconds = max(map(seconds_of, logins)) - cut_at
    record_property("all_back_seconds", seconds)
    assert seconds <= 10
    pollster.assert_all_answered()
    for company_id, jid in seeded.items():
        deployment.await_row(company_id, status="connected", reason="online")
        statuses = [(item["to_status"], item["reason"]) for item in deployment.history(company_id)]
        assert ("connecting", "network-lost") in statuses
        counters = deployment.phones.counters(jid)
        assert (counters["logins"], counters["max_simultaneous"]) == (2, 1)
    assert service.engine_pids() == engines
    assert not deployment.engine_deaths()


def test_an_outage_longer_than_the_patience_rebuilds_with_backoff(deployment: Deployment) -> None:
    """Whatsmeow reconnects for a while; past the deadline the client is built anew."""
    seeded = deployment.seed(3)
    companies = list(seeded)
    deployment.start(
        SESSION_RECONNECT_TIMEOUT_SECONDS="2",
        SESSION_RECOVERY_RETRY_DELAY="250",
        SESSION_BACKOFF_MAX_SECONDS="1",
        ENGINE_ABANDONED_GRACE_SECONDS="2",
    )
    deployment.await_all_connected(companies, 30)
    deployment.phones.call("network", {"refuse": True})
    deployment.phones.call("cut", {"jid": "*"})
    for company_id in companies:
        lost = deployment.await_row(company_id, status="connecting", reason="network-lost")
        assert lost["status_deadline_at"] is not None
    for company_id in companies:
        row = deployment.await_row(
            company_id, 20, status="connecting", reason="whatsapp-unreachable"
        )
        assert row["user_action"] == "wait"
    deployment.phones.call("network", {"refuse": False})
    for company_id in companies:
        deployment.await_row(company_id, 30, status="connected")
    for jid in seeded.values():
        assert deployment.phones.counters(jid)["max_simultaneous"] == 1
    assert not deployment.engine_deaths()


@pytest.mark.alone
def test_two_seconds_of_latency_only_cost_time(
    deployment: Deployment, record_property: Any
) -> None:
    seeded = deployment.seed(10)
    companies, jids = list(seeded), list(seeded.values())
    deployment.phones.call("network", {"latency_ms": 2000})
    begun = time.monotonic()
    service = deployment.start()
    with Pollster(service, companies, per_second=20) as pollster:
        deployment.await_all_connected(companies, 40)
        record_property("ten_connected_seconds", time.monotonic() - begun)
        record_property("send_seconds", timed_send(deployment, companies[0]))
    pollster.assert_all_answered()
    record_property("slowest_poll_seconds", pollster.slowest_seconds())
    assert pollster.slowest_seconds() < 1
    for jid in jids:
        counters = deployment.phones.counters(jid)
        assert (counters["logins"], counters["failures"]) == (1, 0)
    assert not deployment.engine_deaths()


def test_a_frozen_link_is_found_by_the_keepalive_and_rebuilt(
    deployment: Deployment, record_property: Any
) -> None:
    seeded = deployment.seed(4)
    (frozen, jid), *others = seeded.items()
    deployment.start(KEEPALIVE_INTERVAL_SECONDS="1", KEEPALIVE_PROBE_TIMEOUT_SECONDS="1")
    deployment.await_all_connected(list(seeded), 30)
    before = deployment.phones.last_event()
    frozen_at = time.time()
    deployment.phones.call("black-hole", {"jid": jid, "mode": "link"})

    deployment.await_row(frozen, 20, status="connecting", reason="network-lost")
    login = deployment.phones.await_event(before, 30, type="login", jid=jid)
    record_property("rebuilt_seconds", seconds_of(login) - frozen_at)
    deployment.await_row(frozen, 20, status="connected")
    assert seconds_of(login) - frozen_at <= 12, "interval 1 s, probe 1 s, stop on a frozen link 5 s"
    assert deployment.phones.counters(jid)["logins"] == 2
    for company_id, other in others:
        assert deployment.phones.counters(other)["logins"] == 1
        assert deployment.service.status(company_id)["status"] == "connected"


def test_a_reconnect_that_failed_in_silence_is_found_by_the_keepalive(
    deployment: Deployment,
) -> None:
    """After 515 whatsmeow dials once and only logs it when that fails: no event comes."""
    ((company_id, jid),) = deployment.seed(1).items()
    deployment.start(
        KEEPALIVE_INTERVAL_SECONDS="1",
        KEEPALIVE_PROBE_TIMEOUT_SECONDS="1",
        SESSION_RECOVERY_RETRY_DELAY="250",
        SESSION_BACKOFF_MAX_SECONDS="1",
        ENGINE_ABANDONED_GRACE_SECONDS="2",
    )
    deployment.await_row(company_id, 20, status="connected")
    before = deployment.phones.last_event()
    deployment.phones.call("network", {"refuse": True})
    deployment.phones.call("stream-error", {"jid": jid, "code": 515})
    deployment.phones.await_event(before, type="connection-refused")
    deployment.await_row(company_id, 20, status="connecting")
    deployment.phones.call("network", {"refuse": False})
    deployment.await_row(company_id, 30, status="connected")
    assert deployment.phones.counters(jid)["max_simultaneous"] == 1


@pytest.mark.alone
def test_a_frozen_link_does_not_hold_up_sends_of_others(
    deployment: Deployment, record_property: Any
) -> None:
    seeded = deployment.seed(4)
    (frozen, jid), *others = seeded.items()
    deployment.start(SEND_ACK_WAIT_SECONDS="3")
    deployment.await_all_connected(list(seeded), 30)
    deployment.phones.call("black-hole", {"jid": jid, "mode": "link"})
    answers: list[tuple[int, str, float]] = []

    def send_on_frozen() -> None:
        begun = time.monotonic()
        answer = deployment.service.post(
            "messages/send", company_id=frozen, to="+5511987654321", type="text", text="lost"
        )
        code = answer.json().get("error", {}).get("code", "")
        answers.append((answer.status, code, time.monotonic() - begun))

    waiting = [threading.Thread(target=send_on_frozen) for _ in range(4)]
    for thread in waiting:
        thread.start()
    sends = [timed_send(deployment, company_id) for company_id, _ in others for _ in range(5)]
    for thread in waiting:
        thread.join()
    record_property("slowest_other_send_seconds", max(sends))
    record_property("send_on_frozen_link_seconds", max(seconds for _, _, seconds in answers))
    assert max(sends) < 2, sends
    for status, code, seconds in answers:
        assert (status, code) == (503, "send-unconfirmed"), answers
        assert seconds < 6, answers
