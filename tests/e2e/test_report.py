"""The report of a running service: what it counts is what has happened."""

import uuid
from typing import Any

import pytest
from deployment import Deployment

from service_process import API, wait_for

pytestmark = pytest.mark.e2e

SETTINGS = {
    "SNAPSHOT_ENCRYPTION_KEYS": "k1:" + "A" * 43 + "=",
    "SNAPSHOT_SCAN_SECONDS": "0.2",
    "REPORT_CACHE_SECONDS": "0.1",
    "DATABASE_TIMEOUT_SECONDS": "1",
}


def report(deployment: Deployment, query: str = "") -> dict[str, Any]:
    answer = deployment.service.request("GET", f"{API}/report{query}")
    assert answer.status == 200, answer.content
    body: dict[str, Any] = answer.json()
    return body


def await_report(deployment: Deployment, path: str, wanted: Any) -> dict[str, Any]:
    """Wait until this field of the report is as wanted: the past follows the present at once."""
    last: dict[str, Any] = {}

    def reached() -> bool:
        last.clear()
        last.update(report(deployment))
        value: Any = last
        for name in path.split("."):
            value = value[name] if value is not None else None
        return bool(value == wanted)

    assert wait_for(reached, 20), f"{path} is not {wanted} in {last}"
    return last


def test_the_report_tells_what_has_happened(deployment: Deployment) -> None:
    deployment.settings.update(SETTINGS)
    sessions = deployment.seed(3)
    (lost, jid), *_ = sessions.items()
    service = deployment.start()
    deployment.await_all_connected(list(sessions))

    body = await_report(deployment, "restores.succeeded", 3)
    assert body["sessions"]["by_status"]["connected"] == 3
    assert (body["sessions"]["total"], body["sessions"]["should_run"]) == (3, 3)
    assert (body["restores"]["failed"], body["restores"]["success_rate"]) == (0, 1.0)
    assert 0 < body["restores"]["p50_seconds"] <= body["restores"]["p95_seconds"] < 30
    assert body["uptime"]["companies"] == 3
    assert 0 < body["uptime"]["average_percent"] <= 100
    assert body["problems"] == []
    assert (body["engines"]["total"], body["engines"]["deaths"]) == (1, 0)
    assert body["database"] == {"reachable": True, "detail": None}
    body = await_report(deployment, "snapshots.companies_covered", 3)
    assert body["snapshots"]["without"] == 0
    assert 0 <= body["snapshots"]["oldest_seconds"] < 120

    deployment.phones.call("unlink", {"jid": jid})
    deployment.await_status(lost, "logged_out")
    body = await_report(deployment, "sessions.by_status.logged_out", 1)
    (problem,) = body["problems"]
    assert (problem["company_id"], problem["reason"]) == (lost, "phone-unlinked")
    assert problem["user_action"] == "connect"
    assert problem["since"] is not None

    service.terminate()
    service.start()
    deployment.await_all_connected(list(sessions)[1:])
    body = await_report(deployment, "restores.succeeded", 5)
    assert body["uptime"]["worst"][0]["company_id"] == lost
    worst = [item["percent"] for item in body["uptime"]["worst"]]
    assert worst == sorted(worst)
    assert report(deployment, "?hours=1")["hours"] == 1
    assert report(deployment, f"?company_id={lost}")["sessions"]["total"] == 1
    assert report(deployment, f"?company_id={uuid.uuid4()}")["sessions"]["total"] == 0


def test_without_the_database_the_report_says_what_it_does_not_know(
    deployment: Deployment,
) -> None:
    deployment.settings.update(SETTINGS)
    ((company_id, _),) = deployment.seed(1).items()
    deployment.start()
    deployment.await_status(company_id, "connected")
    await_report(deployment, "restores.succeeded", 1)

    deployment.stack.stop_postgrest()
    try:
        body = await_report(deployment, "history", None)
        assert (body["restores"], body["uptime"]) == (None, None)
        assert body["history_problem"].startswith("The database")
        assert not body["database"]["reachable"]
        assert body["sessions"]["by_status"]["connected"] == 1
    finally:
        deployment.stack.start_postgrest()
    body = await_report(deployment, "history_problem", None)
    assert body["restores"]["succeeded"] == 1
