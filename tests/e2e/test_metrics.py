"""What /metrics tells of the deployed process is what the database has on record."""

import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from deployment import Deployment
from figures import Figures

from local_supabase import LocalSupabase
from service_process import API, DIRECT, wait_for

pytestmark = pytest.mark.e2e

GUARD_SECONDS = 60.0
TOKEN = "metrics-token-0123456789"
PROMPT_SECONDS = 2.0
"""Far below any timeout of the service, far above what a loaded machine needs for a page."""


@pytest.fixture(autouse=True)
def database_returns(stack: LocalSupabase) -> Iterator[None]:
    """Leave a working database to the next test."""
    yield
    stack.thaw_postgrest()


def history_since(deployment: Deployment, started_at: datetime) -> dict[str, int]:
    """Return how many lines the history has got since then, by the status they tell."""
    rows = deployment.rows(
        "select to_status, count(*) as lines from public.whatsapp_status_events "
        "where occurred_at >= %s group by to_status",
        started_at,
    )
    return {row["to_status"]: row["lines"] for row in rows}


def rows_by_status(deployment: Deployment) -> dict[str, int]:
    rows = deployment.rows(
        "select status, count(*) as companies from public.whatsapp_connections group by status"
    )
    return {row["status"]: row["companies"] for row in rows}


def logouts_since(deployment: Deployment, started_at: datetime) -> dict[str, int]:
    rows = deployment.rows(
        "select reason, count(*) as lines from public.whatsapp_status_events "
        "where occurred_at >= %s and to_status = 'logged_out' and from_status <> 'logged_out' "
        "group by reason",
        started_at,
    )
    return {row["reason"]: row["lines"] for row in rows}


def counted(figures: Figures, name: str, label: str) -> dict[str, int]:
    """Return what was counted, without the words that nothing was counted for."""
    return {word: int(value) for word, value in figures.by(name, label).items() if value}


def assert_agreement(deployment: Deployment, started_at: datetime) -> Figures:
    """Wait until everything is written; then figures, rows and history say the same."""
    last: dict[str, Any] = {}

    def settled() -> bool:
        figures = deployment.metrics()
        last["figures"] = figures
        last["told"] = (
            counted(figures, "whatsapp_sessions", "status"),
            counted(figures, "whatsapp_session_transitions_total", "to_status"),
            counted(figures, "whatsapp_session_logouts_total", "reason"),
        )
        last["on_record"] = (
            rows_by_status(deployment),
            history_since(deployment, started_at),
            logouts_since(deployment, started_at),
        )
        waiting = figures.value("whatsapp_journal_pending", kind="transition")
        return waiting == 0 and last["told"] == last["on_record"]

    assert wait_for(settled, GUARD_SECONDS, 0.2), f"{last['told']} is not {last['on_record']}"
    found: Figures = last["figures"]
    return found


def test_metrics_agree_with_the_database_whatever_happens(deployment: Deployment) -> None:
    """Cuts, a stop, two kinds of logout and a dead engine; then a restart that counts anew."""
    seeded = deployment.seed(8)
    companies = list(seeded)
    started_at = datetime.now(UTC)
    service = deployment.start()
    deployment.await_all_connected(companies, 30)
    stopped, logged_out, unlinked, *others = companies

    for company_id in others[:2]:
        seen = deployment.phones.last_event()
        deployment.phones.call("cut", {"jid": seeded[company_id]})
        deployment.phones.await_event(seen, type="login", jid=seeded[company_id])
        deployment.await_status(company_id, "connected")
    assert service.post("disconnect", company_id=stopped).status == 200
    assert service.post("logout", company_id=logged_out).status == 200
    deployment.phones.call("unlink", {"jid": seeded[unlinked]})
    deployment.await_status(logged_out, "logged_out", reason="logged-out-by-user")
    deployment.await_status(unlinked, "logged_out", reason="phone-unlinked")
    deployment.await_status(stopped, "disconnected")
    (engine,) = service.engine_pids()
    os.kill(engine, signal.SIGKILL)
    assert wait_for(lambda: deployment.engine_deaths(), GUARD_SECONDS)
    deployment.await_all_connected(others, GUARD_SECONDS)

    figures = assert_agreement(deployment, started_at)

    assert counted(figures, "whatsapp_sessions", "status") == {
        "connected": 5,
        "disconnected": 1,
        "logged_out": 2,
    }
    assert counted(figures, "whatsapp_sessions_desired", "desired_state")["run"] >= 5
    assert counted(figures, "whatsapp_session_logouts_total", "reason") == {
        "logged-out-by-user": 1,
        "phone-unlinked": 1,
    }
    assert counted(figures, "whatsapp_session_reconnects_total", "cause") == {
        "network-lost": 2,
        "engine-died": 5,
    }
    assert figures.sum("whatsapp_session_restores_total", outcome="succeeded") == 8 + 5
    assert figures.sum("whatsapp_session_restores_total", outcome="failed") == 0
    assert figures.value("whatsapp_session_restore_duration_seconds_count") == 8 + 5
    assert 0 < figures.value("whatsapp_session_restore_duration_seconds_sum") < 13 * 30
    assert figures.value("whatsapp_session_uptime_seconds_bucket", le="+Inf") == 5
    assert figures.value("whatsapp_session_connected_seconds_total") > 0
    assert figures.value("whatsapp_engine_deaths_total", role="shard") == 1
    assert figures.value("whatsapp_engines", role="shard", state="up") == 1
    assert figures.value("whatsapp_engine_memory_bytes", role="shard") > 1024 * 1024
    assert figures.value("whatsapp_startup_sessions", outcome="restored") == 8
    sent = figures.value("whatsapp_journal_sent_total", kind="transition")
    assert sent == sum(history_since(deployment, started_at).values())
    assert figures.value("whatsapp_database_reachable") == 1
    assert (
        figures.value(
            "whatsapp_database_calls_total", call="whatsapp_record_transitions_v1", outcome="ok"
        )
        > 0
    )
    assert (
        figures.value(
            "whatsapp_http_requests_total",
            route=f"{API}/disconnect",
            method="POST",
            status="2xx",
        )
        == 1
    )

    service.terminate()
    started_at = datetime.now(UTC)
    deployment.start()
    deployment.await_all_connected(others, 30)

    figures = assert_agreement(deployment, started_at)

    assert figures.sum("whatsapp_session_restores_total", outcome="succeeded") == 5
    assert figures.sum("whatsapp_session_reconnects_total") == 0
    assert figures.value("whatsapp_engine_deaths_total", role="shard") == 0


def test_every_figure_of_rules_and_dashboard_is_told_by_the_deployed_process(
    deployment: Deployment,
) -> None:
    deployment.start()
    deployment.service.request("GET", "/no-such-address")
    told = {name for name, _ in deployment.metrics()}

    assert {
        "whatsapp_build_info",
        "whatsapp_sessions",
        "whatsapp_journal_pending",
        "whatsapp_webhook_deliveries",
        "whatsapp_sse_streams",
        "whatsapp_alerts",
        "whatsapp_job_runs_total",
        "process_resident_memory_bytes",
    } <= told
    assert deployment.metrics().value("whatsapp_metrics_failures_total") == 0
    assert (
        deployment.metrics().value(
            "whatsapp_http_requests_total", route="other", method="GET", status="4xx"
        )
        == 1
    )


def test_prometheus_needs_its_token_and_learns_no_name(deployment: Deployment) -> None:
    seeded = deployment.seed(3)
    service = deployment.start(METRICS_TOKEN=TOKEN)
    deployment.await_all_connected(list(seeded), 30)
    bearer = {"Authorization": f"Bearer {TOKEN}", "Accept": "application/openmetrics-text"}

    assert service.request("GET", "/metrics", key="wrong-key-0123456789").status == 401
    assert service.request("GET", "/metrics").status == 200
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        without_key(service.url + "/metrics", {})
    refused.value.close()
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        without_key(service.url + f"{API}/active-sessions", bearer)
    refused.value.close()

    page = without_key(service.url + "/metrics", bearer)

    assert page.endswith("# EOF\n")
    assert "whatsapp_sessions{" in page
    numbers = [jid.partition(":")[0].partition("@")[0] for jid in seeded.values()]
    assert [name for name in (*seeded, *seeded.values(), *numbers) if name in page] == []
    assert TOKEN not in page + deployment.log()


def test_companies_are_named_where_the_operator_wants_it(deployment: Deployment) -> None:
    seeded = deployment.seed(2)
    deployment.start(METRICS_COMPANY_LABEL="true")
    deployment.await_all_connected(list(seeded), 30)

    uptimes = deployment.metrics().by("whatsapp_company_uptime_seconds", "company_id")

    assert uptimes.keys() == seeded.keys()
    assert all(seconds > 0 for seconds in uptimes.values())


@pytest.mark.alone
def test_a_scrape_waits_for_neither_the_database_nor_the_engines(
    deployment: Deployment, stack: LocalSupabase, record_property: Any
) -> None:
    seeded = deployment.seed(50)
    service = deployment.start()
    deployment.await_all_connected(list(seeded), GUARD_SECONDS)
    engines = service.engine_pids()
    stack.freeze_postgrest()
    try:
        for pid in engines:
            os.kill(pid, signal.SIGSTOP)
        seconds = sorted(scrape_seconds(deployment) for _ in range(20))
    finally:
        for pid in engines:
            os.kill(pid, signal.SIGCONT)
        stack.thaw_postgrest()

    record_property("scrape_50_median_ms", round(seconds[10] * 1000, 1))
    assert seconds[-1] < PROMPT_SECONDS, seconds


def without_key(url: str, headers: dict[str, str]) -> str:
    """Ask as Prometheus does: with these headers alone."""
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - loopback only
    with DIRECT.open(request, timeout=GUARD_SECONDS) as response:
        text: str = response.read().decode()
        return text


def scrape_seconds(deployment: Deployment) -> float:
    begun = time.monotonic()
    assert deployment.service.request("GET", "/metrics").status == 200
    return time.monotonic() - begun
