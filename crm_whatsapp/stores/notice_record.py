"""A notice as one JSON text, as the journal keeps it until Supabase has it."""

import json
from collections.abc import Mapping
from typing import Any

from crm_whatsapp.domain.errors import InvalidInput
from crm_whatsapp.domain.notices import Notice, NoticeKind
from crm_whatsapp.stores.connection_record import clean_text, read_time, time_text

MOST_BYTES = 1_000_000
"""A longer notice is none: a text message has 64 KiB at most, media are not part of it."""


def write_notice(notice: Notice) -> str:
    """Return the notice as JSON, without characters that Postgres refuses.

    Raises:
        InvalidInput: its data are not JSON values, or too long.
    """
    try:
        text = json.dumps(
            {
                "id": notice.id,
                "kind": notice.kind.value,
                "company_id": notice.company_id,
                "occurred_at": time_text(notice.occurred_at),
                "data": _clean(notice.data),
            },
            separators=(",", ":"),
            allow_nan=False,
        )
    except (ValueError, TypeError, RecursionError) as exc:  # its text could quote a message
        raise InvalidInput(f"The notice is no JSON ({type(exc).__name__}).") from None
    if len(text) > MOST_BYTES:
        raise InvalidInput(f"The notice has {len(text)} bytes, at most {MOST_BYTES} are kept.")
    return text


def read_notice(text: str) -> Notice:
    """Read what write_notice wrote, of this or another release.

    Raises:
        InvalidInput: it is not one; nothing can be sent.
    """
    try:
        record = json.loads(text)
        occurred_at = read_time(record["occurred_at"])
        data, company_id = record["data"], record["company_id"]
        if occurred_at is None or not isinstance(data, dict):
            raise InvalidInput("The entry has no time or no data.")
        return Notice(
            id=str(record["id"]),
            kind=NoticeKind(record["kind"]),
            company_id=None if company_id is None else str(company_id),
            occurred_at=occurred_at,
            data=data,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise InvalidInput(f"The entry is not a notice ({type(exc).__name__}).") from None


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(str(value))
    if isinstance(value, Mapping):
        return {clean_text(str(name)): _clean(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value
