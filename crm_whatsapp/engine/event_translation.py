"""From neonize's events to the domain's: proto message -> (name, fields) -> frame -> event.

The first half runs in the engine, the second in its supervisor. Neither imports neonize: messages
are read by attribute, enums by number.

Source: goneonize/Neonize.proto and goneonize/utils/encoder.go of neonize 0.5.2; the numbers of
WhatsApp in go.mau.fi/whatsmeow types/events/events.go.
"""

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from crm_whatsapp.domain import events
from crm_whatsapp.domain.inbound import MOST_TEXT_CHARACTERS, InboundEvent
from crm_whatsapp.engine.frames import Frame, FrameError, Report, get_int, get_text

Fields = dict[str, Any]
Translation = tuple[str, Fields]

LOGGED_OUT_CODES: Mapping[int, int] = {2: 401, 4: 403, 5: 406}
"""ConnectFailureReason LOGGED_OUT, MAIN_DEVICE_GONE, UNKNOWN_LOGOUT -> failure code."""

CONNECT_FAILURE_CODES: Mapping[int, int] = {
    1: 400,
    2: 401,
    3: 402,
    4: 403,
    5: 406,
    6: 405,
    7: 409,
    8: 500,
    9: 501,
    10: 503,
}
"""ConnectFailureReason -> failure code."""

BAN_CODES: Mapping[int, int] = {1: 101, 2: 102, 3: 103, 4: 104, 5: 106}
"""TempBanReason -> the code WhatsApp sent."""

PAIR_ERROR = 1
"""PairStatus.PStatus.ERROR"""

MESSAGE = 17
RECEIPT = 18
INBOUND_CODES = (MESSAGE, RECEIPT)
"""Events that inbound_translation reads."""

FIRST_QR_SECONDS = 60.0
NEXT_QR_SECONDS = 20.0
"""whatsmeow qrchan.go emitQRs: 60 s for the first of six codes, 20 s for the others."""

PAIRING_CODE_SECONDS = 160.0
"""whatsmeow pair-code.go PairPhone: the server closes the login socket when six QR codes have run
out, 60 + 5 * 20 s after connecting; the code is asked for right after that."""

_MAX_DETAIL_CHARACTERS = 300

_UNREACHABLE = re.compile(
    r"dial tcp|dial websocket|lookup |no such host|connection refused|connection reset|no route"
    r"|network is (unreachable|down)|i/o timeout|deadline exceeded|handshake timeout|\bEOF\b"
    r"|proxyconnect|proxy|socks connect|websocket: bad handshake|failed to websocket dial"
    r"|expected handshake status|broken pipe|noise handshake failed: timed out",
    re.IGNORECASE,
)
_STORE_CORRUPT = re.compile(
    r"file is not a database|malformed|disk image|file is encrypted|unsupported file format"
    r"|no such table|no such column|failed to upgrade database",
    re.IGNORECASE,
)
_UNKNOWN_FAILURE = re.compile(r"proto:.*required field .*ConnectFailure", re.IGNORECASE)
_GAVE_UP = re.compile(r"proto:.*required field", re.IGNORECASE)
"""neonize ends a client when it cannot encode an event: its receipts know only some of WhatsApp's
types (utils/encoder.go EncodeReceipts, main.go CallbackFunction)."""


class Jid(Protocol):
    """neonize's JID message."""

    User: str
    Server: str
    Device: int
    IsEmpty: bool


def jid_text(jid: Jid) -> str | None:
    """Return the JID as whatsmeow's store writes it; None for an empty one."""
    if jid.IsEmpty or not jid.User:
        return None
    device = f":{jid.Device}" if jid.Device else ""
    return f"{jid.User}{device}@{jid.Server}"


def device_fields(device: Any) -> Fields:
    """Return jid, lid, push_name and platform of a Device message (event 0)."""
    return {
        "jid": jid_text(device.JID),
        "lid": jid_text(device.LID),
        "push_name": device.PushName or None,
        "platform": device.Platform or None,
    }


def _pair_status(message: Any, device: Fields) -> Translation:
    if message.Status == PAIR_ERROR:
        return "PairingFailed", {"detail": _short(message.Error) or "WhatsApp refused the pairing."}
    return "PairingSucceeded", {
        "jid": jid_text(message.ID),
        "lid": device.get("lid"),
        "platform": message.Platform or None,
    }


def _connected(message: Any, device: Fields) -> Translation:
    return "ClientConnected", {key: device.get(key) for key in ("jid", "lid", "push_name")}


def _logged_out(message: Any, device: Fields) -> Translation:
    code = LOGGED_OUT_CODES.get(message.Reason, 401) if message.OnConnect else 0
    return "LoggedOut", {"on_connect": bool(message.OnConnect), "code": code}


def _temporarily_banned(message: Any, device: Fields) -> Translation:
    expires = float(message.Expire) if message.Expire > 0 else None
    return "TemporarilyBanned", {
        "code": BAN_CODES.get(message.Code, 0),
        "expires_in_seconds": expires,
    }


def _connect_failed(message: Any, device: Fields) -> Translation:
    return "ConnectFailed", {
        "code": CONNECT_FAILURE_CODES.get(message.Reason, 0),
        "detail": _short(message.Message),
    }


_TRANSLATIONS: Mapping[int, Callable[[Any, Fields], Translation]] = {
    2: _pair_status,
    3: _connected,
    4: lambda message, device: ("KeepAliveTimedOut", {"error_count": int(message.ErrorCount)}),
    5: lambda message, device: ("KeepAliveRestored", {}),
    6: _logged_out,
    7: lambda message, device: ("StreamReplaced", {}),
    8: _temporarily_banned,
    9: _connect_failed,
    10: lambda message, device: ("ClientOutdated", {}),
    11: lambda message, device: ("StreamErrored", {"code": message.Code}),
    12: lambda message, device: ("ClientDisconnected", {}),
}

SUBSCRIBED_CODES: tuple[int, ...] = (*sorted(_TRANSLATIONS), *INBOUND_CODES)
"""Event codes an engine registers for; those not registered never arrive."""


def translate(code: int, message: Any, device: Fields) -> Translation:
    """Return the domain event's name and fields for one neonize event.

    Args:
        code: neonize's event code, one of SUBSCRIBED_CODES that is not one of INBOUND_CODES.
        device: what the client's Device event (0) said.
    """
    return _TRANSLATIONS[code](message, device)


def translate_login_status(word: str) -> Translation | None:
    """Return what the end of the QR channel means; None when nothing has to be said.

    Source: whatsmeow qrchan.go. PairError reaches us only here: neonize delivers no event before
    the store has a device row.
    """
    if word in ("success", "passkey-confirmation"):
        return None
    if word == "timeout":
        return "PairingExpired", {}
    if word == "err-client-outdated":
        return "ClientOutdated", {}
    detail = {
        "error": "The phone's answer could not be verified.",
        "err-unexpected-state": "WhatsApp refused the connection while pairing.",
        "err-scanned-without-multidevice": "The phone does not support linked devices.",
        "passkey-request": "The account asks for a passkey, which is not supported.",
    }.get(word, f"The pairing ended with {_short(word)}.")
    return "PairingFailed", {"detail": detail}


def ended_fields(error: str, *, locked: bool = False) -> Fields:
    """Return the fields of ClientEnded for what connect() raised; "" when it just returned."""
    gave_up = bool(_GAVE_UP.search(error)) and not _UNKNOWN_FAILURE.search(error)
    if locked:
        detail = "Another process holds the session."
    elif _UNKNOWN_FAILURE.search(error):
        detail = "WhatsApp answered with a failure code that neonize does not know."
    elif gave_up:
        detail = "WhatsApp sent something that neonize does not know."
    else:
        detail = _short(error) or "The client ended by itself."
    return {
        "detail": detail,
        "unreachable": bool(_UNREACHABLE.search(error)) and not _STORE_CORRUPT.search(error),
        "gave_up": gave_up,
        "store_corrupt": bool(_STORE_CORRUPT.search(error)),
        "locked": locked,
    }


def event_frame(company_id: str, generation: int, name: str, fields: Fields) -> Frame:
    """Return the frame that carries one domain event."""
    return {
        "type": Report.EVENT,
        "company_id": company_id,
        "generation": generation,
        "event": name,
        "fields": fields,
    }


def domain_event(frame: Frame) -> events.EngineEvent:
    """Return the event in an EVENT, INBOUND, ENDED or STOPPED frame.

    Raises:
        FrameError: an unknown event, one in a frame of another kind, or fields that are not its
            own.
    """
    name = get_text(frame, "event")
    fields = frame.get("fields")
    kind = _kinds().get(name)
    inbound = frame["type"] == Report.INBOUND
    if kind is None or kind.is_inbound is not inbound or not isinstance(fields, dict):
        raise FrameError(f"unknown event {name!r}")
    values: dict[str, Any] = {}
    for key, value in fields.items():
        try:
            values[key] = _read_value(value, kind.hints[key])
            if inbound:
                _check_text(value)
        except (KeyError, ValueError) as exc:
            raise FrameError(f"{name}: {key[:40]} does not fit") from exc
    values |= {
        "company_id": get_text(frame, "company_id"),
        "generation": get_int(frame, "generation"),
    }
    missing = kind.required - values.keys()
    if missing:
        raise FrameError(f"{name}: {min(missing)} is missing")
    return kind.event(**values)


class _Kind(NamedTuple):
    """A class of events, and what its fields are."""

    event: Callable[..., events.EngineEvent]
    hints: Mapping[str, Any]
    required: frozenset[str]
    is_inbound: bool


@functools.cache
def _kinds() -> Mapping[str, _Kind]:
    base = InboundEvent.__name__
    others = [cls for cls in events.EngineEvent.__subclasses__() if cls.__name__ != base]
    return {
        cls.__name__: _Kind(
            event=cls,
            hints=typing.get_type_hints(cls),
            required=frozenset(
                field.name
                for field in dataclasses.fields(cls)
                if field.default is dataclasses.MISSING
            ),
            is_inbound=issubclass(cls, InboundEvent),
        )
        for cls in (*others, *InboundEvent.__subclasses__())
    }


def _read_value(value: object, hint: Any) -> object:
    """Return the value as its field wants it.

    Raises:
        ValueError: it cannot be one.
    """
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ValueError("not a list")
        return tuple(_read_value(item, typing.get_args(hint)[0]) for item in value)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return hint(str(value))
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    whole_number = isinstance(value, int) and not isinstance(value, bool)
    if type(value) not in allowed and not (float in allowed and whole_number):
        raise ValueError("of another type")
    return value


def _check_text(value: object) -> None:
    """Let no text through that is too long, or that neither JSON nor Postgres can hold.

    Raises:
        ValueError: it is one; UnicodeEncodeError, for a lone surrogate, is one too.
    """
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str):
            text.encode()
            if "\x00" in text or len(text) > MOST_TEXT_CHARACTERS:
                raise ValueError("no text to pass on")


def _short(text: str) -> str:
    return text.strip()[:_MAX_DETAIL_CHARACTERS]
