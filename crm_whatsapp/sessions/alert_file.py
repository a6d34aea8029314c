"""What was told of alerts, in one small file: SESSIONS_DIR/alerts.json."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from crm_whatsapp.domain.alert_book import AlertBook, AlertEntry, AlertRecord
from crm_whatsapp.domain.alerts import (
    Alert,
    AlertKind,
    AlertMessage,
    AlertState,
    Outgoing,
    Severity,
)
from crm_whatsapp.domain.connection import UserAction
from crm_whatsapp.sessions.durable_file import NotAPlainFile, read_bounded, refused, write_durably

log = structlog.get_logger(__name__)

_FORMAT = 1
_MOST_BYTES = 16 * 1024 * 1024


class AlertFile:
    """The AlertLedger in a file. One that cannot be read is taken for none: it is told again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> AlertRecord:
        """Return the record.

        Raises:
            StorageError: the disk refuses.
        """
        try:
            raw = read_bounded(self._path, _MOST_BYTES)
        except FileNotFoundError:
            return AlertRecord()
        except OSError as exc:
            raise refused("read", self._path, exc) from exc
        except NotAPlainFile:
            raw = b""
        try:
            return _record(json.loads(raw))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
            log.warning("the record of alerts cannot be read and begins anew", detail=repr(exc))
            return AlertRecord()

    def write(self, record: AlertRecord) -> None:
        """Replace the record.

        Raises:
            StorageError: the disk refuses; the file is as it was.
        """
        write_durably(self._path, json.dumps(_document(record)).encode())


def _document(record: AlertRecord) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "alerts": [_entry_document(entry) for entry in record.book.entries.values()],
        "messages_at": {
            kind.value: _text(moment) for kind, moment in record.book.messages_at.items()
        },
        "outbox": [
            {
                "id": item.id,
                "channel": item.channel,
                "written_at": _text(item.written_at),
                "state": item.message.state.value,
                "severity": item.message.severity.value,
                "title": item.message.title,
                "body": item.message.body,
            }
            for item in record.outbox
        ],
    }


def _entry_document(entry: AlertEntry) -> dict[str, Any]:
    alert = entry.alert
    return {
        "kind": alert.kind.value,
        "subject": alert.subject,
        "company_id": alert.company_id,
        "label": alert.label,
        "detail": alert.detail,
        "since": _text(alert.since),
        "user_action": alert.user_action.value,
        "is_open": entry.is_open,
        "changed_at": _text(entry.changed_at),
        "is_told": entry.is_told,
        "told_at": _text(entry.told_at) if entry.told_at else None,
    }


def _record(document: Mapping[str, Any]) -> AlertRecord:
    if document["format"] != _FORMAT:
        raise ValueError(f"format {document['format']!r}")
    entries = [_entry(item) for item in document["alerts"]]
    return AlertRecord(
        book=AlertBook(
            entries={entry.alert.key: entry for entry in entries},
            messages_at={
                AlertKind(kind): _moment(text) for kind, text in document["messages_at"].items()
            },
        ),
        outbox=tuple(
            Outgoing(
                id=str(item["id"]),
                channel=str(item["channel"]),
                written_at=_moment(item["written_at"]),
                message=AlertMessage(
                    state=AlertState(item["state"]),
                    severity=Severity(item["severity"]),
                    title=str(item["title"]),
                    body=str(item["body"]),
                ),
            )
            for item in document["outbox"]
        ),
    )


def _entry(item: Mapping[str, Any]) -> AlertEntry:
    company_id = item["company_id"]
    return AlertEntry(
        alert=Alert(
            kind=AlertKind(item["kind"]),
            subject=str(item["subject"]),
            company_id=str(company_id) if company_id is not None else None,
            label=str(item["label"]),
            detail=str(item["detail"]),
            since=_moment(item["since"]),
            user_action=UserAction(item["user_action"]),
        ),
        is_open=bool(item["is_open"]),
        changed_at=_moment(item["changed_at"]),
        is_told=bool(item["is_told"]),
        told_at=_moment(item["told_at"]) if item["told_at"] else None,
    )


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment.astimezone(UTC)
