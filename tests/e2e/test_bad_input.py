"""Bad input: named, refused, and never near the file system."""

import contextlib
import http.client
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from deployment import Deployment, SandboxAdmin, empty_database

from local_supabase import LocalSupabase
from sandbox import Sandbox
from service_process import API, Answer, wait_for

pytestmark = pytest.mark.e2e

GOOD = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"

BAD_COMPANY_IDS = {
    "empty": "",
    "blank": " ",
    "parent": "../..",
    "parent-padded-to-36": "../../../../../../../../etc/passwd12",
    "encoded-parent": "%2e%2e%2f%2e%2e",
    "absolute": "/etc/passwd",
    "ten-kilobytes": "a" * 10_240,
    "nul": "3b1bee0c-cbee-4de1-88f1-d6e890f4c99\x00",
    "nul-appended": GOOD + "\x00",
    "newline-appended": GOOD + "\n",
    "urn": f"urn:uuid:{GOOD}",
    "braces": f"{{{GOOD}}}",
    "no-dashes": GOOD.replace("-", ""),
    "dashes-elsewhere": "3b1bee0-ccbee-4de1-88f1-d6e890f4c995",
    "too-short": GOOD[:-1],
    "too-long": GOOD + "0",
    "not-hexadecimal": GOOD[:-1] + "g",
    "spaces-around": f" {GOOD} ",
    "unicode-digits": GOOD.replace("3", "\uff13"),
    "dotless-i": "\u0131" * 36,
}

QUERIES = ("status", "qr", "pairing-code", "session-info")
POSTS: dict[str, dict[str, Any]] = {
    "connect": {"method": "qr"},
    "disconnect": {},
    "restore": {},
    "logout": {},
    "messages/send": {"to": "+5511987654321", "type": "text", "text": "hello"},
}


@pytest.fixture(scope="module")
def deployment(
    stack: LocalSupabase, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """One service for the whole module: nothing here may change anything in it."""
    empty_database(stack.db_url)
    phones = SandboxAdmin(sandbox.admin_url)
    phones.reset()
    folder = tmp_path_factory.mktemp("bad-input")
    world = Deployment(stack=stack, sandbox=sandbox, phones=phones, folder=folder)
    try:
        world.start(SYNC_INTERVAL_SECONDS="3600")
        assert wait_for(lambda: has_read_the_keys(world), 30), "the keys were not read"
        yield world
    finally:
        world.end()


def has_read_the_keys(world: Deployment) -> bool:
    """Tell whether the keys of the database are known; until then a file of them may appear."""
    checks = {check["name"]: check for check in world.service.readiness()["checks"]}
    return bool(checks["api-keys"]["loaded"])


def entries(root: Path) -> set[str]:
    """Return everything under SESSIONS_DIR but what SQLite and the write check come and go with."""
    return {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if not path.name.startswith((".write-check-", "state.db-"))
    }


@pytest.fixture(autouse=True)
def untouched(deployment: Deployment) -> Iterator[None]:
    """Whatever a test here sends: no file appears, no row, no engine, no connection."""
    before, engines = entries(deployment.sessions_dir), deployment.service.engine_pids()
    around = set(deployment.folder.iterdir())
    yield
    assert entries(deployment.sessions_dir) == before
    assert set(deployment.folder.iterdir()) == around
    assert deployment.service.engine_pids() == engines
    assert not deployment.rows("select company_id from public.whatsapp_connections")
    assert deployment.service.readiness()["ready"] is True


def assert_named(answer: Answer, field: str) -> None:
    """The answer is 400 in the form of the contract, and says which field it was."""
    assert answer.status == 400, (answer.status, answer.content[:300])
    error = answer.json()["error"]
    assert error["code"] == "invalid-input", error
    assert field in error["message"], error
    assert error["field"] == field, error
    assert field in [item["field"] for item in error["fields"]], error


def raw_request(
    deployment: Deployment, method: str, target: str, body: bytes | None = None, **headers: str
) -> Answer:
    """Send exactly this target, without what urllib would mend in it."""
    connection = http.client.HTTPConnection("127.0.0.1", deployment.service.port, timeout=20)
    try:
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in {"X-API-Key": deployment.service.api_key, **headers}.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return Answer(response.status, dict(response.headers), response.read())
    finally:
        connection.close()


@pytest.mark.parametrize("bad", BAD_COMPANY_IDS.values(), ids=BAD_COMPANY_IDS.keys())
def test_only_canonical_uuids_are_companies(deployment: Deployment, bad: str) -> None:
    for call, more in POSTS.items():
        answer = deployment.service.post(call, company_id=bad, **more)
        assert_named(answer, "company_id")
    for call in QUERIES:
        target = f"{API}/{call}?company_id={quote(bad, safe='')}"
        answer = raw_request(deployment, "GET", target)
        if len(target) > 8190:  # gunicorn refuses such a line before there is a request
            assert answer.status in (400, 414), answer.content[:200]
            continue
        assert_named(answer, "company_id")
    if bad and len(bad) < 8000:
        answer = raw_request(deployment, "DELETE", f"{API}/sessions/{quote(bad, safe='')}")
        if bad.startswith("/") or "\n" in bad:  # no address of this service looks like that
            assert answer.status == 404, answer.content[:200]
        else:
            assert_named(answer, "company_id")


@pytest.mark.parametrize("bad", [None, 7, True, [GOOD], {"id": GOOD}, 1.5e300])
def test_only_texts_are_company_ids(deployment: Deployment, bad: Any) -> None:
    for call, more in POSTS.items():
        assert_named(deployment.service.post(call, company_id=bad, **more), "company_id")


@pytest.mark.parametrize(
    "target",
    [
        "/api/whatsapp/sessions/../../etc",
        "/api/whatsapp/sessions/..%2f..%2fetc",
        "/api/whatsapp/sessions//etc/passwd",
        f"/api/whatsapp/sessions/{GOOD}/../..",
        f"/api/whatsapp/sessions/{GOOD}%00",
        "/api/whatsapp/sessions/",
    ],
)
def test_paths_cannot_be_walked(deployment: Deployment, target: str) -> None:
    answer = raw_request(deployment, "DELETE", target)
    assert answer.status in (400, 404, 405), answer.content[:200]
    assert b"passwd" not in answer.content
    assert b"Traceback" not in answer.content


def test_upper_case_is_the_same_company(deployment: Deployment) -> None:
    shown = deployment.service.status(GOOD.upper())
    assert (shown["company_id"], shown["status"]) == (GOOD, "disconnected")


@pytest.mark.parametrize("call", POSTS)
def test_a_missing_company_is_named(deployment: Deployment, call: str) -> None:
    assert_named(deployment.service.post(call, **POSTS[call]), "company_id")


@pytest.mark.parametrize("call", QUERIES)
def test_queries_without_or_with_two_companies_are_refused(
    deployment: Deployment, call: str
) -> None:
    assert_named(deployment.service.request("GET", f"{API}/{call}"), "company_id")
    twice = f"company_id={GOOD}&company_id={uuid.uuid4()}"
    assert_named(deployment.service.request("GET", f"{API}/{call}?{twice}"), "company_id")


@pytest.mark.parametrize("call", POSTS)
def test_unknown_fields_are_named(deployment: Deployment, call: str) -> None:
    body = {"company_id": GOOD, **POSTS[call], "comapny": "x"}
    assert_named(deployment.service.post(call, **body), "comapny")


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("method", "telepathy"),
        ("method", None),
        ("method", ["qr"]),
        ("phone_number", "call me"),
        ("phone_number", "12"),
        ("phone_number", 5511987654321),
        ("phone_number", "+55\x0011987654321"),
        ("fresh", "yes"),
        ("fresh", 1),
        ("user_id", ""),
        ("user_id", "a\nb"),
        ("user_id", "x" * 10_000),
        ("user_id", 7),
        ("proxy", "ftp://proxy"),
        ("proxy", "http://"),
        ("proxy", "http://host:99999"),
        ("proxy", "socks5://ho st:1080"),
        ("proxy", "javascript:alert(1)"),
        ("proxy", "http://h/" + "x" * 5000),
    ],
)
def test_connect_names_what_is_wrong(deployment: Deployment, field: str, bad: Any) -> None:
    body = {"company_id": GOOD, "method": "qr", field: bad}
    assert_named(deployment.service.post("connect", **body), field)


def test_a_pairing_code_needs_a_number(deployment: Deployment) -> None:
    answer = deployment.service.post("connect", company_id=GOOD, method="pairing_code")
    assert_named(answer, "phone_number")


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("to", "nobody"),
        ("to", ""),
        ("to", "+55 (11) letters"),
        ("to", "5511987654321@evil.example"),
        ("to", "../../etc/passwd"),
        ("to", "5511987654321@s.whatsapp.net\x00"),
        ("to", 5511987654321),
        ("to", "9" * 10_000),
        ("type", "telegram"),
        ("type", None),
        ("text", ""),
        ("text", None),
        ("text", ["a"]),
        ("text", "nul\x00inside"),
        ("text", "x" * 70_000),
    ],
)
def test_send_names_what_is_wrong(deployment: Deployment, field: str, bad: Any) -> None:
    body = {"company_id": GOOD, **POSTS["messages/send"], field: bad}
    assert_named(deployment.service.post("messages/send", **body), field)


@pytest.mark.parametrize("bad", ["gif", "", "png%00", "../png", "RAW"])
def test_qr_names_its_format(deployment: Deployment, bad: str) -> None:
    answer = deployment.service.request("GET", f"{API}/qr?company_id={GOOD}&format={bad}")
    assert_named(answer, "format")


def test_other_parameters_are_refused_everywhere(deployment: Deployment) -> None:
    for path in (f"{API}/status?company_id={GOOD}&", f"{API}/active-sessions?", "/healthz?"):
        answer = deployment.service.request("GET", f"{path}verbose=1")
        assert_named(answer, "verbose")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b"\xff\xfe",
        b'{"company_id": NaN}',
        b"[" * 50_000,
        b'{"company_id": "\\ud800"}',
        b'{"company_id": 1, "company_id": 2}',
    ],
)
@pytest.mark.parametrize("call", POSTS)
def test_what_is_no_json_object_is_refused(deployment: Deployment, call: str, body: bytes) -> None:
    answer = deployment.service.request("POST", f"{API}/{call}", body)
    assert answer.status == 400, answer.content[:200]
    assert answer.json()["error"]["code"] == "invalid-input"


@pytest.mark.parametrize("call", POSTS)
def test_other_content_types_are_refused(deployment: Deployment, call: str) -> None:
    body = json.dumps({"company_id": GOOD, **POSTS[call]}).encode()
    for content_type in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = raw_request(
            deployment, "POST", f"{API}/{call}", body, **{"Content-Type": content_type}
        )
        assert answer.status == 415, answer.content[:200]
        assert answer.json()["error"]["code"] == "unsupported-media-type"


def too_many_bytes(call: str) -> int:
    """Return more than the call takes: attachments travel in bodies, too."""
    return (24 if call == "messages/send" else 2) * 1024 * 1024


@pytest.mark.parametrize("call", POSTS)
def test_a_large_body_is_too_much(deployment: Deployment, call: str) -> None:
    body = {"company_id": GOOD, **POSTS[call], "padding": "x" * too_many_bytes(call)}
    answer = deployment.service.post(call, **body)
    assert answer.status == 413, answer.content[:200]
    assert answer.json()["error"]["code"] == "body-too-large"


@pytest.mark.parametrize("call", POSTS)
def test_a_large_body_in_chunks_is_too_much(deployment: Deployment, call: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", deployment.service.port, timeout=20)
    chunks = [b'{"company_id": "', *[b"x" * 65_536] * (too_many_bytes(call) // 65_536), b'"}']
    try:
        with contextlib.suppress(BrokenPipeError):  # refused before all of it was sent
            connection.request(
                "POST",
                f"{API}/{call}",
                iter(chunks),
                {"X-API-Key": deployment.service.api_key, "Content-Type": "application/json"},
                encode_chunked=True,
            )
        response = connection.getresponse()
        assert response.status == 413, response.read()[:200]
    finally:
        connection.close()


PROTECTED = [
    *(("GET", f"{API}/{call}?company_id={GOOD}") for call in QUERIES),
    *(("POST", f"{API}/{call}") for call in POSTS),
    ("DELETE", f"{API}/sessions/{GOOD}"),
    ("GET", f"{API}/active-sessions"),
]


@pytest.mark.parametrize(("method", "path"), PROTECTED)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "e2e-service-key-0123456788"},
        {"X-API-Key": "e2e-service-key-0123456789x"},
        {"X-API-Key": "\xe9" * 20},
        {"X-API-Key": "x" * 7000},
        {"Authorization": "Bearer e2e-service-key-0123456788"},
        {"Authorization": "Basic ZTplMmU="},
        {"Authorization": "Bearer a.b.c"},
    ],
    ids=[
        "none",
        "empty",
        "wrong",
        "longer",
        "not-ascii",
        "huge",
        "wrong-bearer",
        "basic",
        "rubbish-token",
    ],
)
def test_without_the_right_key_nothing_is_answered(
    deployment: Deployment, method: str, path: str, headers: dict[str, str]
) -> None:
    body = b"{}" if method == "POST" else None
    connection = http.client.HTTPConnection("127.0.0.1", deployment.service.port, timeout=20)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    assert response.status == 401, content[:200]
    error = json.loads(content)["error"]
    assert error["code"] == "unauthorized"
    assert "e2e-service-key" not in content.decode()
    assert response.headers["WWW-Authenticate"]


def test_the_key_is_asked_for_before_the_body_is_looked_at(deployment: Deployment) -> None:
    answer = deployment.service.request(
        "POST", f"{API}/connect", b"x" * 2 * 1024 * 1024, key="not-the-key-0123456789"
    )
    assert answer.status == 401


def test_methods_and_addresses_that_do_not_exist(deployment: Deployment) -> None:
    for method, path, status in (
        ("POST", f"{API}/status", 405),
        ("GET", f"{API}/connect", 405),
        ("PUT", f"{API}/sessions/{GOOD}", 405),
        ("GET", f"{API}/nothing", 404),
        ("GET", "/api//whatsapp/status", 404),
        ("GET", "/.env", 404),
        ("GET", "/dashboard/static/../../config.py", 404),
    ):
        answer = raw_request(deployment, method, path)
        assert answer.status == status, (path, answer.status)
        assert b"Traceback" not in answer.content
