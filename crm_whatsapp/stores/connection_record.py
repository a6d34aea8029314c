"""A connection as plain JSON values: the form of a table row and of a journal entry.

Reading is tolerant, because another release or a CRM may have written the record: unknown fields
are ignored, missing ones get their default, unknown words become a safe one and are reported.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from crm_whatsapp.domain.company import parse_company_id
from crm_whatsapp.domain.connection import (
    MOST_VERSION,
    Connection,
    DesiredState,
    Intent,
    Reason,
    Status,
    UserAction,
)
from crm_whatsapp.domain.status_words import WORDING

ROW_FIELDS = (
    "company_id",
    "user_id",
    "desired_state",
    "status",
    "reason",
    "message",
    "user_action",
    "degraded",
    "jid",
    "lid",
    "phone_number",
    "push_name",
    "platform",
    "last_connected_at",
    "last_disconnected_at",
    "last_event_at",
    "retry_at",
    "qr_expires_at",
    "status_deadline_at",
    "restore_attempts",
    "version",
)
"""The columns of whatsapp_connections that the service writes."""

JOURNAL_FIELDS = (*ROW_FIELDS, "intent", "engine_crashes", "second_chance_used", "failed_at")
"""What a restart needs to know, database or not."""

_INT32_MAX = 2**31 - 1

_REASON_WHEN_UNKNOWN = {
    Status.DISCONNECTED: Reason.CONNECT_FAILURE,
    Status.CONNECTING: Reason.RESTORING,
    Status.AWAITING_SCAN: Reason.PAIRING,
    Status.CONNECTED: Reason.ONLINE,
    Status.LOGGED_OUT: Reason.LOGGED_OUT_BY_SERVER,
    Status.BANNED: Reason.TEMPORARY_BAN,
    Status.FAILED: Reason.CONNECT_FAILURE,
}

Value = TypeVar("Value")
Word = TypeVar("Word", bound=StrEnum)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRecord:
    """A record that was read. problems: what could not be taken as it stood, for the log."""

    connection: Connection
    problems: tuple[str, ...] = ()


def clean_text(text: str) -> str:
    """Return the text without what Postgres refuses: NUL and lone surrogates.

    A push name is chosen by a stranger; one bad character must not hold up a whole batch.
    """
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def time_text(moment: datetime) -> str:
    """Return the ISO 8601 form in UTC."""
    return moment.astimezone(UTC).isoformat()


def read_time(raw: object) -> datetime | None:
    """Return the aware UTC time; None when it is not one. A time without zone is UTC."""
    if not isinstance(raw, str):
        return None
    try:
        moment = datetime.fromisoformat(raw)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return aware.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def write_record(connection: Connection, fields: tuple[str, ...]) -> dict[str, Any]:
    """Return these fields as JSON values."""
    return {name: _plain(getattr(connection, name)) for name in fields}


def read_record(record: Mapping[str, Any]) -> ReadRecord:
    """Read what write_record wrote, of this or another release.

    Raises:
        InvalidInput: without a usable company_id there is nothing to keep.
    """
    company_id = parse_company_id(record.get("company_id"))
    reader = _Reader(record)
    reason = reader.word("reason", Reason)
    status = reader.word("status", Status)
    if status is None:
        status = WORDING[reason].status if reason else Status.DISCONNECTED
    if reason is None:
        reason = _REASON_WHEN_UNKNOWN[status]
    blank = Connection(company_id=company_id)
    connection = Connection(
        company_id=company_id,
        user_id=reader.text("user_id"),
        desired_state=reader.word("desired_state", DesiredState) or blank.desired_state,
        status=status,
        reason=reason,
        message=reader.text("message") or WORDING[reason].message,
        user_action=reader.word("user_action", UserAction) or WORDING[reason].user_action,
        degraded=reader.flag("degraded"),
        jid=reader.text("jid"),
        lid=reader.text("lid"),
        phone_number=reader.text("phone_number"),
        push_name=reader.text("push_name"),
        platform=reader.text("platform"),
        last_connected_at=reader.time("last_connected_at"),
        last_disconnected_at=reader.time("last_disconnected_at"),
        last_event_at=reader.time("last_event_at"),
        retry_at=reader.time("retry_at"),
        qr_expires_at=reader.time("qr_expires_at"),
        status_deadline_at=reader.time("status_deadline_at"),
        restore_attempts=reader.count("restore_attempts", _INT32_MAX),
        version=reader.count("version", MOST_VERSION),
        intent=reader.word("intent", Intent) or blank.intent,
        engine_crashes=reader.count("engine_crashes", _INT32_MAX),
        second_chance_used=reader.flag("second_chance_used"),
        failed_at=reader.time("failed_at"),
    )
    return ReadRecord(connection=connection, problems=tuple(reader.problems))


class _Reader:
    """Takes single values out of a record and notes what it could not use."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._record = record
        self.problems: list[str] = []

    def text(self, name: str) -> str | None:
        return self._take(name, _read_text)

    def time(self, name: str) -> datetime | None:
        return self._take(name, read_time)

    def flag(self, name: str) -> bool:
        return self._take(name, _read_flag) or False

    def count(self, name: str, most: int) -> int:
        def read(raw: object) -> int | None:
            if isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw <= most:
                return raw
            return None

        return self._take(name, read) or 0

    def word(self, name: str, words: type[Word]) -> Word | None:
        def read(raw: object) -> Word | None:
            try:
                return words(str(raw))
            except ValueError:
                return None

        return self._take(name, read)

    def _take(self, name: str, read: Callable[[object], Value | None]) -> Value | None:
        raw = self._record.get(name)
        if raw is None:
            return None
        value = read(raw)
        if value is None:
            self.problems.append(f"{name} has the unknown value {str(raw)[:60]!r}")
        return value


def _read_text(raw: object) -> str | None:
    return clean_text(raw) if isinstance(raw, str) else None


def _read_flag(raw: object) -> bool | None:
    return raw if isinstance(raw, bool) else None


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return time_text(value)
    if isinstance(value, str):  # words of closed sets too
        return clean_text(str(value))
    return value
