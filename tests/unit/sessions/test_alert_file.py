"""What was told of alerts survives a restart; a damaged file costs a repetition, not the start."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

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
from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.sessions.alert_file import AlertFile

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
ALERT = Alert(
    kind=AlertKind.LOGGED_OUT,
    subject="3b1bee0c-cbee-4de1-88f1-d6e890f4c995",
    company_id="3b1bee0c-cbee-4de1-88f1-d6e890f4c995",
    label="Açaí 🍇, …4321",
    detail="phone-unlinked",
    since=NOON,
    user_action=UserAction.CONNECT,
)
RECORD = AlertRecord(
    book=AlertBook(
        entries={
            ALERT.key: AlertEntry(
                alert=ALERT, is_open=True, changed_at=NOON, is_told=True, told_at=NOON
            ),
            "database-away:": AlertEntry(
                alert=Alert(kind=AlertKind.DATABASE_AWAY, since=NOON),
                is_open=False,
                changed_at=NOON + timedelta(seconds=1.5),
            ),
        },
        messages_at={AlertKind.LOGGED_OUT: NOON},
    ),
    outbox=(
        Outgoing(
            id="one",
            channel="slack-1",
            written_at=NOON,
            message=AlertMessage(
                state=AlertState.OPEN, severity=Severity.WARNING, title="T", body="a\nb"
            ),
        ),
    ),
)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    file = AlertFile(tmp_path / "alerts.json")
    assert file.read() == AlertRecord()
    file.write(RECORD)
    assert file.read() == RECORD
    assert (tmp_path / "alerts.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format": 2}',
        '{"format": 1}',
        '{"format": 1, "alerts": [{}], "messages_at": {}, "outbox": []}',
        '{"format": 1, "alerts": [], "messages_at": {"new-kind": "x"}, "outbox": []}',
        '{"format": 1, "alerts": 7, "messages_at": {}, "outbox": []}',
        '{"format": 1, "alerts": [], "messages_at": [], "outbox": []}',
        "[" * 100_000,
    ],
)
def test_a_file_that_cannot_be_read_is_taken_for_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "alerts.json"
    path.write_text(content)
    assert AlertFile(path).read() == AlertRecord()


@pytest.mark.parametrize("field", ["since", "changed_at"])
def test_a_time_without_a_zone_is_not_guessed(tmp_path: Path, field: str) -> None:
    path = tmp_path / "alerts.json"
    AlertFile(path).write(RECORD)
    document = json.loads(path.read_text())
    document["alerts"][0][field] = "2026-11-21T12:00:00"
    path.write_text(json.dumps(document))
    assert AlertFile(path).read() == AlertRecord()


def test_a_pipe_in_its_place_does_not_hold_up_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "alerts.json")
    assert AlertFile(tmp_path / "alerts.json").read() == AlertRecord()


def test_a_disk_that_refuses_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        AlertFile(tmp_path / "missing" / "alerts.json").write(RECORD)
