"""An attachment inside an engine: uploaded in time and sent, or neither."""

import queue
import threading
from pathlib import Path
from typing import Any

import pytest

from crm_whatsapp.domain.media import MediaKind, MediaParcel
from crm_whatsapp.engine.alarm import Alarm
from crm_whatsapp.engine.call_desk import CallDesk
from crm_whatsapp.engine.call_results import media_fields
from crm_whatsapp.engine.frames import decode, encode
from crm_whatsapp.engine.media_frames import MediaOrder
from crm_whatsapp.engine.media_sending import MediaSending, NotUploaded
from crm_whatsapp.engine.start_gate import StartGate
from crm_whatsapp.engine.upload_budget import UploadBudget
from crm_whatsapp.engine.whatsapp_client import CallFailed, OutgoingMedia, SendReceipt
from service_process import wait_for

WAIT_SECONDS = 10.0
RECEIPT = SendReceipt(message_id="3EB0", server_timestamp_seconds=1)


class Uploader:
    """A client that uploads when it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.failure: Exception | None = None
        self.uploaded: list[tuple[MediaKind, bytes]] = []
        self.sent: list[tuple[str, OutgoingMedia]] = []
        self.returned = threading.Event()

    def upload(self, kind: MediaKind, content: bytes) -> Any:
        self.uploaded.append((kind, content))
        self.go.wait(WAIT_SECONDS)
        self.returned.set()
        if self.failure is not None:
            raise self.failure
        return "kept"

    def send_media(self, to_jid: str, media: OutgoingMedia) -> SendReceipt:
        self.sent.append((to_jid, media))
        return RECEIPT


class Bench:
    """One sending at a time."""

    def __init__(self, folder: Path) -> None:
        gate = StartGate(
            alarm=Alarm("gate"), start_max_seconds=0.05, entry_max_seconds=0.01, dials=1
        )
        self.gate = gate
        self.uploads = CallDesk(gate=gate, alarm=Alarm("up"), per_client=1, per_engine=2)
        self.calls = CallDesk(gate=gate, alarm=Alarm("calls"), per_client=1, per_engine=2)
        self.budget = UploadBudget(4)
        self.client: Uploader | None = Uploader()
        self.results: queue.Queue[Any] = queue.Queue()
        self.path = folder / "content"
        self.path.write_bytes(b"abc")

    def order(self, upload_seconds: float) -> MediaOrder:
        parcel = MediaParcel(
            kind=MediaKind.DOCUMENT,
            path=self.path,
            mimetype="text/plain",
            filename="a.txt",
            caption=None,
        )
        return MediaOrder(
            to_jid="1@s.whatsapp.net",
            parcel=parcel,
            upload_seconds=upload_seconds,
            ack_seconds=WAIT_SECONDS,
        )

    def send(self, upload_seconds: float = WAIT_SECONDS) -> None:
        MediaSending(
            self.order(upload_seconds),
            company_id="c-1",
            find_client=lambda: self.client,  # type: ignore[arg-type, return-value]
            uploads=self.uploads,
            budget=self.budget,
            calls=self.calls,
            done=self.results.put,
        ).begin()

    def result(self) -> Any:
        return self.results.get(timeout=WAIT_SECONDS)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_the_order_crosses_the_pipe_whole(bench: Bench) -> None:
    order = bench.order(1.5)
    assert MediaOrder.of(decode(encode({"type": "send-media", **order.fields()}))) == order
    assert order.total_seconds == 1.5 + WAIT_SECONDS


def test_what_is_uploaded_is_sent(bench: Bench) -> None:
    bench.send()
    assert bench.result() == RECEIPT
    assert bench.client is not None
    assert bench.client.uploaded == [(MediaKind.DOCUMENT, b"abc")]
    ((to_jid, media),) = bench.client.sent
    assert (to_jid, media.uploaded, media.filename) == ("1@s.whatsapp.net", "kept", "a.txt")


def test_a_late_upload_sends_nothing_and_holds_no_call_and_no_gate(bench: Bench) -> None:
    client = bench.client
    assert client is not None
    client.go.clear()
    bench.send(upload_seconds=0.05)
    assert media_fields(bench.result())["outcome"] == "not-uploaded"
    bench.gate.enter_write().release()
    bench.calls.call("c-1", lambda: 42, timeout_seconds=WAIT_SECONDS, done=bench.results.put)
    assert bench.result() == 42
    bench.send()  # a second one of this client while the first has not come back
    assert media_fields(bench.result())["outcome"] == "not-uploaded"
    assert len(client.uploaded) == 1
    client.go.set()
    assert client.returned.wait(WAIT_SECONDS)
    assert wait_for(lambda: not bench.uploads._open.total(), WAIT_SECONDS)
    assert client.sent == []
    assert bench.results.empty()


def test_a_client_that_went_away_sends_nothing(bench: Bench) -> None:
    client = bench.client
    assert client is not None
    client.go.clear()
    bench.send()
    bench.client = None
    client.go.set()
    assert media_fields(bench.result())["outcome"] == "not-connected"
    bench.send()
    assert media_fields(bench.result())["outcome"] == "not-connected"
    assert client.sent == []


def test_a_file_that_is_gone_is_not_uploaded(bench: Bench) -> None:
    bench.path.unlink()
    bench.send()
    assert isinstance(bench.result(), NotUploaded)
    assert bench.client is not None
    assert bench.client.uploaded == []


@pytest.mark.parametrize(
    ("text", "outcome", "dead"),
    [
        ("failed to refresh media connections: websocket not connected", "not-connected", True),
        ("upload failed with status code 401", "not-uploaded", False),
    ],
)
def test_why_it_was_not_uploaded(bench: Bench, text: str, outcome: str, dead: bool) -> None:
    assert bench.client is not None
    bench.client.failure = CallFailed(text)
    bench.send()
    fields = media_fields(bench.result())
    assert (fields["outcome"], fields["dead"], fields["detail"]) == (outcome, dead, text)


def test_addresses_with_keys_in_them_stay_in_the_engine() -> None:
    url = "https://mmg.whatsapp.net/mms/image/abc?auth=secret&token=secret"
    failure = NotUploaded(f'failed to execute request: Post "{url}": EOF')
    assert media_fields(failure)["detail"] == 'failed to execute request: Post "(address)": EOF'


def test_large_uploads_wait_for_others_and_none_for_ever(bench: Bench) -> None:
    client = bench.client
    assert client is not None
    bench.budget = UploadBudget(3)
    client.go.clear()
    bench.send(upload_seconds=0.5)
    assert wait_for(lambda: bool(client.uploaded), WAIT_SECONDS)
    with pytest.raises(TimeoutError):
        bench.budget.take(1, 0.01)
    assert media_fields(bench.result())["outcome"] == "not-uploaded"
    taken = bench.budget.take(99, WAIT_SECONDS)  # the one that hangs does not keep it
    assert taken == 3
    bench.budget.give_back(taken)
    client.go.set()
    assert client.returned.wait(WAIT_SECONDS)
    bench.budget.give_back(bench.budget.take(3, WAIT_SECONDS))
    assert bench.budget._taken == 0


def test_what_waited_too_long_gives_back_what_it_gets(bench: Bench) -> None:
    taken = bench.budget.take(4, WAIT_SECONDS)
    bench.send(upload_seconds=0.05)
    assert media_fields(bench.result())["outcome"] == "not-uploaded"
    bench.budget.give_back(taken)
    assert wait_for(lambda: not bench.uploads._open.total(), WAIT_SECONDS)
    assert bench.budget._taken == 0
    assert bench.client is not None
    assert bench.client.uploaded == []
