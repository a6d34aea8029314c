"""Attachments on their way to the engine: looked at, bounded, and gone afterwards."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from crm_whatsapp.domain.engines import SentMessage
from crm_whatsapp.domain.errors import InvalidInput, ServiceBusy, SessionNotConnected
from crm_whatsapp.domain.media import (
    MediaAddressRefused,
    MediaFetcher,
    MediaKind,
    MediaLimits,
    MediaNote,
    MediaNotUploaded,
    MediaSource,
    MediaTooLarge,
    MediaTypeRefused,
    MediaUnreachable,
)
from crm_whatsapp.service.media_messaging import MediaMessaging
from crm_whatsapp.service.messaging import Messaging, SendLimits
from crm_whatsapp.sessions.media_files import LocalMediaFiles
from tests import media_samples as samples
from tests.unit.service.fakes import DEADLINE_SECONDS
from tests.unit.service.pod import COMPANY, OTHER, Pod

TO = "+5511999999999"
SENT = SentMessage(whatsapp_id="3EB0", server_timestamp_seconds=1)
URL = "https://files.example.com/a"


class FakeFetcher(MediaFetcher):
    """Brings what it is given, in two pieces."""

    def __init__(self) -> None:
        self.content = samples.PDF
        self.refusal: Exception | None = None
        self.failure: Exception | None = None
        self.fetched: list[tuple[str, int]] = []

    def check(self, url: str) -> None:
        if self.refusal is not None:
            raise self.refusal

    def fetch(self, url: str, take: Callable[[bytes], None], *, most_bytes: int) -> None:
        self.fetched.append((url, most_bytes))
        take(self.content[:5])
        if self.failure is not None:
            raise self.failure
        take(self.content[5:])


class Desk:
    """A MediaMessaging on a pod."""

    def __init__(self, pod: Pod, root: Path) -> None:
        self.pod = pod
        self.fetcher = FakeFetcher()
        files = LocalMediaFiles(root)
        files.clear()
        self.folder = root / ".media"
        limits = SendLimits(connect_wait_seconds=DEADLINE_SECONDS)
        messaging = Messaging(manager=pod.manager, fleet=pod.fleet, limits=limits)
        self.service = MediaMessaging(
            messaging=messaging,
            fleet=pod.fleet,
            fetcher=self.fetcher,
            files=files,
            limits=MediaLimits(
                most_bytes=dict.fromkeys(MediaKind, 1000),
                most_sent_bytes=900,
                in_flight=2,
                in_flight_per_company=1,
                upload_seconds=DEADLINE_SECONDS,
            ),
        )

    def send(self, source: MediaSource, kind: str = "document", **note: str) -> SentMessage:
        return self.service.send_media(
            COMPANY, to=TO, note=MediaNote(kind=MediaKind(kind), **note), source=source
        )


@pytest.fixture
def desk(pod: Pod, tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(pod, tmp_path)
    yield desk
    assert list(desk.folder.iterdir()) == []


FETCHED = MediaSource(url=URL)


def test_the_engine_gets_a_file_with_the_content_and_what_it_is(desk: Desk) -> None:
    desk.pod.connect_saved()
    desk.pod.fleet.send_results = [SENT, SENT]
    assert desk.send(FETCHED, caption="olá") == SENT
    assert desk.send(MediaSource(content=samples.png()), "image", filename="a.png") == SENT
    (first, pdf), (second, png) = desk.pod.fleet.parcels
    assert (pdf, png) == (samples.PDF, samples.png())
    assert (first.mimetype, first.filename, first.caption) == (
        "application/pdf",
        "document.pdf",
        "olá",
    )
    assert (second.kind, second.mimetype, second.filename) == ("image", "image/png", None)
    assert desk.fetcher.fetched == [(URL, 1000)]


def test_nothing_is_fetched_for_a_session_that_is_not_connected(desk: Desk) -> None:
    desk.pod.connect_saved()
    desk.pod.manager.disconnect(COMPANY)
    with pytest.raises(SessionNotConnected):
        desk.send(FETCHED)
    assert desk.fetcher.fetched == []


def test_a_refused_address_is_told_before_the_session_is_looked_at(desk: Desk) -> None:
    desk.fetcher.refusal = MediaAddressRefused()
    with pytest.raises(MediaAddressRefused):
        desk.send(FETCHED)
    with pytest.raises(InvalidInput):
        desk.service.send_media(
            COMPANY, to="nobody", note=MediaNote(kind=MediaKind.IMAGE), source=FETCHED
        )


@pytest.mark.parametrize("failure", [MediaUnreachable(), MediaTooLarge(), RuntimeError()])
def test_a_failed_fetch_leaves_nothing(desk: Desk, failure: Exception) -> None:
    desk.pod.connect_saved()
    desk.fetcher.failure = failure
    with pytest.raises(type(failure)):
        desk.send(FETCHED)
    assert desk.pod.fleet.parcels == []


def test_content_that_is_refused_reaches_no_engine(desk: Desk) -> None:
    desk.pod.connect_saved()
    for source, error in (
        (MediaSource(content=samples.HTML), MediaTypeRefused),
        (MediaSource(content=b"a" * 901), MediaTooLarge),
        (MediaSource(content=b""), MediaTypeRefused),
    ):
        with pytest.raises(error):
            desk.send(source)
    assert desk.pod.fleet.parcels == []


def test_what_was_not_uploaded_is_told(desk: Desk) -> None:
    desk.pod.connect_saved()
    desk.pod.fleet.send_results = [MediaNotUploaded()]
    with pytest.raises(MediaNotUploaded):
        desk.send(FETCHED)


def test_a_place_is_taken_until_the_end_and_nobody_waits_for_one(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.pod.connect_saved()
    hung: Future[SentMessage] = Future()
    asked: Future[None] = Future()

    def send_media(*_: object, **__: object) -> Future[SentMessage]:
        asked.set_result(None)
        return hung

    monkeypatch.setattr(desk.pod.fleet, "send_media", send_media)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(desk.send, FETCHED)
        asked.result(DEADLINE_SECONDS)
        with pytest.raises(ServiceBusy, match="of this company"):
            desk.send(FETCHED)
        with desk.service._places.hold(OTHER), pytest.raises(ServiceBusy, match="Too many"):
            desk.service._places.hold("third").__enter__()
        hung.set_result(SENT)
        assert first.result(DEADLINE_SECONDS) == SENT
    assert not desk.service._places._taken
