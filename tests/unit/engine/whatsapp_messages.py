"""neonize's message classes without neonize: its package loads a Go library when it is imported."""

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def load_messages() -> Any:
    """Return the classes: Event, Receipt (Neonize.proto) and Message (WAWebProtobufsE2E.proto)."""
    spec = importlib.util.find_spec("neonize")
    assert spec is not None and spec.origin is not None
    path = list(sys.path)
    loaded = sys.modules.get("neonize")
    bare = types.ModuleType("neonize")
    bare.__path__ = [str(Path(spec.origin).parent)]
    sys.modules["neonize"] = bare
    try:
        neonize = importlib.import_module("neonize.proto.Neonize_pb2")
        content = importlib.import_module("neonize.proto.waE2E.WAWebProtobufsE2E_pb2")
    finally:
        sys.path[:] = path
        for name in [name for name in sys.modules if name.partition(".")[0] == "neonize"]:
            del sys.modules[name]
        if loaded is not None:
            sys.modules["neonize"] = loaded
    return SimpleNamespace(Event=neonize.Message, Receipt=neonize.Receipt, Message=content.Message)


CLASSES = load_messages()
ANNA = ("5511988887777", "s.whatsapp.net")
ANNA_HIDDEN = ("360755973120501", "lid")
OWN = ("5511900000001", "s.whatsapp.net")
GROUP = ("120363000000000001", "g.us")
NOBODY = ("", "")
SENT_AT_MS = 1_795_000_000_000


def jid(who: tuple[str, str], device: int = 0) -> dict[str, Any]:
    """Return the fields of a JID message."""
    user, server = who
    return {
        "User": user,
        "Server": server,
        "Device": device,
        "RawAgent": 0,
        "Integrator": 0,
        "IsEmpty": not server,
    }


def source(
    *,
    chat: tuple[str, str] = ANNA,
    sender: tuple[str, str] = ANNA,
    sender_alt: tuple[str, str] = ANNA_HIDDEN,
    recipient_alt: tuple[str, str] = NOBODY,
    from_me: bool = False,
) -> dict[str, Any]:
    """Return the fields of a MessageSource, as whatsmeow's parseMessageSource fills it."""
    return {
        "Chat": jid(chat),
        "Sender": jid(sender, device=3),
        "IsFromMe": from_me,
        "IsGroup": chat[1] in ("g.us", "broadcast"),
        "SenderAlt": jid(sender_alt),
        "RecipientAlt": jid(recipient_alt),
        "BroadcastListOwner": jid(NOBODY),
    }


def message_event(
    content: Any,
    *,
    message_id: str = "3EB0AAAA",
    push_name: str = "Anna",
    category: str = "",
    at_ms: int = SENT_AT_MS,
    **where: Any,
) -> Any:
    """Return neonize's event for a Message, or for what its keyword arguments are."""
    message = CLASSES.Message(**content) if isinstance(content, dict) else content
    return CLASSES.Event(
        Info={
            "MessageSource": source(**where),
            "ID": message_id,
            "ServerID": 0,
            "Type": "text",
            "Pushname": push_name,
            "Timestamp": at_ms,
            "Category": category,
            "Multicast": False,
            "MediaType": "",
            "Edit": "",
        },
        Message=message,
        Raw=message,
        IsEphemeral=False,
        IsViewOnce=False,
        IsViewOnceV2=False,
        IsViewOnceV2Extension=False,
        IsDocumentWithCaption=False,
        IsLottieSticker=False,
        IsEdit=False,
        UnavailableRequestID="",
        RetryCount=0,
    )


def receipt_event(kind: int, *ids: str, at_seconds: int = SENT_AT_MS // 1000, **where: Any) -> Any:
    """Return neonize's event for a receipt."""
    return CLASSES.Receipt(
        MessageSource=source(**where), MessageIDs=ids, Timestamp=at_seconds, Type=kind
    )
