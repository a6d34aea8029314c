"""From neonize's message and receipt events to the domain's; runs in the engine alone.

Source: goneonize/Neonize.proto and goneonize/utils/encoder.go of neonize 0.5.2; whatsmeow
types/message.go, types/presence.go and message.go parseMessageSource.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from crm_whatsapp.domain.inbound import MOST_IDS_IN_A_RECEIPT, ReceiptType
from crm_whatsapp.engine.event_translation import RECEIPT, Fields, Jid, Translation
from crm_whatsapp.engine.inbound_content import clean_name, read_content, unknown

_log = logging.getLogger(__name__)

_USER_SERVER = "s.whatsapp.net"
_HIDDEN_SERVER = "lid"
_GROUP_SERVER = "g.us"
_BROADCAST_SERVER = "broadcast"
_NEWSLETTER_SERVER = "newsletter"

_RECEIPT_TYPES: Mapping[int, ReceiptType] = {
    1: ReceiptType.DELIVERED,
    4: ReceiptType.READ,
    6: ReceiptType.PLAYED,
}
"""Receipt.ReceiptType; the others are talk between the company's own devices, or tell that a device
which nobody looks at has the message."""

_EARLIEST_MS = 1_230_768_000_000
_LATEST_MS = 4_102_444_800_000
"""2009, when WhatsApp began, and 2100."""


@dataclass(frozen=True, slots=True)
class BareMessage:
    """A message event whose content was not read.

    why: says so in the place of the message's type.
    """

    Info: Any
    why: str


class Party(NamedTuple):
    """A person or a group.

    address: of the number when it is known, of the hidden id when not.
    lid: the hidden id, when it is known.
    """

    address: str
    lid: str | None


def translate_inbound(code: int, message: Any) -> list[Translation]:
    """Return what a message or receipt event means; nothing when it is not meant for people.

    Never raises: strangers write what is read here.
    """
    try:
        if code == RECEIPT:
            return list(_receipts(message))
        return list(_messages(message))
    except Exception as exc:  # noqa: BLE001 - one bad message must not hide those behind it
        # Its text may hold what the message says.
        _log.error("event %d could not be read: %s", code, type(exc).__name__)
        return []


def _messages(event: Any) -> Iterator[Translation]:
    info = event.Info
    source = info.MessageSource
    if info.Category == "peer" or _is_post(source.Chat):
        return
    content = _content(event)
    message_id = clean_name(info.ID)
    if content is None or message_id is None:
        return
    yield (
        "MessageArrived",
        {
            **_where(source),
            "sent_at_ms": _moment(info.Timestamp),
            "message_id": message_id,
            "push_name": clean_name(info.Pushname),
            **content,
        },
    )


def _content(event: Any) -> Fields | None:
    if isinstance(event, BareMessage):
        return unknown(event.why)
    try:
        return read_content(event.Message)
    except Exception as exc:  # noqa: BLE001 - that somebody wrote is still worth telling
        _log.error("a message could not be read: %s", type(exc).__name__)
        return unknown("unreadable")


def _receipts(event: Any) -> Iterator[Translation]:
    source = event.MessageSource
    receipt_type = _RECEIPT_TYPES.get(event.Type)
    if receipt_type is None or source.IsFromMe or _is_post(source.Chat):
        return
    ids = [name for raw in event.MessageIDs if (name := clean_name(raw))]
    for begin in range(0, len(ids), MOST_IDS_IN_A_RECEIPT):
        yield (
            "ReceiptArrived",
            {
                **_where(source),
                "sent_at_ms": _moment(event.Timestamp * 1000),
                "receipt_type": receipt_type,
                "message_ids": ids[begin : begin + MOST_IDS_IN_A_RECEIPT],
            },
        )


def _is_post(chat: Jid) -> bool:
    """Say whether it is for everybody to see: a status update, or a post of a channel."""
    if chat.Server == _NEWSLETTER_SERVER:
        return True
    return chat.Server == _BROADCAST_SERVER and chat.User == "status"


def _where(source: Any) -> Fields:
    """Return chat, sender, is_group and from_me.

    What comes through somebody's broadcast list belongs to the chat with that person.
    """
    is_group = source.Chat.Server == _GROUP_SERVER
    sender = _party(source.Sender, source.SenderAlt)
    from_list = source.Chat.Server == _BROADCAST_SERVER and not source.IsFromMe
    if is_group:
        chat = _party(source.Chat, None)
    elif source.IsFromMe:
        chat = _party(source.Chat, source.RecipientAlt)
    else:
        chat = sender if from_list else _party(source.Chat, source.SenderAlt)
    chat = chat or sender
    sender = sender or chat
    if chat is None or sender is None:
        raise ValueError("neither a chat nor a sender")
    return {
        "chat": chat.address,
        "sender": sender.address,
        "sender_lid": sender.lid,
        "is_group": is_group,
        "from_me": bool(source.IsFromMe),
    }


def _party(jid: Jid, other: Jid | None) -> Party | None:
    """Return who it is; `other` is the same one under number or hidden id, if WhatsApp told."""
    addresses = {
        one.Server: clean_name(f"{one.User}@{one.Server}")  # the device does not matter
        for one in (other, jid)
        if one is not None and one.User and not one.IsEmpty
    }
    address = addresses.get(_USER_SERVER) or addresses.get(jid.Server)
    return Party(address, addresses.get(_HIDDEN_SERVER)) if address else None


def _moment(milliseconds: int) -> int:
    return milliseconds if _EARLIEST_MS <= milliseconds < _LATEST_MS else 0
