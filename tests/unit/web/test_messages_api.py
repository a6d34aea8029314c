"""Sending a text."""

import pytest
from flask.testing import FlaskClient

from tests.unit.web.fakes import FakeServices

PATH = "/api/whatsapp/messages/send"


@pytest.mark.parametrize("text", ["x", "x" * 65_536, "olá 👋\nsegunda linha"])
def test_send(client: FlaskClient, services: FakeServices, company: str, text: str) -> None:
    body = {"company_id": company, "to": "+5511987654321", "type": "text", "text": text}

    answer = client.post(PATH, json=body)

    assert answer.status_code == 200
    assert answer.get_json() == {
        "message_id": "3EB0C431C26A1916E07E",
        "whatsapp_id": "3EB0C431C26A1916E07E",
        "status": "sent",
    }
    assert services.messaging.sent == [(company, "+5511987654321", text)]
