"""What the answer to a call means: the fields of a CALLED frame.

The texts are whatsmeow's: errors.go, request.go, send.go.
"""

import re
from typing import Any

from crm_whatsapp.engine.event_translation import Fields
from crm_whatsapp.engine.media_sending import NotUploaded
from crm_whatsapp.engine.whatsapp_client import CallFailed, SendReceipt

_NO_ANSWER = re.compile(
    r"not connected|websocket disconnected|timed out|context (deadline|canceled)|client is nil"
    r"|failed to (send|write)|broken pipe|use of closed|\bEOF\b",
    re.IGNORECASE,
)
_DEAD_SESSION = re.compile(
    r"websocket not connected|doesn't contain a device JID|not logged in|client is nil",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"https?://[^\s\"']+", re.IGNORECASE)
_UNCONFIRMED = re.compile(
    r"timed out|websocket disconnected|context (deadline|canceled)", re.IGNORECASE
)


def probe_fields(result: Any) -> Fields:
    """answered: any answer of the server counts, an error too."""
    if isinstance(result, CallFailed) and not _NO_ANSWER.search(str(result)):
        return {"answered": True, "detail": str(result)}
    if isinstance(result, Exception):
        return {"answered": False, "detail": str(result)}
    return {"answered": True, "detail": ""}


def logout_fields(result: Any) -> Fields:
    """succeeded, detail."""
    if isinstance(result, Exception):
        return {"succeeded": False, "detail": str(result)}
    return {"succeeded": True, "detail": ""}


def send_fields(result: Any) -> Fields:
    """outcome: sent, rejected, unconfirmed, not-connected or not-sent."""
    if isinstance(result, SendReceipt):
        return {
            "outcome": "sent",
            "whatsapp_id": result.message_id,
            "server_timestamp_seconds": result.server_timestamp_seconds,
        }
    detail = str(result)
    dead = isinstance(result, CallFailed) and bool(_DEAD_SESSION.search(detail))
    return {"outcome": _send_outcome(result, detail, dead=dead), "detail": detail, "dead": dead}


def media_fields(result: Any) -> Fields:
    """As send_fields; outcome not-uploaded: nothing was sent, and nothing will be."""
    if not isinstance(result, NotUploaded):
        return send_fields(result)
    # Go tells the whole address in its errors, with the key that opens WhatsApp's storage.
    detail = _ADDRESS.sub("(address)", str(result))
    dead = isinstance(result.__cause__, CallFailed) and bool(_DEAD_SESSION.search(detail))
    outcome = "not-connected" if dead else "not-uploaded"
    return {"outcome": outcome, "detail": detail, "dead": dead}


def _send_outcome(result: Any, detail: str, *, dead: bool) -> str:
    if dead or isinstance(result, ConnectionError):
        return "not-connected"
    if isinstance(result, CallFailed):
        return "unconfirmed" if _UNCONFIRMED.search(detail) else "rejected"
    return "unconfirmed"
