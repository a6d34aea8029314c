"""What a message says: its type, its text, what is attached. From WhatsApp's Message to fields.

Everything here is written by strangers: any field may be missing, huge, or no UTF-8.

Source: WAWebProtobufsE2E.proto as shipped with neonize 0.5.2.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.unknown_fields import UnknownFieldSet

from crm_whatsapp.domain.inbound import (
    MOST_NAME_CHARACTERS,
    MOST_TEXT_CHARACTERS,
    MessageType,
)

Fields = dict[str, Any]
Reader = Callable[[Any], Fields | None]

_MOST_WRAPPERS = 10
_MOST_CONTACTS = 64
_MOST_OPTIONS = 64
_LARGEST_SIZE = 2**53 - 1
"""The largest whole number that every JSON parser keeps."""

_REVOKE = 0
_MESSAGE_EDIT = 14
"""ProtocolMessage.Type"""

_TELEPHONE = re.compile(r"^(?:[\w-]{1,32}\.)?TEL[^:\r\n]{0,200}:([^\r\n]{1,64})", re.I | re.M)

_SILENT = frozenset(
    {
        "albumMessage",  # says that so many pictures follow
        "deviceSentMessage",
        "fastRatchetKeySenderKeyDistributionMessage",
        "groupRootKeyShare",
        "messageContextInfo",
        "messageHistoryBundle",
        "messageHistoryNotice",
        "protocolMessage",
        "rootSecretDistributeMessage",
        "senderKeyDistributionMessage",  # comes before the first message in a group
        "stickerSyncRmrMessage",
    }
)
"""Talk between clients, which no person has written."""


def clean_text(value: Any, limit: int) -> str | None:
    """Return the text without what neither JSON nor Postgres can hold, cut off at the limit.

    protobuf hands out bytes where a text is no UTF-8. None for an empty text.
    """
    if isinstance(value, bytes):
        value = value[: 4 * limit].decode("utf-8", "replace")
    if not isinstance(value, str):
        return None
    return value[:limit].replace("\x00", "") or None


def clean_name(value: Any) -> str | None:
    """Return a name, file name, id or MIME type."""
    return clean_text(value, MOST_NAME_CHARACTERS)


def read_content(message: Any) -> Fields | None:
    """Return message_type and what belongs to it; None for what is not meant for people."""
    message = _unwrap(message)
    present = {field.name: value for field, value in message.ListFields()}
    for name, read in _READERS.items():
        content = present.get(name)
        if content is not None and content != "":
            fields = read(content)
            return None if fields is None else {**_reply(content), **fields}
    if "protocolMessage" in present:
        return _read_protocol(present["protocolMessage"])
    said = [name for name in present if name not in _SILENT and present[name] != ""]
    if said:
        return {**_reply(present[said[0]]), **unknown(said[0])}
    newer = UnknownFieldSet(message)
    return unknown(f"field {newer[0].field_number}") if len(newer) else None


def unknown(name: str) -> Fields:
    """Return the fields of a message that this service does not know how to read."""
    return {"message_type": MessageType.UNKNOWN, "unknown_type": name}


def _unwrap(message: Any) -> Any:
    """Return what is inside of wrappers: ephemeral, view once, edited, sent by another device ...

    whatsmeow takes off most of them; all of them are messages of one kind.
    """
    for _ in range(_MOST_WRAPPERS):
        for field, value in message.ListFields():
            kind = field.message_type
            wraps = kind is not None and kind.name in ("FutureProofMessage", "DeviceSentMessage")
            if wraps and value.HasField("message"):
                message = value.message
                break
        else:
            return message
    return message


def _reply(content: Any) -> Fields:
    context = getattr(content, "contextInfo", None)
    return {} if context is None else {"reply_to": clean_name(context.stanzaID)}


def _read_protocol(protocol: Any) -> Fields | None:
    if not protocol.HasField("type"):
        return None
    if protocol.type == _REVOKE:
        return {"message_type": MessageType.DELETE, "reply_to": clean_name(protocol.key.ID)}
    if protocol.type != _MESSAGE_EDIT:
        return None
    edited = read_content(protocol.editedMessage) or {}
    return {
        "message_type": MessageType.EDIT,
        "text": edited.get("text"),
        "reply_to": clean_name(protocol.key.ID),
    }


def _text(value: Any) -> Fields:
    return {"message_type": MessageType.TEXT, "text": clean_text(value, MOST_TEXT_CHARACTERS)}


def _media(message_type: MessageType) -> Reader:
    def read(content: Any) -> Fields:
        size = content.fileLength
        return {
            "message_type": message_type,
            "text": clean_text(getattr(content, "caption", None), MOST_TEXT_CHARACTERS),
            "mimetype": clean_name(content.mimetype),
            "filename": clean_name(getattr(content, "fileName", None)),
            "size_bytes": size if 0 <= size <= _LARGEST_SIZE else None,
        }

    return read


def _location(content: Any) -> Fields:
    """Return "latitude,longitude", and name and address or caption on lines of their own."""
    latitude, longitude = content.degreesLatitude, content.degreesLongitude
    on_earth = abs(latitude) <= 90 and abs(longitude) <= 180
    lines = [f"{latitude:.6f},{longitude:.6f}"] if on_earth else []
    for name in ("name", "address", "caption"):
        line = clean_text(getattr(content, name, None), MOST_TEXT_CHARACTERS)
        lines += [line] if line else []
    return {"message_type": MessageType.LOCATION, **_joined(lines)}


def _contacts(cards: Any) -> Fields:
    """Return the name of each card with its numbers behind it."""
    lines = []
    for card in list(cards)[:_MOST_CONTACTS]:
        vcard = clean_text(card.vcard, MOST_TEXT_CHARACTERS) or ""
        words = [clean_name(card.displayName), *_TELEPHONE.findall(vcard)]
        lines.append(" ".join(word.strip() for word in words if word))
    return {"message_type": MessageType.CONTACT, **_joined(lines)}


def _poll(content: Any) -> Fields:
    """Return the question, and each option on a line with a dash."""
    options = [clean_name(option.optionName) for option in content.options[:_MOST_OPTIONS]]
    question = clean_text(content.name, MOST_TEXT_CHARACTERS)
    return {
        "message_type": MessageType.POLL,
        **_joined([question or "", *(f"- {option}" for option in options if option)]),
    }


def _reaction(content: Any) -> Fields:
    return {
        "message_type": MessageType.REACTION,
        "text": clean_name(content.text),
        "reply_to": clean_name(content.key.ID),
    }


def _joined(lines: list[str]) -> Fields:
    return {"text": clean_text("\n".join(lines).strip(), MOST_TEXT_CHARACTERS)}


_READERS: Mapping[str, Reader] = {
    "conversation": _text,
    "extendedTextMessage": lambda content: _text(content.text),
    "imageMessage": _media(MessageType.IMAGE),
    "videoMessage": _media(MessageType.VIDEO),
    "ptvMessage": _media(MessageType.VIDEO),
    "audioMessage": _media(MessageType.AUDIO),
    "documentMessage": _media(MessageType.DOCUMENT),
    "stickerMessage": _media(MessageType.STICKER),
    "locationMessage": _location,
    "liveLocationMessage": _location,
    "contactMessage": lambda content: _contacts([content]),
    "contactsArrayMessage": lambda content: _contacts(content.contacts),
    "reactionMessage": _reaction,
    **{f"pollCreationMessage{version}": _poll for version in ("", "V2", "V3", "V5", "V6")},
    "buttonsResponseMessage": lambda content: _text(content.selectedDisplayText),
    "templateButtonReplyMessage": lambda content: _text(content.selectedDisplayText),
    "listResponseMessage": lambda content: _text(content.title),
    "interactiveResponseMessage": lambda content: _text(content.body.text),
}
