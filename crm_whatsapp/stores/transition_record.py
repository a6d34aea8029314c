"""A transition as one JSON text, as the journal keeps it until Supabase has it."""

import json

from crm_whatsapp.domain.connection import Status
from crm_whatsapp.domain.errors import InvalidInput
from crm_whatsapp.domain.transitions import Transition
from crm_whatsapp.stores.connection_record import (
    JOURNAL_FIELDS,
    read_record,
    read_time,
    time_text,
    write_record,
)


def write_transition(transition: Transition) -> str:
    """Return the transition as JSON."""
    return json.dumps(
        {
            "id": transition.id,
            "event": transition.event,
            "from_status": transition.from_status,
            "occurred_at": time_text(transition.occurred_at),
            "sets_desired_state": transition.sets_desired_state,
            "final": transition.final,
            "connection": write_record(transition.connection, JOURNAL_FIELDS),
        },
        separators=(",", ":"),
    )


def read_transition(text: str) -> Transition:
    """Read what write_transition wrote, of this or another release.

    Raises:
        InvalidInput: it is not one; nothing can be sent.
    """
    try:
        record = json.loads(text)
        occurred_at = read_time(record["occurred_at"])
        if occurred_at is None:
            raise InvalidInput("The entry has no time.")
        return Transition(
            id=str(record["id"]),
            connection=read_record(record["connection"]).connection,
            event=str(record["event"]),
            from_status=_status(record.get("from_status")),
            occurred_at=occurred_at,
            sets_desired_state=record.get("sets_desired_state") is True,
            final=record.get("final") is True,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise InvalidInput(f"The entry is not a transition: {exc!r}.") from exc


def _status(raw: object) -> Status:
    try:
        return Status(str(raw))
    except ValueError:
        return Status.DISCONNECTED
