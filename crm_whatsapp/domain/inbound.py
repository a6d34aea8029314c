"""What the people a company talks to do: messages and receipts.

They change no status, so they never meet the policy.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from crm_whatsapp.domain.events import EngineEvent

MOST_TEXT_CHARACTERS = 65_536
"""WhatsApp's own limit for a text; whatever a modified client sends beyond it is cut off."""

MOST_NAME_CHARACTERS = 256
"""For names, file names, ids and MIME types."""

MOST_IDS_IN_A_RECEIPT = 256


class MessageType(StrEnum):
    """What kind of message it is."""

    TEXT = "text"  # also the answer to a button or a list
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"
    DOCUMENT = "document"
    STICKER = "sticker"
    LOCATION = "location"  # a place, or the start of a live location
    CONTACT = "contact"  # one contact card or several
    REACTION = "reaction"  # to `reply_to`; no text: the reaction was taken back
    POLL = "poll"
    EDIT = "edit"  # the new text of `reply_to`
    DELETE = "delete"  # `reply_to` was deleted for everybody
    UNKNOWN = "unknown"  # something else: see unknown_type


class ReceiptType(StrEnum):
    """What happened to a message of the company."""

    DELIVERED = "delivered"
    READ = "read"
    PLAYED = "played"  # voice message or view-once media


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundEvent(EngineEvent):
    """Heard from the other side of a chat; told outside whatever the session's state is.

    Attributes:
        chat: the jid of a group or of the other person: of their number when WhatsApp tells it,
            of their hidden id (`...@lid`) when not.
        sender: the jid of who did it, in the same form.
        sender_lid: their hidden id, when it is known.
        sent_at_ms: Unix time in milliseconds as WhatsApp's server says; 0 when it is absurd.
    """

    chat: str = field(repr=False)
    sender: str = field(repr=False)
    sender_lid: str | None = field(default=None, repr=False)
    is_group: bool
    from_me: bool
    sent_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageArrived(InboundEvent):
    """Somebody wrote to the company, or the company from its own phone (from_me).

    Attributes:
        message_id: as its sender chose it; unique only together with chat and sender.
        text: text, caption, or what stands for the message as text.
        reply_to: id of the message that is answered, reacted to, edited or deleted.
        unknown_type: WhatsApp's name for a message of type UNKNOWN.
    """

    message_id: str
    message_type: MessageType
    push_name: str | None = field(default=None, repr=False)
    text: str | None = field(default=None, repr=False)
    mimetype: str | None = None
    filename: str | None = field(default=None, repr=False)
    size_bytes: int | None = None
    reply_to: str | None = None
    unknown_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptArrived(InboundEvent):
    """A message of the company was delivered to somebody, read or played by them."""

    message_ids: tuple[str, ...]
    receipt_type: ReceiptType
