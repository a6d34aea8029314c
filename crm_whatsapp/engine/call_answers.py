"""What the end of a call means to the service: events, and the result of a send."""

from concurrent.futures import Future

from crm_whatsapp.domain import events
from crm_whatsapp.domain.engines import SentMessage
from crm_whatsapp.domain.errors import SendRejected, SendUnconfirmed, SessionNotConnected
from crm_whatsapp.domain.media import MediaNotUploaded
from crm_whatsapp.engine.engine_calls import CallEnd, Fields


def probe_event(company_id: str, generation: int, end: CallEnd) -> events.EngineEvent:
    """Return ProbeAnswered, or ProbeFailed with the reason."""
    fields = end.fields or {}
    if fields.get("answered") is True:
        return events.ProbeAnswered(company_id=company_id, generation=generation)
    return events.ProbeFailed(
        company_id=company_id, generation=generation, detail=_detail(fields, end)
    )


def logout_event(company_id: str, generation: int, end: CallEnd) -> events.LogoutAnswered:
    """Return LogoutAnswered; without an answer it has not succeeded."""
    fields = end.fields or {}
    return events.LogoutAnswered(
        company_id=company_id,
        generation=generation,
        succeeded=fields.get("succeeded") is True,
        detail=_detail(fields, end),
    )


def finish_send(future: Future[SentMessage], end: CallEnd) -> str | None:
    """Put the result of a send into its future; return the error that only a dead session gives."""
    fields = end.fields or {}
    detail = _detail(fields, end)
    outcome = fields.get("outcome")
    whatsapp_id = fields.get("whatsapp_id")
    if outcome == "sent" and isinstance(whatsapp_id, str):
        seconds = fields.get("server_timestamp_seconds")
        future.set_result(
            SentMessage(
                whatsapp_id=whatsapp_id,
                server_timestamp_seconds=seconds if isinstance(seconds, int) else 0,
            )
        )
    elif outcome == "not-connected":
        future.set_exception(SessionNotConnected())
    elif outcome == "not-uploaded":
        future.set_exception(MediaNotUploaded(reason=detail))
    elif outcome == "rejected":
        future.set_exception(SendRejected(f"WhatsApp refused the message: {detail}"))
    else:
        # Without an answer nobody knows; neonize lets no one choose the message id either.
        future.set_exception(SendUnconfirmed(whatsapp_id=None, reason=detail))
    return detail if fields.get("dead") is True else None


def _detail(fields: Fields, end: CallEnd) -> str:
    detail = fields.get("detail")
    return detail if isinstance(detail, str) and detail else end.detail
