"""The life of a client, with a client that does as it is told."""

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crm_whatsapp.domain.media import MediaKind
from crm_whatsapp.engine.alarm import Alarm
from crm_whatsapp.engine.call_desk import CallDesk
from crm_whatsapp.engine.event_translation import MESSAGE, Fields
from crm_whatsapp.engine.hosted_client import ClientOrder, HostedClient, Phase
from crm_whatsapp.engine.inbound_spool import FILE_NAME
from crm_whatsapp.engine.pairing_client import PairingClient
from crm_whatsapp.engine.session_lock import SessionLock
from crm_whatsapp.engine.start_gate import StartGate
from crm_whatsapp.engine.whatsapp_client import (
    CallFailed,
    ClientListener,
    OutgoingMedia,
    SendReceipt,
    Uploaded,
)
from service_process import wait_for
from tests.unit.engine.whatsapp_messages import message_event

WAIT_SECONDS = 5.0
DEVICE: Fields = {"jid": "1:1@s.whatsapp.net", "lid": None, "push_name": None, "platform": None}


class ScriptedClient:
    """A WhatsAppClient whose blocking calls return when the test says so."""

    def __init__(self) -> None:
        self.listener: ClientListener | None = None
        self.connecting = threading.Event()
        self.ended = threading.Event()
        self.may_disconnect = threading.Event()
        self.may_disconnect.set()
        self.error = ""
        self.calls: list[str] = []
        self.returns_after_stop = True

    def connect(self) -> None:
        self.calls.append("connect")
        self.connecting.set()
        self.ended.wait()
        if self.error:
            raise CallFailed(self.error)

    def disconnect(self) -> None:
        self.calls.append("disconnect")
        self.may_disconnect.wait()

    def stop(self) -> None:
        self.calls.append("stop")
        if self.returns_after_stop:
            self.ended.set()

    def ask_blocklist(self) -> None:
        raise AssertionError("not asked for")

    def logout(self) -> None:
        raise AssertionError("not asked for")

    def request_pairing_code(self, phone_number: str) -> str:
        return f"CODE-{phone_number[-4:]}"

    def send_text(self, to_jid: str, text: str) -> SendReceipt:
        raise AssertionError("not asked for")

    def upload(self, kind: MediaKind, content: bytes) -> Uploaded:
        raise AssertionError("not asked for")

    def send_media(self, to_jid: str, media: OutgoingMedia) -> SendReceipt:
        raise AssertionError("not asked for")


class ListeningHost:
    """A Host that writes everything down."""

    careful = False
    slow_stop_seconds = 0.05

    def __init__(self, client: ScriptedClient) -> None:
        self.alarm = Alarm("test-alarm")
        self.gate = StartGate(
            alarm=self.alarm, start_max_seconds=0.05, entry_max_seconds=0.01, dials=25
        )
        self.calls = CallDesk(gate=self.gate, alarm=self.alarm, per_client=4, per_engine=8)
        self.events: list[tuple[str, Fields]] = []
        self.gone = threading.Event()
        self.gone_fields: Fields | None = None
        self.told = threading.Condition()
        self._client = client

    def make_client(self, **order: Any) -> ScriptedClient:
        self._client.listener = order["listener"]
        return self._client

    def report_event(self, client: HostedClient, name: str, fields: Fields) -> None:
        with self.told:
            self.events.append((name, fields))
            self.told.notify_all()

    def report_inbound(self, client: HostedClient, name: str, fields: Fields) -> None:
        self.report_event(client, name, fields)

    def report_gone(self, client: HostedClient, fields: Fields | None) -> None:
        self.gone_fields = fields
        self.gone.set()

    def await_event(self, name: str) -> Fields:
        with self.told:
            found = self.told.wait_for(
                lambda: [fields for other, fields in self.events if other == name], WAIT_SECONDS
            )
        assert found, f"no {name}: {self.events}"
        return found[0]


@pytest.fixture
def client() -> Iterator[ScriptedClient]:
    scripted = ScriptedClient()
    yield scripted
    scripted.may_disconnect.set()
    scripted.ended.set()


@pytest.fixture
def host(client: ScriptedClient) -> ListeningHost:
    return ListeningHost(client)


@pytest.fixture
def order(tmp_path: Path) -> ClientOrder:
    return ClientOrder(
        company_id="c-1",
        generation=1,
        store_path=str(tmp_path / "store.db"),
        lock=SessionLock(tmp_path / "lock"),
        proxy=None,
    )


def dial(hosted: HostedClient, host: ListeningHost, client: ScriptedClient) -> None:
    assert hosted.lock.try_acquire()
    assert hosted.prepare(host.gate.dials.acquire())
    hosted.dial(host.gate.enter_write())
    assert client.connecting.wait(WAIT_SECONDS)


def is_free(order: ClientOrder) -> bool:
    other = SessionLock(order.lock._path)
    free = other.try_acquire()
    other.release()
    return free


def test_an_open_client_is_disconnected_then_forgotten(
    client: ScriptedClient, host: ListeningHost, order: ClientOrder
) -> None:
    hosted = HostedClient(order, host)
    dial(hosted, host, client)
    assert hosted.client is None, "no calls before the Device event"
    hosted.device_known(DEVICE)
    assert hosted.client is client
    hosted.event_arrived(3, SimpleNamespace())
    assert host.events == [
        ("ClientConnected", {"jid": "1:1@s.whatsapp.net", "lid": None, "push_name": None})
    ]
    hosted.request_stop()
    assert host.gone.wait(WAIT_SECONDS)
    assert host.gone_fields is None
    assert client.calls == ["connect", "disconnect", "stop"]
    assert is_free(order)


def test_a_dialing_client_is_left_alone_until_its_device_event(
    client: ScriptedClient, host: ListeningHost, order: ClientOrder
) -> None:
    hosted = HostedClient(order, host)
    dial(hosted, host, client)
    hosted.request_stop()
    assert hosted.abandoned_seconds() is not None
    assert client.calls == ["connect"]
    assert not is_free(order)
    hosted.device_known(DEVICE)
    assert host.gone.wait(WAIT_SECONDS)
    assert host.gone_fields is None
    assert client.calls == ["connect", "disconnect", "stop"]
    assert hosted.abandoned_seconds() is None


def test_a_dial_that_fails_after_a_stop_counts_as_stopped(
    client: ScriptedClient, host: ListeningHost, order: ClientOrder
) -> None:
    hosted = HostedClient(order, host)
    dial(hosted, host, client)
    hosted.request_stop()
    client.error = "dial tcp: connection refused"
    client.ended.set()
    assert host.gone.wait(WAIT_SECONDS)
    assert host.gone_fields is None
    assert client.calls == ["connect", "stop"], "what is left in the maps is removed"


def test_a_dial_that_fails_ends_the_client(
    client: ScriptedClient, host: ListeningHost, order: ClientOrder
) -> None:
    hosted = HostedClient(order, host)
    client.error = "dial tcp: connection refused"
    client.ended.set()
    dial(hosted, host, client)
    assert host.gone.wait(WAIT_SECONDS)
    assert host.gone_fields is not None
    assert host.gone_fields["unreachable"] is True
    assert is_free(order)


def test_a_stop_before_the_dial_starts_nothing(
    client: ScriptedClient, host: ListeningHost, order: ClientOrder
) -> None:
    hosted = HostedClient(order, host)
    hosted.request_stop()
    assert host.gone.is_set()
    assert not hosted.prepare(host.gate.dials.acquire())
    assert client.calls == []


def test_a_frozen_disconnect_is_reported_after_a_while_and_holds_no_gate(
    client: ScriptedClient, host: ListeningHost, order: ClientOrder
) -> None:
    hosted = HostedClient(order, host)
    dial(hosted, host, client)
    hosted.device_known(DEVICE)
    client.may_disconnect.clear()
    hosted.request_stop()
    assert wait_for(lambda: hosted.abandoned_seconds() is not None, WAIT_SECONDS)
    host.gate.enter_write().release()  # another start gets through meanwhile
    client.may_disconnect.set()
    assert host.gone.wait(WAIT_SECONDS)


def test_no_calls_while_it_reconnects(
    client: ScriptedClient, host: ListeningHost, order: ClientOrder
) -> None:
    hosted = HostedClient(order, host)
    dial(hosted, host, client)
    hosted.device_known(DEVICE)
    hosted.event_arrived(12, SimpleNamespace())
    assert hosted.phase is Phase.RECONNECTING
    assert hosted.client is None
    hosted.event_arrived(3, SimpleNamespace())
    assert hosted.client is client


def test_a_saved_session_without_a_device_row_ends(
    client: ScriptedClient, host: ListeningHost, order: ClientOrder
) -> None:
    hosted = HostedClient(order, host)
    client.returns_after_stop = False
    dial(hosted, host, client)
    hosted.qr_shown("2@never-shown")
    assert host.gone.wait(WAIT_SECONDS)
    assert host.gone_fields is not None
    assert host.gone_fields["detail"] == "The store holds no linked device."
    assert host.events == []


def test_the_write_side_is_free_after_the_device_event(
    client: ScriptedClient, host: ListeningHost, order: ClientOrder
) -> None:
    host.gate._start_max_seconds = 60.0
    hosted = HostedClient(order, host)
    dial(hosted, host, client)
    hosted.device_known(DEVICE)
    host.gate.enter_write().release()


def message(text: str) -> Any:
    return message_event({"conversation": text}, message_id=text)


def test_messages_go_as_they_are_taken_and_hold_up_nothing_else(
    client: ScriptedClient, host: ListeningHost, order: ClientOrder
) -> None:
    hosted = HostedClient(order, host)
    dial(hosted, host, client)
    hosted.device_known(DEVICE)
    for number in range(100):
        hosted.event_arrived(MESSAGE, message(str(number)))
    hosted.event_arrived(12, SimpleNamespace())
    assert messages(host) == [str(number) for number in range(64)]
    assert host.events[-1] == ("ClientDisconnected", {})
    hosted.inbound_taken(1)
    hosted.inbound_taken(63)
    assert messages(host) == [str(number) for number in range(100)]


def test_what_neonize_still_holds_is_told_before_the_client_is_forgotten(
    client: ScriptedClient, host: ListeningHost, order: ClientOrder
) -> None:
    hosted = HostedClient(order, host)
    dial(hosted, host, client)
    hosted.device_known(DEVICE)
    disconnected = threading.Event()

    def write() -> None:
        assert disconnected.wait(WAIT_SECONDS)
        for number in range(150):
            hosted.event_arrived(MESSAGE, message(str(number)))
            if number % 50 == 0:
                assert "stop" not in client.calls
            hosted.inbound_taken(1)

    writing = threading.Thread(target=write, daemon=True)
    writing.start()
    client.disconnect = disconnected.set  # type: ignore[method-assign]
    hosted.request_stop()
    writing.join(WAIT_SECONDS)
    assert host.gone.wait(WAIT_SECONDS)
    assert messages(host) == [str(number) for number in range(150)]
    assert client.calls[-1] == "stop"
    assert not (Path(order.store_path).parent / FILE_NAME).exists()


def test_what_was_not_told_goes_to_the_next_client(
    client: ScriptedClient, host: ListeningHost, order: ClientOrder
) -> None:
    hosted = HostedClient(order, host)
    dial(hosted, host, client)
    hosted.device_known(DEVICE)
    hosted.event_arrived(MESSAGE, message("written down"))
    hosted.request_stop()
    assert host.gone.wait(WAIT_SECONDS)
    later = ListeningHost(ScriptedClient())
    following = HostedClient(order, later)
    assert following.prepare(later.gate.dials.acquire())
    assert messages(later) == ["written down"]


def messages(host: ListeningHost) -> list[str]:
    return [fields["message_id"] for name, fields in host.events if name == "MessageArrived"]


def pairing(
    order: ClientOrder, host: ListeningHost, phone_number: str | None = None
) -> PairingClient:
    return PairingClient(order, host, calls=host.calls, phone_number=phone_number)


def test_qr_codes_live_sixty_then_twenty_seconds(
    client: ScriptedClient, host: ListeningHost, order: ClientOrder
) -> None:
    hosted = pairing(order, host)
    dial(hosted, host, client)
    hosted.qr_shown("one")
    hosted.qr_shown("two")
    assert host.events == [
        ("QrIssued", {"value": "one", "expires_in_seconds": 60.0}),
        ("QrIssued", {"value": "two", "expires_in_seconds": 20.0}),
    ]


def test_the_end_of_a_pairing_is_said_once(
    client: ScriptedClient, host: ListeningHost, order: ClientOrder
) -> None:
    hosted = pairing(order, host)
    dial(hosted, host, client)
    hosted.login_status_changed("timeout")
    hosted.login_status_changed("error")
    assert host.events == [("PairingExpired", {})]


def test_a_code_pairing_shows_no_qr(
    client: ScriptedClient, host: ListeningHost, order: ClientOrder
) -> None:
    hosted = pairing(order, host, phone_number="5511900001234")
    dial(hosted, host, client)
    hosted.qr_shown("one")
    hosted.qr_shown("two")
    fields = host.await_event("PairingCodeIssued")
    assert fields == {"code": "CODE-1234", "expires_in_seconds": 160.0}
    assert [name for name, _ in host.events] == ["PairingCodeIssued"]


def test_a_refused_code_fails_the_pairing(
    client: ScriptedClient, host: ListeningHost, order: ClientOrder
) -> None:
    def refuse(phone_number: str) -> str:
        raise CallFailed("phone number too short")

    client.request_pairing_code = refuse  # type: ignore[method-assign]
    hosted = pairing(order, host, phone_number="12")
    dial(hosted, host, client)
    hosted.qr_shown("one")
    assert "too short" in host.await_event("PairingFailed")["detail"]


def test_after_pairing_it_reconnects_before_it_is_open(
    client: ScriptedClient, host: ListeningHost, order: ClientOrder
) -> None:
    hosted = pairing(order, host)
    dial(hosted, host, client)
    hosted.qr_shown("one")
    assert hosted.phase is Phase.UNPAIRED
    hosted.device_known(DEVICE)
    assert hosted.phase is Phase.RECONNECTING
    hosted.event_arrived(3, SimpleNamespace())
    assert hosted.client is client
