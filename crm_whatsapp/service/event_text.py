"""Notices as Server-Sent Events: names, JSON and blocks of text.

Source: WHATWG HTML, 9.2.6 "Interpreting an event stream".
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from crm_whatsapp.domain.connection import PairingMethod
from crm_whatsapp.domain.notices import Notice, NoticeKind
from crm_whatsapp.service.status_notices import iso_text

STATUS = "status"
QR = "qr"
PAIRING_CODE = "pairing_code"
MESSAGE = "message"
RECEIPT = "receipt"
SNAPSHOT = "snapshot"  # what follows is how things are, and what was known before is void

CODES = frozenset({QR, PAIRING_CODE})

_NAMES = {
    NoticeKind.STATUS: STATUS,
    NoticeKind.MESSAGE: MESSAGE,
    NoticeKind.RECEIPT: RECEIPT,
}


def event_name(notice: Notice) -> str | None:
    """Return the event's name; None for a notice that streams do not carry."""
    if notice.kind is NoticeKind.QR:
        return QR if notice.data.get("method") == PairingMethod.QR else PAIRING_CODE
    return _NAMES.get(notice.kind)


def event_block(name: str, data: bytes, event_id: str | None = None) -> bytes:
    """Return one event as it is sent. `data` is JSON, so there is no line break in it."""
    head = f"id: {event_id}\nevent: {name}\n" if event_id else f"event: {name}\n"
    return b"%bdata: %b\n\n" % (head.encode(), data)


def position_block(event_id: str) -> bytes:
    """Return a block that moves the client's last event id and is no event."""
    return f"id: {event_id}\n\n".encode()


def notice_json(notice: Notice) -> bytes:
    """Return the `data` of a notice's event."""
    told = {
        "company_id": notice.company_id,
        "timestamp": iso_text(notice.occurred_at),
        "notice_id": notice.id,
    }
    return _json({**told, **notice.data})


def present_json(
    company_id: str, status: Mapping[str, Any], at: datetime, *, is_resync: bool
) -> bytes:
    """Return the `data` of a status event that tells how things are, not what has happened."""
    told = {"company_id": company_id, "timestamp": iso_text(at), "notice_id": None}
    mark = {"resync": True} if is_resync else {}
    nothing = {"previous_status": None, "event": None}
    return _json({**told, **status, **nothing, **mark})


def snapshot_json(
    company_id: str | None, companies: int, at: datetime, *, is_resync: bool
) -> bytes:
    """Return the `data` of the event in front of those statuses."""
    told = {"company_id": company_id, "timestamp": iso_text(at)}
    return _json({**told, "companies": companies, "resync": is_resync})


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
