"""Attachments at the edge: what a request may say, and how many large ones are taken at once."""

import base64
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from crm_whatsapp.domain import media
from crm_whatsapp.domain.media import MediaKind, MediaNote, MediaSource
from crm_whatsapp.web import large_bodies
from crm_whatsapp.web.errors import BodyTooSlow
from crm_whatsapp.web.large_bodies import MOST_BODY_BYTES, _TimedInput
from tests.unit.web.fakes import FakeServices

PATH = "/api/whatsapp/messages/send"
CONTENT = bytes(range(256))
ENCODED = base64.b64encode(CONTENT).decode()
URL = "https://files.example.com/a.pdf?signature=1"


def send(client: FlaskClient, company: str, **body: Any) -> TestResponse:
    return client.post(PATH, json={"company_id": company, "to": "+5511987654321", **body})


def test_content_in_the_request_is_handed_over_decoded(
    client: FlaskClient, services: FakeServices, company: str
) -> None:
    answer = send(
        client,
        company,
        type="image",
        media={
            "base64": ENCODED,
            "mimetype": "image/png",
            "filename": "Maçã 1.png",
            "caption": "olá\n👋",
        },
    )
    assert answer.status_code == 200, answer.text
    assert answer.get_json()["whatsapp_id"] == "3EB0C431C26A1916E07F"
    ((_, to, note, source),) = services.attachments.sent
    assert to == "+5511987654321"
    assert note == MediaNote(
        kind=MediaKind.IMAGE, mimetype="image/png", filename="Maçã 1.png", caption="olá\n👋"
    )
    assert source == MediaSource(content=CONTENT)
    assert services.messaging.sent == []


@pytest.mark.parametrize("size", [1, 2, 3, 196_607, 196_608, 196_609, 500_000])
def test_long_content_is_decoded_whole(
    client: FlaskClient, services: FakeServices, company: str, size: int
) -> None:
    content = (CONTENT * 2000)[:size]
    body = {"base64": base64.b64encode(content).decode()}
    assert send(client, company, type="image", media=body).status_code == 200
    assert services.attachments.sent[0][3].content == content


def test_an_end_before_the_end_is_no_base64(
    client: FlaskClient, services: FakeServices, company: str
) -> None:
    for filling in ("A" * 262_143 + "=", "A" * 262_142 + "=="):
        body = {"base64": filling + "AAAA"}
        assert send(client, company, type="image", media=body).status_code == 400
    assert services.attachments.sent == []


@pytest.mark.parametrize("kind", MediaKind)
def test_a_url_is_handed_over_as_it_is(
    client: FlaskClient, services: FakeServices, company: str, kind: MediaKind
) -> None:
    assert send(client, company, type=kind.value, media={"url": URL}).status_code == 200
    ((_, _, note, source),) = services.attachments.sent
    assert (note.kind, source) == (kind, MediaSource(url=URL))


def test_a_text_needs_no_type(client: FlaskClient, services: FakeServices, company: str) -> None:
    assert send(client, company, text="hi").status_code == 200
    assert services.messaging.sent == [(company, "+5511987654321", "hi")]


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({}, "text", "is required"),
        ({"type": "text"}, "text", "is required"),
        ({"type": "image"}, "media", "is required for type image"),
        ({"type": "text", "text": "a", "media": {"url": URL}}, "media", "set type"),
        ({"type": "image", "text": "a", "media": {"url": URL}}, "text", "media.caption"),
        ({"type": "audio", "media": {"url": URL, "caption": "a"}}, "media.caption", "audio"),
        ({"type": "sticker", "media": {"url": URL}}, "type", "sticker is not available"),
        ({"type": "poll"}, "type", "poll is not available"),
        ({"type": "x" * 9999}, "type", "send text, image"),
        ({"type": ["image"]}, "type", "send text, image"),
        ({"type": "image", "media": {}}, "media", "either url or base64"),
        ({"type": "image", "media": {"url": URL, "base64": ENCODED}}, "media", "either"),
        ({"type": "image", "media": {"base64": "data:image/png;base64,AAAA"}}, None, "data:"),
        ({"type": "image", "media": {"base64": "AAA"}}, "media.base64", "is not base64"),
        ({"type": "image", "media": {"base64": "AAAA\nAAAA"}}, "media.base64", "line breaks"),
        ({"type": "image", "media": {"base64": "AA-_"}}, "media.base64", "is not base64"),
        ({"type": "image", "media": {"base64": "ÄÖÜß"}}, "media.base64", "is not base64"),
        ({"type": "image", "media": {"base64": ""}}, "media.base64", "is empty"),
        ({"type": "image", "media": {"base64": 5}}, "media.base64", "must be a text"),
        ({"type": "image", "media": {"url": ""}}, "media.url", "at least 1"),
        ({"type": "image", "media": {"url": "a" * 2049}}, "media.url", "at most 2048"),
        ({"type": "image", "media": {"url": URL, "mimetype": "png"}}, "media.mimetype", ""),
        ({"type": "image", "media": {"url": URL, "filename": "../a.png"}}, None, "plain name"),
        ({"type": "image", "media": {"url": URL, "filename": "a\u202egpj.exe"}}, None, "plain"),
        ({"type": "image", "media": {"url": URL, "filename": "a\x00.png"}}, None, "plain name"),
        ({"type": "image", "media": {"url": URL, "filename": ".png"}}, None, "plain name"),
        ({"type": "image", "media": {"url": URL, "caption": "a" * 1025}}, "media.caption", ""),
        ({"type": "image", "media": {"url": URL, "view_once": True}}, None, "not a known field"),
    ],
)
def test_what_cannot_be_sent_is_named(
    client: FlaskClient,
    services: FakeServices,
    company: str,
    body: dict[str, Any],
    field: str | None,
    words: str,
) -> None:
    answer = send(client, company, **body)
    assert answer.status_code == 400, answer.text
    error = answer.get_json()["error"]
    assert error["code"] == "invalid-input"
    assert field is None or error["field"] == field
    assert words in error["message"]
    assert len(answer.data) < 1000
    assert services.attachments.sent == []


@pytest.mark.parametrize(
    ("failure", "status", "retry_after"),
    [
        (media.MediaTypeRefused(field="media"), 400, None),
        (media.MediaAddressRefused(field="media.url"), 400, None),
        (media.MediaTooLarge(field="media", max_bytes=1), 413, None),
        (media.MediaUnreachable(), 422, None),
        (media.MediaNotUploaded(), 503, "5"),
    ],
)
def test_what_goes_wrong_has_a_number_and_a_code(
    client: FlaskClient,
    services: FakeServices,
    company: str,
    failure: Any,
    status: int,
    retry_after: str | None,
) -> None:
    services.attachments.failure = failure
    answer = send(client, company, type="image", media={"url": URL})
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (status, failure.code)
    assert answer.headers.get("Retry-After") == retry_after


@pytest.fixture
def places(client: FlaskClient) -> Iterator[Any]:
    """The places for large bodies, all of them free again at the end."""
    places = client.application.extensions[large_bodies._EXTENSION]
    free = places._free._value
    yield places
    assert places._free._value == free


def test_a_large_body_needs_a_place_and_a_small_one_does_not(
    client: FlaskClient, services: FakeServices, company: str, places: Any
) -> None:
    large = base64.b64encode(bytes(2_000_000)).decode()
    with places.hold(), places.hold(), places.hold():
        assert send(client, company, type="image", media={"base64": large}).status_code == 200
        with places.hold():
            refused = send(client, company, type="image", media={"base64": large})
            assert (refused.status_code, refused.get_json()["error"]["code"]) == (503, "busy")
            assert refused.headers["Retry-After"] == "1"
            small = send(client, company, type="image", media={"base64": ENCODED})
            assert small.status_code == 200
    assert len(services.attachments.sent) == 2


def test_a_place_is_given_back_after_every_refusal(
    client: FlaskClient, company: str, places: Any
) -> None:
    large = "A" * 2_000_000
    for body in ({"type": "poll"}, {"to": "x", "media": {"base64": large}}, {"text": large}):
        assert send(client, company, padding=large, **body).status_code == 400
    body = json.dumps({"company_id": company, "padding": "x" * MOST_BODY_BYTES})
    assert client.post(PATH, data=body, content_type="application/json").status_code == 413


def test_a_body_that_takes_too_long_is_given_up() -> None:
    class Endless:
        def read(self, size: int | None = None) -> bytes:
            threading.Event().wait(0.01)
            return b"x"

    body = _TimedInput(Endless(), 0.1)
    with pytest.raises(BodyTooSlow):
        while body.read(1):
            pass
