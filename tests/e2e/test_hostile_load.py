"""A client that sends nothing but bad requests disturbs nobody: no session, no other client."""

import statistics
from collections.abc import Sequence
from typing import Any

import pytest
from deployment import Deployment
from load_clients import Load, start_flood, start_polls

from crm_whatsapp.config import Settings
from crm_whatsapp.limit_settings import LimitSettings
from service_process import API

pytestmark = pytest.mark.e2e

BAD_RATE = 200.0
POLL_RATE = 25.0
MOST_P99_MS = 50.0
DEFAULT_LIMITS = {
    name.upper(): str(Settings.model_fields[name].default) for name in LimitSettings.model_fields
}
"""As a deployment has them that says nothing of limits."""


def percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def flood(deployment: Deployment, sessions: int, seconds: float) -> tuple[Load, Load, Load]:
    """Return what a polite client saw without the flood, what it saw during it, and the flood."""
    companies = deployment.seed(sessions)
    service = deployment.start(**DEFAULT_LIMITS)
    deployment.await_all_connected(list(companies), timeout_seconds=60)
    logins = {jid: deployment.phones.counters(jid)["logins"] for jid in companies.values()}
    victim = next(iter(companies))
    made = service.post("keys", name="broken", company_id=victim, scopes=["read", "manage"])
    assert made.status == 201, made.content
    others = [company_id for company_id in companies if company_id != victim]

    def polls() -> Any:
        return start_polls(service.port, service.api_key, others, rate=POLL_RATE, seconds=seconds)

    quiet = polls().result()
    hostile = start_flood(service.port, made.json()["key"], victim, rate=BAD_RATE, seconds=seconds)
    try:
        during = polls().result()
        bad = hostile.result()
    finally:
        hostile.end()

    assert deployment.connected_count() == sessions
    assert deployment.phones.open_connections() == sessions
    assert {jid: deployment.phones.counters(jid)["logins"] for jid in logins} == logins
    assert deployment.engine_deaths() == []
    return quiet, during, bad


def check(quiet: Load, during: Load, bad: Load, record_property: Any) -> None:
    """Record the figures, and hold what is true at any speed of the machine."""
    for name, load in (("without", quiet), ("during", during)):
        record_property(f"status_p50_ms_{name}", round(percentile(load.latencies_ms, 50), 2))
        record_property(f"status_p99_ms_{name}", round(percentile(load.latencies_ms, 99), 2))
    record_property("bad_requests_per_second", round(bad.rate, 1))
    record_property("bad_answers", bad.answers)
    assert set(quiet.answers) == set(during.answers) == {"200"}
    # Nothing was accepted, nothing broke: each was told what is wrong, or that it is too much.
    assert set(bad.answers) <= {"400", "401", "403", "404", "405", "413", "429", "broken"}
    assert bad.answers["429"] > 0


def test_bad_requests_disturb_nobody(deployment: Deployment, record_property: Any) -> None:
    quiet, during, bad = flood(deployment, sessions=20, seconds=4.0)

    check(quiet, during, bad, record_property)
    limited = deployment.metrics().by("whatsapp_http_limited_total", "limit")
    assert limited["failed-logins"] > 0


@pytest.mark.soak
def test_200_bad_requests_a_second_beside_100_sessions(
    deployment: Deployment, record_property: Any
) -> None:
    quiet, during, bad = flood(deployment, sessions=100, seconds=60.0)

    check(quiet, during, bad, record_property)
    assert bad.rate >= 0.95 * BAD_RATE, "the flood was slower than it should be"
    p99_ms = percentile(during.latencies_ms, 99)
    assert p99_ms <= MOST_P99_MS, f"a poll took {p99_ms:.1f} ms beside the flood"
    assert deployment.service.request("GET", f"{API}/status?company_id=x").status == 400
