"""Health and readiness."""

import pytest
from flask.testing import FlaskClient

from tests.unit.web.fakes import FakeCheck, FakeReport, FakeServices


@pytest.mark.parametrize("started", [True, False])
def test_health_is_answered_always(
    anonymous: FlaskClient, services: FakeServices, started: bool
) -> None:
    services.started = started

    answer = anonymous.get("/healthz")

    assert answer.status_code == 200
    assert answer.get_json() == {"status": "ok"}


def test_ready(anonymous: FlaskClient) -> None:
    answer = anonymous.get("/readyz")

    assert answer.status_code == 200
    assert answer.get_json() == {
        "ready": True,
        "degraded": False,
        "checks": [{"name": "database", "ok": True, "detail": "", "pending": 0}],
    }


def test_degraded_still_serves(anonymous: FlaskClient, services: FakeServices) -> None:
    services.readiness.current = FakeReport(
        ready=True,
        degraded=True,
        checks=[FakeCheck(name="database", ok=False, detail="refused", data={"pending": 12})],
    )

    answer = anonymous.get("/readyz")

    assert answer.status_code == 200
    assert answer.get_json()["degraded"] is True


def test_not_ready_is_503_with_every_check(anonymous: FlaskClient, services: FakeServices) -> None:
    services.readiness.current = FakeReport(
        ready=False,
        degraded=True,
        checks=[FakeCheck(name="storage", ok=False, detail="read-only")],
    )

    answer = anonymous.get("/readyz")

    assert answer.status_code == 503
    body = answer.get_json()
    assert body["error"]["code"] == "not-ready"
    assert body["ready"] is False
    assert body["checks"][0] == {"name": "storage", "ok": False, "detail": "read-only"}


def test_not_started_is_not_ready(anonymous: FlaskClient, services: FakeServices) -> None:
    services.started = False

    answer = anonymous.get("/readyz")

    assert answer.status_code == 503
    assert answer.get_json()["error"]["code"] == "starting"
    assert answer.headers["Retry-After"] == "1"
