"""The routes of a session, as the contract has them."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from flask.testing import FlaskClient

from crm_whatsapp.domain.connection import PairingMethod, Reason, Status
from tests.unit.web.fakes import (
    DISCONNECTED_MESSAGE,
    QR_TEXT,
    FakeServices,
    connected,
)

API = "/api/whatsapp"


def test_status_of_an_unknown_company_is_the_documented_body(
    client: FlaskClient, company: str
) -> None:
    answer = client.get(f"{API}/status?company_id={company}")

    assert answer.status_code == 200
    assert answer.get_json() == {
        "company_id": company,
        "status": "disconnected",
        "is_connected": False,
        "message": DISCONNECTED_MESSAGE,
        "reason": "never-connected",
        "user_action": "connect",
        "phone_number": None,
        "push_name": None,
        "last_connected_at": None,
        "retry_at": None,
        "qr_expires_at": None,
    }
    assert answer.headers["Cache-Control"] == "no-store"


def test_status_shows_times_in_utc(
    client: FlaskClient, services: FakeServices, company: str
) -> None:
    services.sessions.connections[company] = connected(company, "5511987654321", "Ana")

    body = client.get(f"{API}/status", query_string={"company_id": company.upper()}).get_json()

    assert body["is_connected"] is True
    assert body["last_connected_at"] == "2026-01-08T12:00:00Z"
    assert services.sessions.calls == [("status", company, {})]


def test_connect_answers_202_and_passes_everything_on(
    client: FlaskClient, services: FakeServices, company: str
) -> None:
    answer = client.post(
        f"{API}/connect",
        json={
            "company_id": company,
            "user_id": "clerk-7",
            "method": "pairing_code",
            "phone_number": "+55 (11) 98765-4321",
            "fresh": True,
            "proxy": "socks5://user:secret@proxy.example:1080",
        },
    )

    assert answer.status_code == 202
    assert answer.get_json()["status"] == "awaiting_scan"
    assert services.sessions.calls == [
        (
            "connect",
            company,
            {
                "method": PairingMethod.PAIRING_CODE,
                "user_id": "clerk-7",
                "phone_number": "5511987654321",
                "fresh": True,
                "proxy": "socks5://user:secret@proxy.example:1080",
            },
        )
    ]


def test_connect_needs_only_company_and_method(
    client: FlaskClient, services: FakeServices, company: str
) -> None:
    client.post(f"{API}/connect", json={"company_id": company, "method": "qr"})

    assert services.sessions.calls[0][2] == {
        "method": PairingMethod.QR,
        "user_id": None,
        "phone_number": None,
        "fresh": False,
        "proxy": None,
    }


def test_connect_of_a_connected_company_answers_200(
    client: FlaskClient, services: FakeServices, company: str
) -> None:
    services.sessions.connections[company] = connected(company, "5511987654321", "Ana")

    answer = client.post(f"{API}/connect", json={"company_id": company, "method": "qr"})

    assert answer.status_code == 200
    assert answer.get_json()["is_connected"] is True


def test_connect_by_the_other_method_conflicts(client: FlaskClient, company: str) -> None:
    client.post(f"{API}/connect", json={"company_id": company, "method": "qr"})

    answer = client.post(
        f"{API}/connect",
        json={"company_id": company, "method": "pairing_code", "phone_number": "+5511987654321"},
    )

    assert answer.status_code == 409
    assert answer.get_json()["error"]["code"] == "pairing-conflict"


@pytest.mark.parametrize(
    ("image_format", "mimetype", "start"),
    [("png", "image/png", b"\x89PNG"), ("svg", "image/svg+xml", b"<?xml")],
)
def test_qr_is_an_image(
    client: FlaskClient, company: str, image_format: str, mimetype: str, start: bytes
) -> None:
    client.post(f"{API}/connect", json={"company_id": company, "method": "qr"})

    answer = client.get(f"{API}/qr?company_id={company}&format={image_format}")

    assert answer.status_code == 200
    assert answer.mimetype == mimetype
    assert answer.data.startswith(start)
    assert answer.headers["Cache-Control"] == "no-store"


def test_qr_is_a_png_unless_asked_otherwise(client: FlaskClient, company: str) -> None:
    client.post(f"{API}/connect", json={"company_id": company, "method": "qr"})

    assert client.get(f"{API}/qr?company_id={company}").mimetype == "image/png"


def test_qr_raw_is_the_text(client: FlaskClient, services: FakeServices, company: str) -> None:
    client.post(f"{API}/connect", json={"company_id": company, "method": "qr"})

    body = client.get(f"{API}/qr?company_id={company}&format=raw").get_json()

    assert body["value"] == QR_TEXT
    assert datetime.fromisoformat(body["expires_at"]) == services.sessions.codes[company].expires_at


def test_pairing_code(client: FlaskClient, company: str) -> None:
    client.post(
        f"{API}/connect",
        json={"company_id": company, "method": "pairing_code", "phone_number": "5511987654321"},
    )

    body = client.get(f"{API}/pairing-code?company_id={company}").get_json()

    assert body["code"] == "K7QX-4MPN"
    assert set(body) == {"code", "expires_at"}


@pytest.mark.parametrize("path", ["qr", "pairing-code"])
def test_nothing_to_scan_is_422(client: FlaskClient, company: str, path: str) -> None:
    answer = client.get(f"{API}/{path}?company_id={company}")

    assert answer.status_code == 422
    assert answer.get_json()["error"]["code"] == "nothing-to-scan"


def test_disconnect(client: FlaskClient, services: FakeServices, company: str) -> None:
    services.sessions.connections[company] = connected(company, "5511987654321", "Ana")

    answer = client.post(f"{API}/disconnect", json={"company_id": company})

    assert answer.status_code == 200
    assert answer.get_json()["status"] == "disconnected"


def test_restore_answers_202(client: FlaskClient, services: FakeServices, company: str) -> None:
    services.sessions.connections[company] = replace(
        connected(company, "5511987654321", "Ana"), status=Status.FAILED
    )

    answer = client.post(f"{API}/restore", json={"company_id": company})

    assert answer.status_code == 202
    assert answer.get_json()["message"] == "Restoring connection from saved session..."


def test_restore_of_nothing_is_422(client: FlaskClient, company: str) -> None:
    answer = client.post(f"{API}/restore", json={"company_id": company})

    assert answer.status_code == 422
    assert answer.get_json()["error"]["code"] == "nothing-saved"


def test_logout(client: FlaskClient, services: FakeServices, company: str) -> None:
    services.sessions.connections[company] = connected(company, "5511987654321", "Ana")

    answer = client.post(f"{API}/logout", json={"company_id": company})

    assert answer.status_code == 200
    assert answer.get_json()["reason"] == "logged-out-by-user"


def test_delete(client: FlaskClient, services: FakeServices, company: str) -> None:
    answer = client.delete(f"{API}/sessions/{company.upper()}")

    assert answer.status_code == 200
    assert answer.get_json() == {"company_id": company, "deleted": True}
    assert services.sessions.calls == [("delete", company, {})]


def test_active_sessions(client: FlaskClient, services: FakeServices, company: str) -> None:
    services.sessions.connections[company] = connected(company, "5511987654321", "Ana")

    body = client.get(f"{API}/active-sessions").get_json()

    assert body["count"] == 1
    assert body["sessions"][0]["company_id"] == company
    assert body["sessions"][0]["status"] == "connected"
    assert body["sessions"][0]["owner_id"] == "pod-a"
    assert body["sessions"][0]["is_local"] is True


def test_every_reason_and_status_can_be_shown(
    client: FlaskClient, services: FakeServices, company: str
) -> None:
    for reason in Reason:
        for status in Status:
            services.sessions.connections[company] = replace(
                connected(company, "5511987654321", "Ana"),
                status=status,
                reason=reason,
                retry_at=datetime(2026, 1, 8, tzinfo=UTC),
            )
            body = client.get(f"{API}/status?company_id={company}").get_json()
            assert (body["reason"], body["status"]) == (reason, status)
