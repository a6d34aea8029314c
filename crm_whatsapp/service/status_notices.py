"""A transition as the outside hears of it: the body of a status answer, and what was before."""

import uuid
from datetime import datetime
from typing import Any

from crm_whatsapp.domain.connection import Connection
from crm_whatsapp.domain.notices import Notice, NoticeKind
from crm_whatsapp.domain.transitions import FORGOTTEN, Transition


def status_notice(transition: Transition) -> Notice:
    """Return the notice of a transition; it carries the transition's id."""
    connection = transition.connection
    return Notice(
        id=transition.id,
        kind=NoticeKind.STATUS,
        company_id=connection.company_id,
        occurred_at=transition.occurred_at,
        data={
            **status_data(connection),
            "previous_status": transition.from_status.value,
            "event": transition.event,
        },
    )


def forgotten_notice(connection: Connection, occurred_at: datetime) -> Notice:
    """Return the last notice of a company: it is like one that nobody has ever connected."""
    return Notice(
        id=str(uuid.uuid4()),
        kind=NoticeKind.STATUS,
        company_id=connection.company_id,
        occurred_at=occurred_at,
        data={
            **status_data(Connection(company_id=connection.company_id)),
            "previous_status": connection.status.value,
            "event": FORGOTTEN,
        },
    )


def adoption_notice(before: Connection, after: Connection, occurred_at: datetime) -> Notice:
    """Return the notice of a state that was taken over from the database, without a transition."""
    return Notice(
        id=str(uuid.uuid4()),
        kind=NoticeKind.STATUS,
        company_id=after.company_id,
        occurred_at=occurred_at,
        data={
            **status_data(after),
            "previous_status": before.status.value,
            "event": "row-adopted",
        },
    )


def status_data(connection: Connection) -> dict[str, Any]:
    """Return the body of `GET /status` for this connection, as JSON values."""
    return {
        "company_id": connection.company_id,
        "status": connection.status.value,
        "is_connected": connection.is_connected,
        "message": connection.message,
        "reason": connection.reason.value,
        "user_action": connection.user_action.value,
        "phone_number": connection.phone_number,
        "push_name": connection.push_name,
        "last_connected_at": iso_text(connection.last_connected_at),
        "retry_at": iso_text(connection.retry_at),
        "qr_expires_at": iso_text(connection.qr_expires_at),
    }


def iso_text(moment: datetime | None) -> str | None:
    """Return a time as the API writes it: ISO 8601, UTC, with Z."""
    return moment.isoformat().replace("+00:00", "Z") if moment else None
