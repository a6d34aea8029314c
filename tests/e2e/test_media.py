"""Attachments: they arrive byte for byte, and nothing else gets in or out on their way."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from deployment import Deployment
from file_server import FileServer

from service_process import Answer, free_port, wait_for
from tests import media_samples as samples

pytestmark = pytest.mark.e2e

ANNA = "5511987654321"
SECRET = "token-of-a-signed-url-0123456789"
INNER = (
    "http://127.0.0.1:{port}/report.pdf",
    "http://localhost:{port}/report.pdf",
    "http://files.localhost:{port}/report.pdf",
    "http://127.1:{port}/report.pdf",
    "http://2130706433:{port}/report.pdf",
    "http://0x7f000001:{port}/report.pdf",
    "http://0177.0.0.1:{port}/report.pdf",
    "http://0.0.0.0:{port}/report.pdf",
    "http://[::1]:{port}/report.pdf",
    "http://[::ffff:127.0.0.1]:{port}/report.pdf",
    "http://[::ffff:7f00:1]:{port}/report.pdf",
    "http://[64:ff9b::7f00:1]:{port}/report.pdf",
    "http://169.254.169.254/latest/meta-data/",
    "https://10.0.0.1/",
    "https://192.168.1.1/",
    "https://100.64.0.1/",
    "https://[fd00::1]/",
    "https://[fe80::1]/",
)


@dataclass(frozen=True, slots=True)
class World:
    """A service with two connected companies, and a server of files beside it."""

    deployment: Deployment
    files: FileServer
    companies: list[str]

    @property
    def company(self) -> str:
        """The first of them."""
        return self.companies[0]

    def send(self, company_id: str | None = None, **body: Any) -> Answer:
        """Send a message to Anna."""
        return self.deployment.service.post(
            "messages/send", company_id=company_id or self.company, to=f"+{ANNA}", **body
        )

    def fetch(self, path: str, kind: str = "document", **media: Any) -> Answer:
        """Send what the server of files has under a path."""
        return self.send(type=kind, media={"url": self.files.url(path), **media})

    def arrived(self, whatsapp_id: str) -> dict[str, Any]:
        """Return the message as Anna's phone got it."""
        found: list[dict[str, Any]] = []

        def here() -> bool:
            every = self.deployment.phones.call("messages?after=0")
            found[:] = [message for message in every if message["id"] == whatsapp_id]
            return bool(found)

        assert wait_for(here, 20), f"{whatsapp_id} did not arrive"
        return found[0]

    def kept_files(self) -> list[str]:
        """Return what is in the folder of attachments."""
        return os.listdir(self.deployment.sessions_dir / ".media")


@pytest.fixture
def files() -> Iterator[FileServer]:
    """A server of files on this machine."""
    with FileServer().running() as server:
        server.files["/report.pdf"] = samples.PDF
        yield server


def started(deployment: Deployment, files: FileServer, **settings: str) -> World:
    """Start a service that may fetch from this machine."""
    companies = list(deployment.seed(2))
    deployment.start(**{"MEDIA_ALLOWED_NETWORKS": "127.0.0.1", **settings})
    deployment.await_all_connected(companies)
    return World(deployment, files, companies)


@pytest.fixture
def world(deployment: Deployment, files: FileServer) -> World:
    """The usual one."""
    return started(deployment, files)


def encoded(content: bytes) -> str:
    """Return base64."""
    return base64.b64encode(content).decode()


def assert_error(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """Return the error; fail unless it is this one."""
    assert answer.status == status, answer.content
    error: dict[str, Any] = answer.json()["error"]
    assert error["code"] == code, error
    return error


def assert_same(message: dict[str, Any], kind: str, content: bytes, mimetype: str) -> None:
    """Fail unless the phone could decrypt exactly this from what was uploaded."""
    media = message["media"]
    assert message["kind"] == media["kind"] == kind
    assert media["uploaded"] is True
    assert media["bytes"] == len(content)
    assert media["sha256"] == hashlib.sha256(content).hexdigest()
    assert media["mimetype"] == mimetype


def test_every_kind_arrives_byte_for_byte(world: World) -> None:
    picture = samples.png(noise=os.urandom(300_000))
    sent = world.send(
        type="image", media={"base64": encoded(picture), "caption": "olá 👋", "filename": "a.png"}
    )
    assert sent.status == 200, sent.content
    message = world.arrived(sent.json()["whatsapp_id"])
    assert_same(message, "image", picture, "image/png")
    assert message["text"] == "olá 👋"
    assert message["media"]["file_name"] is None

    report = samples.PDF[:-6] + b"%" + os.urandom(2_000_000).hex().encode() + b"\n%%EOF\n"
    world.files.files["/r"] = report
    sent = world.fetch("/r", mimetype="application/pdf", filename="conta.pdf", caption="março")
    assert sent.status == 200, sent.content
    message = world.arrived(sent.json()["whatsapp_id"])
    assert_same(message, "document", report, "application/pdf")
    assert (message["text"], message["media"]["file_name"]) == ("março", "conta.pdf")

    for kind, content, mimetype in (
        ("video", samples.MP4, "video/mp4"),
        ("audio", samples.OPUS, "audio/ogg; codecs=opus"),
    ):
        sent = world.send(type=kind, media={"base64": encoded(content)})
        assert sent.status == 200, sent.content
        assert_same(world.arrived(sent.json()["whatsapp_id"]), kind, content, mimetype)

    sent = world.send(
        type="document", media={"base64": encoded(samples.CSV), "mimetype": "text/csv"}
    )
    message = world.arrived(sent.json()["whatsapp_id"])
    assert_same(message, "document", samples.CSV, "text/csv")
    assert message["media"]["file_name"] == "document.csv"

    sent = world.send(text="a text needs no type")
    assert world.arrived(sent.json()["whatsapp_id"])["text"] == "a text needs no type"
    assert world.kept_files() == []


def test_the_largest_attachments_are_taken_and_larger_ones_are_not(world: World) -> None:
    most = 16 * 1024 * 1024
    empty = len(samples.png(noise=b"x")) - 1
    largest = samples.png(noise=os.urandom(most - empty))
    assert len(largest) == most
    sent = world.send(type="image", media={"base64": encoded(largest)})
    assert sent.status == 200, sent.content
    assert_same(world.arrived(sent.json()["whatsapp_id"]), "image", largest, "image/png")

    larger = samples.png(noise=os.urandom(most - empty + 1))
    refused = world.send(type="image", media={"base64": encoded(larger)})
    assert assert_error(refused, 413, "media-too-large")["max_bytes"] == most
    world.files.files["/larger.png"] = larger
    assert_error(world.fetch("/larger.png", "image"), 413, "media-too-large")
    sent = world.fetch("/larger.png", "document")  # those may have 32 MB
    assert sent.status == 200, sent.content
    huge = world.send(type="document", media={"base64": "A" * 24_000_000})
    assert_error(huge, 413, "body-too-large")
    assert world.kept_files() == []


def inner_names() -> list[str]:
    """Return the name of this machine where that leads to no public address."""
    name = socket.gethostname()
    try:
        found = {str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(name, 80)}
    except OSError:
        return []
    return [] if any(ipaddress.ip_address(text).is_global for text in found) else [name]


def test_addresses_inside_are_refused_with_one_text_and_never_spoken_to(
    deployment: Deployment, files: FileServer
) -> None:
    world = started(deployment, files, MEDIA_ALLOWED_NETWORKS="")
    hosts = [url.format(port=files.port) for url in INNER]
    hosts += [f"http://{name}/" for name in inner_names()] + ["https://no-such-host.invalid/"]
    texts = set()
    for url in hosts:
        answer = world.send(type="document", media={"url": url})
        texts.add(assert_error(answer, 400, "media-address-refused")["message"])
    assert len(texts) == 1
    assert "MEDIA_ALLOWED_NETWORKS" in texts.pop()
    assert files.requests == []
    for bad in (
        "http://user:password@127.0.0.1/",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "//127.0.0.1/",
        "http://127.0.0.1\\@example.com/",
        "http:///x",
    ):
        error = assert_error(world.send(type="document", media={"url": bad}), 400, "invalid-input")
        assert error["field"] == "media.url"
        assert "password" not in deployment.log()


def test_what_is_no_file_is_told_apart(deployment: Deployment, files: FileServer) -> None:
    world = started(deployment, files, MEDIA_FETCH_TIMEOUT_SECONDS="1.5", MEDIA_DOCUMENT_MAX_MB="1")
    expected = {
        "/redirect": (422, "media-unreachable", "redirects are not followed"),
        "/missing": (422, "media-unreachable", "answered 404"),
        "/packed": (422, "media-unreachable", "compressed"),
        "/huge": (413, "media-too-large", "more than 1048576 bytes"),
        "/short": (422, "media-unreachable", "broke off"),
        "/endless": (413, "media-too-large", "more than 1048576 bytes"),
        "/drip": (422, "media-unreachable", "no whole answer within 1.5 s"),
        "/silent": (422, "media-unreachable", "no whole answer within 1.5 s"),
    }
    for path, (status, code, words) in expected.items():
        error = assert_error(world.fetch(f"{path}?signature={SECRET}"), status, code)
        assert words in error["message"], error
    answer = world.send(type="document", media={"url": f"http://127.0.0.1:{free_port()}/"})
    assert "no connection" in assert_error(answer, 422, "media-unreachable")["message"]
    sent = world.fetch(f"/report.pdf?signature={SECRET}")
    assert sent.status == 200, sent.content
    assert f"/report.pdf?signature={SECRET}" in files.requests
    assert SECRET not in deployment.log()
    assert world.kept_files() == []


def test_names_and_types_that_contradict_the_content_are_refused(world: World) -> None:
    html, picture, text = encoded(samples.HTML), encoded(samples.png()), encoded(b"echo hello\n")
    cases = [
        ("image", {"base64": html, "mimetype": "image/png", "filename": "a.png"}, "media"),
        ("document", {"base64": html, "mimetype": "text/html"}, "media"),
        ("document", {"base64": html, "mimetype": "text/plain", "filename": "a.txt"}, "media"),
        ("document", {"base64": encoded(samples.EXE), "filename": "a.pdf"}, "media"),
        ("video", {"base64": picture}, "media"),
        ("image", {"base64": picture, "mimetype": "image/jpeg"}, "media.mimetype"),
        ("document", {"base64": picture, "filename": "a.exe"}, "media.filename"),
        ("document", {"base64": text, "filename": "a.bat"}, "media.filename"),
        ("document", {"base64": text, "mimetype": "application/pdf"}, "media.mimetype"),
    ]
    for kind, media, field in cases:
        error = assert_error(world.send(type=kind, media=media), 400, "media-type-refused")
        assert error["field"] == field, error
    told = world.send(type="image", media={"base64": picture, "mimetype": "image/jpeg"})
    assert "image/jpeg" in told.json()["error"]["message"]
    assert "image/png" in told.json()["error"]["message"]
    world.files.files["/page.png"] = samples.HTML
    assert_error(world.fetch("/page.png", "image"), 400, "media-type-refused")
    assert world.kept_files() == []
    assert world.deployment.phones.call("messages?after=0") == []


def test_a_session_that_is_not_connected_is_told_before_anything_is_fetched(world: World) -> None:
    service = world.deployment.service
    assert service.post("disconnect", company_id=world.company).status == 200
    world.deployment.await_status(world.company, "disconnected")

    error = assert_error(world.fetch("/report.pdf"), 422, "session-not-connected")

    assert error["expected"] == ["connected"]
    assert world.files.requests == []


def test_an_upload_that_hangs_holds_up_nobody_and_sends_nothing_late(
    deployment: Deployment, files: FileServer
) -> None:
    # The time is for what is not held up; what hangs takes all of it.
    world = started(deployment, files, MEDIA_UPLOAD_TIMEOUT_SECONDS="8")
    phones, (first, second) = deployment.phones, world.companies
    phones.call("uploads", {"hold": True})
    seen = phones.last_event()
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(world.fetch, "/report.pdf")
        phones.await_event(seen, type="upload-held")
        for company in (first, second):
            sent = world.send(company, text=f"from {company}")
            assert sent.status == 200, sent.content
        assert not hanging.done()
        assert world.kept_files() != []
        failed = hanging.result(60)
    assert_error(failed, 503, "media-not-uploaded")
    assert failed.headers["Retry-After"] == "5"
    assert "auth=" not in failed.content.decode() + deployment.log()
    assert world.kept_files() == []

    seen = phones.last_event()
    phones.call("uploads", {"hold": False})
    phones.await_event(seen, type="upload")  # the late one
    sent = world.send(first, type="document", media={"base64": encoded(samples.PDF)})
    assert sent.status == 200, sent.content
    world.arrived(sent.json()["whatsapp_id"])
    kinds = [message["kind"] for message in phones.call("messages?after=0")]
    assert kinds == ["text", "text", "document"]
    assert deployment.engine_deaths() == []


def test_an_engine_full_of_uploads_that_hang_is_replaced(
    deployment: Deployment, files: FileServer
) -> None:
    world = started(
        deployment, files, MEDIA_UPLOAD_TIMEOUT_SECONDS="1", MEDIA_IN_FLIGHT_PER_COMPANY="4"
    )
    phones, (before,) = deployment.phones, deployment.service.engine_pids()
    phones.call("uploads", {"hold": True})
    with ThreadPoolExecutor(4) as pool:
        hanging = [pool.submit(world.fetch, "/report.pdf") for _ in range(4)]
        codes = {answer.result(60).json()["error"]["code"] for answer in hanging}
    assert codes == {"media-not-uploaded"}

    assert wait_for(lambda: before not in deployment.service.engine_pids(), 60), deployment.log()
    assert "4 uploads that hang" in deployment.log()
    deployment.await_all_connected(world.companies)
    phones.call("uploads", {"hold": False})
    sent = world.fetch("/report.pdf")
    assert sent.status == 200, sent.content
    world.arrived(sent.json()["whatsapp_id"])
    assert len(phones.call("messages?after=0")) == 1
    assert deployment.engine_deaths() == []


def test_only_so_many_are_under_way(deployment: Deployment, files: FileServer) -> None:
    world = started(deployment, files, MEDIA_IN_FLIGHT="2", MEDIA_IN_FLIGHT_PER_COMPANY="1")
    phones, (first, second) = deployment.phones, world.companies
    phones.call("uploads", {"hold": True})
    large = encoded(samples.png(noise=os.urandom(1_500_000)))
    with ThreadPoolExecutor(2) as pool:
        waiting = []
        for company in (first, second):
            seen = phones.last_event()
            waiting.append(pool.submit(world.send, company, type="image", media={"base64": large}))
            phones.await_event(seen, type="upload-held")
        for media in ({"base64": large}, {"base64": encoded(samples.png())}):
            refused = world.send(first, type="image", media=media)
            assert_error(refused, 503, "busy")
            assert refused.headers["Retry-After"] == "1"
        assert world.send(first, text="a text needs no place").status == 200
        phones.call("uploads", {"hold": False})
        assert [answer.result(60).status for answer in waiting] == [200, 200]
    assert world.send(first, type="image", media={"base64": large}).status == 200


def test_what_a_killed_service_left_is_removed_and_nobody_else_could_read_it(
    deployment: Deployment, files: FileServer
) -> None:
    world = started(deployment, files)
    phones = deployment.phones
    phones.call("uploads", {"hold": True})
    seen = phones.last_event()
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(world.fetch, "/report.pdf")
        phones.await_event(seen, type="upload-held")
        folder = deployment.sessions_dir / ".media"
        (left,) = folder.iterdir()
        assert (folder.stat().st_mode & 0o777, left.stat().st_mode & 0o777) == (0o700, 0o600)
        assert left.read_bytes() == samples.PDF
        deployment.service.kill()
        with pytest.raises(OSError):
            lost.result(60)
    phones.call("uploads", {"hold": False})
    assert world.kept_files() == [left.name]
    deployment.start()
    assert world.kept_files() == []
