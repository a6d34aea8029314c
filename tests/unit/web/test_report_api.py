"""GET /api/whatsapp/report: who sees what of it."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from flask.testing import FlaskClient

from crm_whatsapp.domain.connection import Connection, DesiredState, Reason, Status
from crm_whatsapp.domain.decisions import become
from crm_whatsapp.domain.reports import (
    CompanyUptime,
    EngineSummary,
    ReportHistory,
    SnapshotCover,
    Trouble,
)
from crm_whatsapp.web.auth import Scope
from tests.unit.web.fakes import FakeServices

URL = "/api/whatsapp/report"
COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
OTHER = "11111111-2222-4333-8444-555555555555"
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def full(services: FakeServices) -> FakeServices:
    """A report with everything in it."""
    lost = become(
        Connection(company_id=COMPANY, desired_state=DesiredState.RUN, push_name="Bella"),
        Reason.PHONE_UNLINKED,
    )
    services.reports.answer = replace(
        services.reports.answer,
        total=2,
        should_run=2,
        by_status={**dict.fromkeys(Status, 0), Status.CONNECTED: 1, Status.LOGGED_OUT: 1},
        history=ReportHistory(
            since=datetime(2026, 11, 20, 12, tzinfo=UTC),
            until=NOON,
            succeeded=2,
            failed=1,
            p50_seconds=0.81234,
            p95_seconds=2.5,
            companies=2,
            average_percent=87.65432,
            worst=(
                CompanyUptime(
                    company_id=COMPANY,
                    percent=75.308,
                    connected_seconds=65066.0,
                    wanted_seconds=86400.0,
                ),
            ),
            snapshot_companies=1,
            oldest_snapshot_at=None,
        ),
        history_problem=None,
        snapshots=SnapshotCover(enabled=True, covered=1, without=1, oldest_seconds=7200.0),
        troubles=(Trouble(connection=lost, since=NOON),),
        engines=EngineSummary(total=1, running=1, deaths=0, memory_mb=43.21),
        names={COMPANY: "Bella"},
    )
    return services


def test_everything_is_in_it(client: FlaskClient, full: FakeServices) -> None:
    answer = client.get(URL)
    assert answer.status_code == 200
    assert answer.get_json() == {
        "generated_at": "2026-11-21T12:00:00Z",
        "since": "2026-11-20T12:00:00Z",
        "hours": 24,
        "company_id": None,
        "sessions": {
            "total": 2,
            "should_run": 2,
            "by_status": {
                "disconnected": 0,
                "connecting": 0,
                "awaiting_scan": 0,
                "connected": 1,
                "logged_out": 1,
                "banned": 0,
                "failed": 0,
            },
        },
        "history": {"since": "2026-11-20T12:00:00Z", "until": "2026-11-21T12:00:00Z"},
        "history_problem": None,
        "restores": {
            "attempted": 3,
            "succeeded": 2,
            "failed": 1,
            "success_rate": 0.6666,
            "p50_seconds": 0.812,
            "p95_seconds": 2.5,
        },
        "uptime": {
            "companies": 2,
            "average_percent": 87.654,
            "worst": [
                {
                    "company_id": COMPANY,
                    "push_name": "Bella",
                    "percent": 75.308,
                    "connected_seconds": 65066.0,
                    "wanted_seconds": 86400.0,
                }
            ],
        },
        "snapshots": {
            "enabled": True,
            "companies_covered": 1,
            "without": 1,
            "oldest_seconds": 7200.0,
        },
        "problems": [
            {
                "company_id": COMPANY,
                "push_name": "Bella",
                "status": "logged_out",
                "reason": "phone-unlinked",
                "since": "2026-11-21T12:00:00Z",
                "user_action": "connect",
            }
        ],
        "engines": {"total": 1, "running": 1, "deaths": 0, "memory_mb": 43.2},
        "database": {"reachable": True, "detail": None},
    }


def test_only_all_of_it_is_told_as_all_of_it(client: FlaskClient, full: FakeServices) -> None:
    history = full.reports.answer.history
    assert history is not None
    full.reports.answer = replace(
        full.reports.answer,
        history=replace(history, succeeded=999_999, failed=1, average_percent=99.99999),
    )
    body = client.get(URL).get_json()
    assert body["restores"]["success_rate"] == 0.9999
    assert body["uptime"]["average_percent"] == 99.999


def test_without_the_database_it_is_an_answer_all_the_same(
    client: FlaskClient, services: FakeServices
) -> None:
    answer = client.get(URL)
    assert answer.status_code == 200
    body = answer.get_json()
    assert (body["history"], body["restores"], body["uptime"]) == (None, None, None)
    assert body["history_problem"] == "The database did not answer in time."


@pytest.mark.parametrize("hours", ["1", "24", "720"])
def test_the_window_is_the_callers_choice(
    client: FlaskClient, services: FakeServices, hours: str
) -> None:
    assert client.get(f"{URL}?hours={hours}").get_json()["hours"] == int(hours)
    assert services.reports.asked == [(int(hours), None)]


@pytest.mark.parametrize("hours", ["0", "721", "-1", "1.5", "a", "", "1e2", "٣", "99999", "%2024"])
def test_other_windows_are_refused(client: FlaskClient, services: FakeServices, hours: str) -> None:
    answer = client.get(f"{URL}?hours={hours}")
    assert answer.status_code == 400
    assert answer.get_json()["error"]["field"] == "hours"
    assert services.reports.asked == []


def test_a_service_key_may_look_at_one_company(client: FlaskClient, services: FakeServices) -> None:
    body = client.get(f"{URL}?company_id={COMPANY.upper()}").get_json()
    assert body["company_id"] == COMPANY
    assert services.reports.asked == [(24, frozenset({COMPANY}))]


def test_a_company_key_sees_its_own_company_and_nothing_of_the_machine(
    client: FlaskClient, full: FakeServices
) -> None:
    full.authenticator.add_key("a-company-key", company_id=COMPANY, scopes=frozenset({Scope.READ}))
    client.environ_base["HTTP_X_API_KEY"] = "a-company-key"
    body = client.get(URL).get_json()
    assert full.reports.asked == [(24, frozenset({COMPANY}))]
    assert body["company_id"] == COMPANY
    assert body["engines"] is None
    assert client.get(f"{URL}?company_id={OTHER}").status_code == 403
    assert full.reports.asked == [(24, frozenset({COMPANY}))]


def test_nobody_without_a_key(anonymous: FlaskClient) -> None:
    assert anonymous.get(URL).status_code == 401
