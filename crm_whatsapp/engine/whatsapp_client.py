"""What an engine needs of a WhatsApp client; `neonize_client` is the real one."""

from dataclasses import dataclass
from typing import Any, Protocol

from crm_whatsapp.domain.media import MediaKind
from crm_whatsapp.engine.event_translation import Fields


class CallFailed(Exception):
    """The client answered a call with an error; the text is whatsmeow's."""


class ClientListener(Protocol):
    """Hears what happens to a client, on threads of Go; must return at once."""

    def device_known(self, device: Fields) -> None:
        """Event 0: the dial is over and the last look at the shared maps is done."""

    def event_arrived(self, code: int, message: Any) -> None:
        """An event with one of SUBSCRIBED_CODES."""

    def qr_shown(self, text: str) -> None:
        """A QR code of an unpaired client."""

    def login_status_changed(self, word: str) -> None:
        """The QR channel ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendReceipt:
    """What WhatsApp acknowledged."""

    message_id: str
    server_timestamp_seconds: int


Uploaded = Any
"""Where WhatsApp keeps an attachment and how it is decrypted: neonize's UploadResponse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingMedia:
    """An attachment that has been uploaded. filename: of documents."""

    kind: MediaKind
    mimetype: str
    filename: str | None
    caption: str | None
    uploaded: Uploaded


class WhatsAppClient(Protocol):
    """One client. Each method is one call into Go: it may block for a minute, and it may end the
    process when the start gate is not kept.
    """

    def connect(self) -> None:
        """Dial, log in and block until stopped; may return or raise CallFailed early."""

    def disconnect(self) -> None:
        """Close the socket and cancel reconnects.

        Blocks while a dial is under way, 5 s on a frozen link. Reads the shared maps on entry,
        never writes them.
        """

    def stop(self) -> None:
        """Disconnect and forget the client: writes the shared maps."""

    def ask_blocklist(self) -> None:
        """Make a query that any live connection answers; raises CallFailed."""

    def logout(self) -> None:
        """Unlink the device, disconnect and delete the device row; raises CallFailed."""

    def request_pairing_code(self, phone_number: str) -> str:
        """Ask for the code that the phone has to enter; raises CallFailed."""

    def send_text(self, to_jid: str, text: str) -> SendReceipt:
        """Send a text and wait for the acknowledgement; raises CallFailed."""

    def upload(self, kind: MediaKind, content: bytes) -> Uploaded:
        """Encrypt the content and have WhatsApp keep it; raises CallFailed."""

    def send_media(self, to_jid: str, media: OutgoingMedia) -> SendReceipt:
        """Send what was uploaded and wait for the acknowledgement; raises CallFailed."""


class ClientFactory(Protocol):
    """Makes a client that is registered for every event and has not connected yet."""

    def __call__(
        self, *, company_id: str, store_path: str, proxy: str | None, listener: ClientListener
    ) -> WhatsAppClient: ...
