"""Webhooks and deliveries as the JSON values that the SQL functions take and give.

What a newer release wrote and this one does not know is left out and reported, never guessed: a
webhook for unknown kinds must not be taken for one that wants everything.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from crm_whatsapp.domain.errors import InvalidInput
from crm_whatsapp.domain.notices import Notice, NoticeKind
from crm_whatsapp.domain.webhooks import (
    Attempt,
    Delivery,
    DeliveryRecord,
    DeliveryState,
    SealedSecret,
    Webhook,
    WebhookOrigin,
)
from crm_whatsapp.stores.connection_record import clean_text, read_time, time_text

_LONGEST_ERROR = 500


def write_webhook(webhook: Webhook) -> dict[str, Any]:
    """Return the row of a webhook."""
    return {
        "id": webhook.id,
        "company_id": webhook.company_id,
        "url": clean_text(webhook.url),
        "kinds": sorted(kind.value for kind in webhook.kinds),
        "secret_key_id": webhook.secret.key_id,
        "secret_value": webhook.secret.value,
        "enabled": webhook.enabled,
        "origin": webhook.origin.value,
        "created_at": time_text(webhook.created_at),
        "updated_at": time_text(webhook.updated_at),
    }


def read_webhook(row: Mapping[str, Any]) -> Webhook:
    """Read a row.

    Raises:
        InvalidInput: it is of another release.
    """
    try:
        return Webhook(
            id=str(row["id"]),
            company_id=row["company_id"],
            url=str(row["url"]),
            kinds=frozenset(NoticeKind(kind) for kind in row["kinds"]),
            secret=SealedSecret(key_id=row["secret_key_id"], value=str(row["secret_value"])),
            enabled=row["enabled"] is True,
            origin=WebhookOrigin(row["origin"]),
            created_at=_time(row["created_at"]),
            updated_at=_time(row["updated_at"]),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise InvalidInput(f"A webhook cannot be read: {_what(exc)}.") from exc


def read_delivery(row: Mapping[str, Any], token: str) -> Delivery:
    """Read a claimed delivery.

    Raises:
        InvalidInput: it is of another release.
    """
    try:
        return Delivery(
            id=int(row["id"]),
            webhook_id=str(row["webhook_id"]),
            lane=str(row["lane"]),
            notice=Notice(
                id=str(row["notice_id"]),
                kind=NoticeKind(row["kind"]),
                company_id=row["company_id"],
                occurred_at=_time(row["occurred_at"]),
                data=dict(row["data"]),
            ),
            attempt=int(row["attempt"]),
            queued_at=_time(row["queued_at"]),
            token=token,
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise InvalidInput(f"A delivery cannot be read: {_what(exc)}.") from exc


def write_attempt(attempt: Attempt) -> dict[str, Any]:
    """Return the element of a batch."""
    return {
        "delivery_id": attempt.delivery_id,
        "token": attempt.token,
        "state": attempt.state.value,
        "retry_in_seconds": attempt.retry_in_seconds,
        "status_code": attempt.status_code,
        "error": None if attempt.error is None else clean_text(attempt.error)[:_LONGEST_ERROR],
    }


def read_log_line(row: Mapping[str, Any]) -> DeliveryRecord:
    """Read a line of the delivery log.

    Raises:
        InvalidInput: it is of another release.
    """
    try:
        return DeliveryRecord(
            id=int(row["id"]),
            webhook_id=str(row["webhook_id"]),
            notice_id=str(row["notice_id"]),
            kind=NoticeKind(row["kind"]),
            company_id=row["company_id"],
            state=DeliveryState(row["state"]),
            attempts=int(row["attempts"]),
            status_code=row["last_status_code"],
            error=row["last_error"],
            queued_at=_time(row["queued_at"]),
            last_attempt_at=read_time(row["last_attempt_at"]),
            next_attempt_at=read_time(row["next_attempt_at"]),
            settled_at=read_time(row["settled_at"]),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise InvalidInput(f"A line of the delivery log cannot be read: {_what(exc)}.") from exc


def _time(raw: object) -> datetime:
    moment = read_time(raw)
    if moment is None:
        raise ValueError("a time is missing")
    return moment


def _what(exc: Exception) -> str:
    """Say what was wrong; the text of a ValueError may show the content."""
    return f"{type(exc).__name__}, {exc}" if isinstance(exc, KeyError) else type(exc).__name__
