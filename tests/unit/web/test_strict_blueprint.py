"""What is refused before any service is asked."""

import json
from io import BytesIO
from typing import Any
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from crm_whatsapp.web.large_bodies import MOST_BODY_BYTES
from tests.unit.web.fakes import FakeServices

API = "/api/whatsapp"
BARE = "0f8fad5bd9cb469fa16570867728950e"
COMPANY = "0f8fad5b-d9cb-469f-a165-70867728950e"
BAD_IDS = {
    "empty": "",
    "path": "../..",
    "path of 36": "../../../../../../../../../../../../",
    "huge": "a" * 10_240,
    "nul": COMPANY[:-1] + "\x00",
    "trailing nul": COMPANY + "\x00",
    "urn": f"urn:uuid:{COMPANY}",
    "braces": "{" + COMPANY + "}",
    "no dashes": BARE,
    "spaces": f" {COMPANY}",
    "newline": COMPANY + "\n",
    "unicode digits": "٣" + COMPANY[1:],
    "fullwidth": "\uff13" + COMPANY[1:],
    "dashes elsewhere": BARE[:4] + "-" + BARE[4:],
    "null word": "null",
}
GET_PATHS = ["status", "qr", "pairing-code", "session-info"]
POST_PATHS = {
    "connect": {"method": "qr"},
    "disconnect": {},
    "restore": {},
    "logout": {},
    "messages/send": {"to": "5511987654321", "type": "text", "text": "hi"},
}


def assert_refused(answer: TestResponse, field: str, services: FakeServices) -> None:
    assert answer.status_code == 400, answer.text
    error = answer.get_json()["error"]
    assert error["code"] == "invalid-input"
    assert error["field"] == field
    assert field in [item["field"] for item in error["fields"]]
    assert services.sessions.calls == []
    assert services.messaging.sent == []


@pytest.mark.parametrize("bad_id", BAD_IDS.values(), ids=BAD_IDS)
@pytest.mark.parametrize("path", GET_PATHS)
def test_bad_company_in_a_query(
    client: FlaskClient, services: FakeServices, path: str, bad_id: str
) -> None:
    answer = client.get(f"{API}/{path}", query_string={"company_id": bad_id})

    assert_refused(answer, "company_id", services)
    if len(bad_id) > 4:
        assert bad_id not in answer.text


@pytest.mark.parametrize(
    "bad_id",
    [*BAD_IDS.values(), None, 7, 1.5, True, [COMPANY], {"id": COMPANY}],
    ids=lambda value: repr(value)[:20],
)
@pytest.mark.parametrize("path", POST_PATHS)
def test_bad_company_in_a_body(
    client: FlaskClient, services: FakeServices, path: str, bad_id: object
) -> None:
    answer = client.post(f"{API}/{path}", json={"company_id": bad_id, **POST_PATHS[path]})

    assert_refused(answer, "company_id", services)


@pytest.mark.parametrize("bad_id", [v for v in BAD_IDS.values() if v.strip("\n") == v != ""])
def test_bad_company_in_a_path(client: FlaskClient, services: FakeServices, bad_id: str) -> None:
    answer = client.delete(f"{API}/sessions/{quote(bad_id, safe='')}")

    assert_refused(answer, "company_id", services)


@pytest.mark.parametrize("path", GET_PATHS)
def test_query_without_company_or_with_two(
    client: FlaskClient, services: FakeServices, path: str
) -> None:
    assert_refused(client.get(f"{API}/{path}"), "company_id", services)
    for other in (COMPANY, BARE):
        twice = client.get(f"{API}/{path}?company_id={COMPANY}&company_id={other}")
        assert_refused(twice, "company_id", services)
    array = client.get(f"{API}/{path}?company_id[]={COMPANY}")
    assert_refused(array, "company_id", services)


@pytest.mark.parametrize("path", POST_PATHS)
def test_body_without_company_or_with_two(
    client: FlaskClient, services: FakeServices, path: str
) -> None:
    assert_refused(client.post(f"{API}/{path}", json=POST_PATHS[path]), "company_id", services)
    twice = f'{{"company_id": "{COMPANY}", "company_id": "{COMPANY}"}}'
    answer = client.post(f"{API}/{path}", data=twice, content_type="application/json")
    assert_refused(answer, "company_id", services)


@pytest.mark.parametrize("path", GET_PATHS)
def test_unknown_query_parameter_is_named(
    client: FlaskClient, services: FakeServices, path: str
) -> None:
    answer = client.get(f"{API}/{path}?company_id={COMPANY}&fromat=svg")

    assert_refused(answer, "fromat", services)


def test_routes_without_a_query_take_none(client: FlaskClient, services: FakeServices) -> None:
    assert_refused(client.get(f"{API}/active-sessions?limit=5"), "limit", services)
    answer = client.post(f"{API}/logout?force=1", json={"company_id": COMPANY})
    assert_refused(answer, "force", services)


@pytest.mark.parametrize("path", POST_PATHS)
def test_unknown_body_field_is_named(
    client: FlaskClient, services: FakeServices, path: str
) -> None:
    body = {"company_id": COMPANY, **POST_PATHS[path], "shape": "round", "size": 1}

    answer = client.post(f"{API}/{path}", json=body)

    assert_refused(answer, "shape", services)
    assert {item["field"] for item in answer.get_json()["error"]["fields"]} == {"shape", "size"}


def test_all_bad_fields_are_named_at_once(client: FlaskClient, services: FakeServices) -> None:
    answer = client.post(
        f"{API}/messages/send", json={"company_id": "x", "to": 5, "type": "sticker", "text": ""}
    )

    assert_refused(answer, "company_id", services)
    fields = {item["field"] for item in answer.get_json()["error"]["fields"]}
    assert fields == {"company_id", "to", "type", "text"}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b"7",
        b"\xff\xfe",
        b'{"company_id": NaN}',
        b"[" * 60_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        json.dumps({"company_id": COMPANY}).encode("utf-16"),
    ],
    ids=lambda raw: repr(raw[:12]),
)
def test_body_that_is_no_json_object(
    client: FlaskClient, services: FakeServices, raw: bytes
) -> None:
    answer = client.post(f"{API}/logout", data=raw, content_type="application/json")

    assert answer.status_code == 400
    assert answer.get_json()["error"]["code"] == "invalid-input"
    assert services.sessions.calls == []


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_body_of_another_type_is_415(client: FlaskClient, content_type: str | None) -> None:
    body = json.dumps({"company_id": COMPANY})

    answer = client.post(f"{API}/logout", data=body, content_type=content_type)

    assert answer.status_code == 415
    assert answer.get_json()["error"]["code"] == "unsupported-media-type"


def test_json_with_a_charset_is_taken(client: FlaskClient) -> None:
    body = json.dumps({"company_id": COMPANY})

    answer = client.post(f"{API}/logout", data=body, content_type="application/json; charset=utf-8")

    assert answer.status_code == 200


def test_large_body_is_413(client: FlaskClient) -> None:
    body = {"company_id": COMPANY, "to": "5511987654321", "type": "text", "text": "x" * 23_500_000}

    answer = client.post(f"{API}/messages/send", json=body)

    assert answer.status_code == 413
    assert answer.get_json()["error"]["code"] == "body-too-large"
    assert answer.get_json()["error"]["max_bytes"] == MOST_BODY_BYTES


def test_large_chunked_body_is_413_even_if_its_start_is_valid(
    client: FlaskClient, services: FakeServices
) -> None:
    start = json.dumps({"company_id": COMPANY}).encode()

    for size, status in ((1024, 200), (1_100_000, 413)):
        answer = client.post(
            f"{API}/logout",
            input_stream=BytesIO(start.ljust(size)),
            content_type="application/json",
            headers={"Transfer-Encoding": "chunked"},
            environ_overrides={"wsgi.input_terminated": True},
        )
        assert answer.status_code == status, answer.text
    assert len(services.sessions.calls) == 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"method": "smoke"}, "method"),
        ({"method": None}, "method"),
        ({"method": "pairing_code"}, "phone_number"),
        ({"method": "pairing_code", "phone_number": None}, "phone_number"),
        ({"method": "pairing_code", "phone_number": ""}, "phone_number"),
        ({"method": "pairing_code", "phone_number": "12"}, "phone_number"),
        ({"method": "pairing_code", "phone_number": "+999123456789"}, "phone_number"),
        ({"method": "pairing_code", "phone_number": "+1 800 FLOWERS"}, "phone_number"),
        ({"method": "pairing_code", "phone_number": "+55119876543210000"}, "phone_number"),
        ({"method": "pairing_code", "phone_number": 5511987654321}, "phone_number"),
        ({"method": "pairing_code", "phone_number": "٥٥١١٩٨٧٦٥٤٣٢١"}, "phone_number"),
        ({"fresh": "yes"}, "fresh"),
        ({"fresh": 1}, "fresh"),
        ({"user_id": 5}, "user_id"),
        ({"user_id": "a\x00b"}, "user_id"),
        ({"user_id": "a" * 129}, "user_id"),
        ({"proxy": "ftp://proxy.example:21"}, "proxy"),
        ({"proxy": "socks4://proxy.example:21"}, "proxy"),
        ({"proxy": "proxy.example:3128"}, "proxy"),
        ({"proxy": "http://"}, "proxy"),
        ({"proxy": "http://proxy.example:99999"}, "proxy"),
        ({"proxy": "http://proxy.example:port"}, "proxy"),
        ({"proxy": "http://proxy.example/path"}, "proxy"),
        ({"proxy": "http://proxy.example\r\nX: y"}, "proxy"),
        ({"proxy": "http://[::1"}, "proxy"),
        ({"proxy": "http://" + "a" * 3000}, "proxy"),
    ],
)
def test_bad_connect_fields(
    client: FlaskClient, services: FakeServices, changes: dict[str, Any], field: str
) -> None:
    answer = client.post(f"{API}/connect", json={"company_id": COMPANY, "method": "qr", **changes})

    assert_refused(answer, field, services)


def test_a_refused_proxy_is_not_repeated(client: FlaskClient) -> None:
    body = {"company_id": COMPANY, "method": "qr", "proxy": "ftp://user:hunter2@proxy.example"}

    assert "hunter2" not in client.post(f"{API}/connect", json=body).text


@pytest.mark.parametrize("proxy", ["http://p:3128", "https://u:p@p/", "socks5://[::1]:1080"])
def test_good_proxies(client: FlaskClient, proxy: str) -> None:
    body = {"company_id": COMPANY, "method": "qr", "proxy": proxy}

    assert client.post(f"{API}/connect", json=body).status_code == 202


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"text": ""}, "text"),
        ({"text": "x" * 65_537}, "text"),
        ({"text": "a\x00b"}, "text"),
        ({"text": 5}, "text"),
        ({"text": None}, "text"),
        ({"type": "image"}, "media"),
        ({"type": "sticker"}, "type"),
        ({"type": None}, "type"),
        ({"to": ""}, "to"),
        ({"to": "5511\n987"}, "to"),
        ({"to": ["5511987654321"]}, "to"),
    ],
)
def test_bad_message_fields(
    client: FlaskClient, services: FakeServices, changes: dict[str, Any], field: str
) -> None:
    body = {"company_id": COMPANY, **POST_PATHS["messages/send"], **changes}

    assert_refused(client.post(f"{API}/messages/send", json=body), field, services)


def test_half_a_surrogate_pair_is_refused(client: FlaskClient, services: FakeServices) -> None:
    raw = f'{{"company_id": "{COMPANY}", "to": "5511987654321", "type": "text", "text": "\\ud800"}}'

    answer = client.post(f"{API}/messages/send", data=raw, content_type="application/json")

    assert_refused(answer, "text", services)


def test_bad_qr_format(client: FlaskClient, services: FakeServices) -> None:
    assert_refused(client.get(f"{API}/qr?company_id={COMPANY}&format=gif"), "format", services)


def test_a_body_has_room_for_what_its_route_takes(client: FlaskClient) -> None:
    body = json.dumps({"company_id": COMPANY})

    for size, status in ((64 * 1024, 200), (64 * 1024 + 1, 413)):
        answer = client.post(
            f"{API}/logout", data=body.ljust(size), content_type="application/json"
        )
        assert answer.status_code == status, answer.text
    assert answer.get_json()["error"]["max_bytes"] == 64 * 1024


def test_the_longest_text_fits_however_it_is_written(
    client: FlaskClient, services: FakeServices
) -> None:
    text = "\U0001f600" * 65_536

    for raw in (json.dumps({"text": text}), json.dumps({"text": text}, ensure_ascii=False)):
        fields = f'{{"company_id": "{COMPANY}", "to": "5511987654321", "type": "text", '
        answer = client.post(
            f"{API}/messages/send", data=fields + raw[1:], content_type="application/json"
        )
        assert answer.status_code == 200, answer.text
    assert services.messaging.sent[-1][-1] == text


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip", "GZIP"])
def test_packed_bodies_are_refused(client: FlaskClient, coding: str) -> None:
    answer = client.post(
        f"{API}/logout", json={"company_id": COMPANY}, headers={"Content-Encoding": coding}
    )

    assert answer.status_code == 415
    assert "Content-Encoding" in answer.get_json()["error"]["message"]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"\\ud800": 1}',
        b'{"\\ud800": 1, "\\ud800": 2}',
        b'{"company_id": {"\\udfff": 1, "\\udfff": 1}}',
        b'{"\\ud800\\u0000": [[]]}',
    ],
)
def test_names_with_half_a_character_are_refused_in_an_answer_that_can_be_read(
    client: FlaskClient, raw: bytes
) -> None:
    answer = client.post(f"{API}/logout", data=raw, content_type="application/json")

    assert answer.status_code == 400
    assert answer.get_json()["error"]["code"] == "invalid-input"


def test_forms_are_small(anonymous: FlaskClient) -> None:
    answer = anonymous.post("/dashboard/login", data={"api_key": "x" * 9_000})

    assert answer.status_code == 413
