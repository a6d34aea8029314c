"""The database goes away, in every way: sessions run on, and afterwards the rows are right."""

import itertools
import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from deployment import Deployment

from local_supabase import LocalSupabase
from service_process import API, wait_for

pytestmark = pytest.mark.e2e

FAST_SECONDS = 1.0
"""Far below DATABASE_TIMEOUT_SECONDS, far above what a loaded machine needs for an answer."""

QUICK_RETURN = {"DATABASE_RETRY_MAX_SECONDS": "0.5", "DATABASE_TIMEOUT_SECONDS": "3"}


@pytest.fixture(autouse=True)
def database_returns(stack: LocalSupabase) -> Iterator[None]:
    """Leave a working database to the next test."""
    yield
    if stack.running()["postgrest"] is None:
        stack.start_postgrest()
    stack.thaw_postgrest()


def test_an_outage_over_two_starts_stops_no_session_and_forgets_nothing(
    deployment: Deployment, stack: LocalSupabase
) -> None:
    companies = deployment.seed(3)
    stopped, cut, steady = companies
    stack.stop_postgrest(kill=True)
    service = deployment.start(**QUICK_RETURN)
    deployment.await_all_connected(list(companies))
    assert service.request("GET", "/readyz").json()["degraded"] is True

    assert service.post("disconnect", company_id=stopped).status == 200
    seen = deployment.phones.last_event()
    deployment.phones.call("cut", {"jid": companies[cut]})
    deployment.phones.await_event(seen, type="login", jid=companies[cut])
    deployment.await_status(cut, "connected")
    assert_polls_are_fast(deployment, list(companies))
    logins = deployment.phones.counters(companies[stopped])["logins"]

    service.kill()
    service.spawn()
    assert deployment.first_poll(stopped)["status"] == "disconnected"
    for company_id in (cut, steady):
        deployment.await_status(company_id, "connected")
    assert service.status(stopped)["reason"] == "stopped"
    assert deployment.phones.counters(companies[stopped])["logins"] == logins

    stack.start_postgrest()
    for company_id, jid in companies.items():
        assert_rows_tell_the_truth(deployment, company_id)
        assert deployment.phones.counters(jid)["max_simultaneous"] == 1
    row = deployment.row(stopped)
    assert row is not None
    assert (row["status"], row["desired_state"]) == ("disconnected", "stop")


def test_a_database_that_goes_away_in_mid_run_delays_rows_only(
    deployment: Deployment, stack: LocalSupabase
) -> None:
    companies = deployment.seed(2)
    service = deployment.start(**QUICK_RETURN)
    deployment.await_all_connected(list(companies))
    first, second = companies
    deployment.await_row(first, status="connected")

    stack.stop_postgrest()
    seen = deployment.phones.last_event()
    deployment.phones.call("cut", {"jid": companies[first]})
    deployment.phones.await_event(seen, type="login", jid=companies[first])
    deployment.await_status(first, "connected")
    paired = str(uuid.uuid4())
    jid = deployment.pair(paired)
    assert service.post("disconnect", company_id=second).status == 200
    assert_polls_are_fast(deployment, [first, second, paired])
    row = deployment.row(second)
    assert row is not None
    assert row["desired_state"] == "run"

    stack.start_postgrest()
    for company_id in (first, second, paired):
        assert_rows_tell_the_truth(deployment, company_id)
    deployment.await_row(paired, status="connected", jid=jid, desired_state="run")
    deployment.await_row(second, status="disconnected", desired_state="stop")


def test_a_frozen_database_holds_up_neither_polls_nor_requests(
    deployment: Deployment, stack: LocalSupabase
) -> None:
    companies = deployment.seed(6)
    deployment.start(**QUICK_RETURN)
    deployment.await_all_connected(list(companies))
    *ended, kept = companies

    stack.freeze_postgrest()
    try:
        for company_id in ended:
            assert timed_post(deployment, "disconnect", company_id) < FAST_SECONDS
        for company_id in ended:
            deployment.await_status(company_id, "disconnected")
        for company_id in ended:
            assert timed_post(deployment, "connect", company_id, method="qr") < FAST_SECONDS
        assert timed_post(deployment, "disconnect", kept) < FAST_SECONDS
        assert_polls_are_fast(deployment, list(companies))
        for company_id in ended:
            deployment.await_status(company_id, "connected")
    finally:
        stack.thaw_postgrest()

    for company_id, jid in companies.items():
        assert_rows_tell_the_truth(deployment, company_id)
        assert deployment.phones.counters(jid)["max_simultaneous"] == 1


def test_a_frozen_database_at_boot_holds_up_no_restore(
    deployment: Deployment, stack: LocalSupabase
) -> None:
    companies = deployment.seed(3)
    service = deployment.start(**QUICK_RETURN)
    deployment.await_all_connected(list(companies))
    service.kill()
    stack.freeze_postgrest()
    try:
        service.start()
        begun = time.monotonic()
        assert_polls_are_fast(deployment, list(companies))
        deployment.await_all_connected(list(companies))
        took = time.monotonic() - begun
    finally:
        stack.thaw_postgrest()

    assert took < 6, f"restored after {took:.1f} s; one database call may take 3 s"
    for company_id in companies:
        assert_rows_tell_the_truth(deployment, company_id)


def test_a_deletion_during_the_outage_stays_one_over_a_restart(
    deployment: Deployment, stack: LocalSupabase
) -> None:
    (company_id,) = deployment.seed(1)
    service = deployment.start(**QUICK_RETURN)
    deployment.await_status(company_id, "connected")
    deployment.await_row(company_id, status="connected")

    stack.stop_postgrest()
    assert service.request("DELETE", f"{API}/sessions/{company_id}").status == 200
    deployment.await_status(company_id, "disconnected", reason="never-connected")
    service.kill()
    service.start()
    assert service.status(company_id)["reason"] == "never-connected"
    stack.start_postgrest()

    assert wait_for(lambda: deployment.row(company_id) is None, 10), deployment.row(company_id)
    service.kill()
    service.start()
    assert wait_for(lambda: synced(deployment) >= 2, 10)
    assert deployment.row(company_id) is None
    assert service.status(company_id)["reason"] == "never-connected"


def synced(deployment: Deployment) -> int:
    """Return how many comparisons of rows and runtime the services have logged."""
    return deployment.log().count("Session sync complete")


def assert_polls_are_fast(deployment: Deployment, companies: list[str]) -> None:
    """Poll each company ten times; the slowest answer counts."""
    slowest = 0.0
    for company_id in companies * 10:
        begun = time.monotonic()
        deployment.service.status(company_id)
        slowest = max(slowest, time.monotonic() - begun)
    assert slowest < FAST_SECONDS, f"a poll took {slowest:.2f} s"


def timed_post(deployment: Deployment, call: str, company_id: str, **body: Any) -> float:
    """Make the call, which has to succeed; return how many seconds the answer took."""
    begun = time.monotonic()
    answer = deployment.service.post(call, company_id=company_id, **body)
    took = time.monotonic() - begun
    assert answer.status in (200, 202), f"{call}: {answer.status} {answer.content!r} {took:.1f} s"
    return took


def assert_rows_tell_the_truth(deployment: Deployment, company_id: str) -> None:
    """The row is the runtime, and the history every change the service has logged, once."""
    runtime = deployment.service.status(company_id)
    deployment.await_row(company_id, status=runtime["status"], reason=runtime["reason"])
    assert wait_for(
        lambda: changes_recorded(deployment, company_id) == changes_logged(deployment, company_id),
        10,
    ), (changes_recorded(deployment, company_id), changes_logged(deployment, company_id))
    history = deployment.history(company_id)
    versions = [entry["version"] for entry in history]
    assert versions == sorted(set(versions))
    deployment.await_row(company_id, version=versions[-1])
    for before, entry in itertools.pairwise(history):
        assert entry["from_status"] == before["to_status"], (before, entry)


def changes_recorded(deployment: Deployment, company_id: str) -> list[tuple[str, str]]:
    """Return the (status, reason) pairs of the history, repetitions left out."""
    words = [(item["to_status"], item["reason"]) for item in deployment.history(company_id)]
    return [word for index, word in enumerate(words) if index == 0 or words[index - 1] != word]


def changes_logged(deployment: Deployment, company_id: str) -> list[tuple[str, str]]:
    """Return the same from the service's log."""
    found = []
    for line in deployment.log().splitlines():
        if '"session status changed"' in line and company_id in line:
            entry = json.loads(line)
            found.append((entry["status"], entry["reason"]))
    return found
