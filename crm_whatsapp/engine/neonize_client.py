"""The WhatsAppClient of neonize; with media_message the only module that imports neonize."""

import ctypes
import logging
import threading
from collections.abc import Callable
from typing import Any

import neonize
import neonize.client
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from neonize.client import NewClient
from neonize.events import INT_TO_EVENT
from neonize.exc import NeonizeError
from neonize.proto.Neonize_pb2 import JID, MessageInfo, UploadResponse
from neonize.proto.Neonize_pb2 import Message as MessageEv
from neonize.proto.waCompanionReg.WAWebProtobufsCompanionReg_pb2 import DeviceProps
from neonize.proto.waE2E.WAWebProtobufsE2E_pb2 import Message

from crm_whatsapp.domain.media import MediaKind
from crm_whatsapp.engine.event_translation import MESSAGE, SUBSCRIBED_CODES, device_fields
from crm_whatsapp.engine.inbound_translation import BareMessage
from crm_whatsapp.engine.media_message import UPLOAD_TYPES, media_message
from crm_whatsapp.engine.whatsapp_client import (
    CallFailed,
    ClientFactory,
    ClientListener,
    OutgoingMedia,
    SendReceipt,
)

_log = logging.getLogger(__name__)

VERSION: str = neonize.__version__

MOST_EVENT_BYTES = 4 * 1024 * 1024
"""A message event holds its message twice. The longest text is 256 KB, previews are smaller."""


class PatientEvent(threading.Event):
    """An event whose wait has no timeout.

    neonize waits for connect() in steps of 0.2 s to let Ctrl+C through. An engine ignores
    signals, and a hundred sessions would wake it five hundred times a second.
    """

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait()


def prepare_library(log_level: int) -> None:
    """Set what neonize reads from its module globals: the log level and the way it waits."""
    logging.getLogger("neonize.utils.log").setLevel(log_level)
    neonize.client.ThreadEvent = PatientEvent


class NeonizeClient:
    """A client with its own store, registered for every event before it connects."""

    def __init__(
        self,
        *,
        company_id: str,
        store_path: str,
        device_name: str,
        proxy: str | None,
        listener: ClientListener,
    ) -> None:
        self._proxy = proxy
        self._listener = listener
        self._client = NewClient(
            store_path,
            uuid=company_id,
            props=DeviceProps(os=device_name, platformType=DeviceProps.CHROME),
        )
        # Its finalizer calls Stop when the object is collected: at any time, outside the gate.
        self._client._stop_finalizer.detach()
        self._register()

    def connect(self) -> None:
        """Dial, log in and block until stopped.

        Raises:
            CallFailed: the dial failed, or the library could not handle an answer.
        """
        settings = neonize.client.ProxySettings(proxy_address=self._proxy) if self._proxy else None
        _call(lambda: self._client.connect(settings))

    def disconnect(self) -> None:
        """Close the socket and cancel reconnects; blocks while a dial is under way.

        Takes 5 s on a frozen link. Reads the shared maps on entry, never writes them.
        """
        self._client.disconnect()

    def stop(self) -> None:
        """Disconnect and forget the client: writes the shared maps."""
        self._client.stop()

    def ask_blocklist(self) -> None:
        """Make a query that any live connection answers.

        Raises:
            CallFailed: whatsmeow's error.
        """
        _call(self._client.get_blocklist)

    def logout(self) -> None:
        """Unlink the device, disconnect and delete the device row.

        Raises:
            CallFailed: whatsmeow's error.
        """
        _call(self._client.logout)

    def request_pairing_code(self, phone_number: str) -> str:
        """Ask for the code that the phone has to enter.

        Raises:
            CallFailed: whatsmeow's error.
        """
        return str(_call(lambda: self._client.PairPhone(phone_number, True)))

    def send_text(self, to_jid: str, text: str) -> SendReceipt:
        """Send a text and wait for the acknowledgement.

        The message id cannot be chosen: neonize's SendMessage takes none.

        Raises:
            CallFailed: whatsmeow's error.
        """
        return self._send(to_jid, Message(conversation=text))

    def upload(self, kind: MediaKind, content: bytes) -> UploadResponse:
        """Encrypt the content and have WhatsApp keep it. Copies it twice; has no time limit.

        Raises:
            CallFailed: whatsmeow's error.
        """
        return _call(lambda: self._client.upload(content, UPLOAD_TYPES[kind]))

    def send_media(self, to_jid: str, media: OutgoingMedia) -> SendReceipt:
        """Send what was uploaded and wait for the acknowledgement.

        Raises:
            CallFailed: whatsmeow's error.
        """
        return self._send(to_jid, media_message(media))

    def _send(self, to_jid: str, message: Message) -> SendReceipt:
        user, _, server = to_jid.rpartition("@")
        recipient = JID(User=user, Server=server, Device=0, RawAgent=0, Integrator=0, IsEmpty=False)
        response = _call(lambda: self._client.send_message(recipient, message))
        return SendReceipt(message_id=response.ID, server_timestamp_seconds=int(response.Timestamp))

    def _register(self) -> None:
        client, listener = self._client, self._listener
        for code in SUBSCRIBED_CODES:
            client.event(INT_TO_EVENT[code])(_forwarder(listener, code))
        deliver = client.event.execute

        def execute(uuid: int, binary: int, size: int, code: int) -> None:
            try:
                if code == MESSAGE:
                    event = read_message_event(ctypes.string_at(binary, size))
                    listener.event_arrived(code, event)
                else:
                    deliver(uuid, binary, size, code)
            except Exception:  # noqa: BLE001 - an exception cannot pass through Go
                _log.exception("event %d could not be handled", code)
            if code == 0:
                listener.device_known(device_fields(client.me) if client.me else {})

        client.event.execute = execute
        client.qr(lambda _, data: listener.qr_shown(data.decode()))
        # The only way to learn how pairing ended: neonize itself just prints it.
        client._NewClient__onLoginStatus = lambda _, status: listener.login_status_changed(
            ctypes.string_at(status).decode()
        )


def read_message_event(data: bytes) -> Any:
    """Return the message event; only who it is from when it is too large, or nested too deeply.

    Raises:
        DecodeError: not even that can be read.
    """
    why = "oversized"
    if len(data) <= MOST_EVENT_BYTES:
        try:
            return MessageEv.FromString(data)
        except DecodeError:
            why = "undecodable"
    fields = UnknownFieldSet(Empty.FromString(data))
    for index in range(len(fields)):
        if fields[index].field_number == MessageEv.INFO_FIELD_NUMBER:
            return BareMessage(Info=MessageInfo.FromString(fields[index].data), why=why)
    raise DecodeError("a message event without Info")


def _forwarder(listener: ClientListener, code: int) -> Callable[[Any, Any], None]:
    return lambda _, message: listener.event_arrived(code, message)


def _call(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except NeonizeError as exc:
        raise CallFailed(str(exc)) from exc


def client_factory(device_name: str) -> ClientFactory:
    """Return what makes clients that show this name in the phone's list of linked devices."""

    def make(
        *, company_id: str, store_path: str, proxy: str | None, listener: ClientListener
    ) -> NeonizeClient:
        return NeonizeClient(
            company_id=company_id,
            store_path=store_path,
            device_name=device_name,
            proxy=proxy,
            listener=listener,
        )

    return make
