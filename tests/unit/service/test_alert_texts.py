"""What people and programs read of alerts."""

from datetime import UTC, datetime

import pytest

from crm_whatsapp.domain.alert_book import AlertChange, AlertGroup
from crm_whatsapp.domain.alerts import WORDING, Alert, AlertKind, AlertState, Severity
from crm_whatsapp.domain.connection import Connection, UserAction
from crm_whatsapp.service.alert_texts import (
    company_label,
    message_of,
    notice_data,
    plain,
    summary,
)

SINCE = datetime(2026, 11, 21, 12, 3, tzinfo=UTC)
COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"


def alert(number: int = 0, kind: AlertKind = AlertKind.LOGGED_OUT, label: str = "Bella") -> Alert:
    company_id = f"{number:08}-cbee-4de1-88f1-d6e890f4c995"
    return Alert(
        kind=kind,
        subject=company_id,
        company_id=company_id,
        label=label,
        detail="phone-unlinked",
        since=SINCE,
        user_action=UserAction.CONNECT,
    )


def group(
    count: int, state: AlertState = AlertState.OPEN, kind: AlertKind = AlertKind.LOGGED_OUT
) -> AlertGroup:
    return AlertGroup(
        kind=kind, state=state, alerts=tuple(alert(number, kind) for number in range(count))
    )


@pytest.mark.parametrize("kind", list(AlertKind))
def test_every_kind_has_its_words(kind: AlertKind) -> None:
    wording = WORDING[kind]
    assert all(str(part) for part in wording)
    assert wording.what_to_do.endswith(".")
    for state in AlertState:
        service = AlertGroup(kind=kind, state=state, alerts=(Alert(kind=kind, since=SINCE),))
        message = message_of(service, "host-1")
        assert message.title.startswith("WhatsApp")
        assert message.body.endswith("crm_whatsapp on host-1")
        assert ("What to do" in message.body) is (state is AlertState.OPEN)


def test_many_companies_make_one_message_with_some_of_their_names() -> None:
    message = message_of(group(14), "host-1")
    assert message.title == "WhatsApp: 14 sessions were logged out"
    assert message.body.count("Bella (") == 10
    assert "and 4 more" in message.body
    assert alert(0).company_id in message.body  # type: ignore[operator]
    assert "since 2026-11-21 12:03 UTC" in message.body
    assert message.severity is Severity.WARNING
    assert len(message.body) < 1900, "Discord takes 2000 characters"


def test_one_company_is_named_in_the_title() -> None:
    message = message_of(group(1), "host-1")
    assert message.title == "WhatsApp: Bella was logged out"


def test_the_end_is_told_with_those_that_are_left() -> None:
    over = AlertGroup(
        kind=AlertKind.LOGGED_OUT,
        state=AlertState.RESOLVED,
        alerts=(alert(0), alert(1)),
        still_open=3,
    )
    message = message_of(over, "host-1")
    assert message.title.startswith("WhatsApp, resolved: 2 sessions are linked again")
    assert "3 more are not over yet" in message.body
    assert "phone-unlinked" not in message.body


def test_longest_names_and_details_fit() -> None:
    alerts = tuple(
        Alert(
            kind=AlertKind.SNAPSHOT_OLD,
            subject=str(number),
            company_id=COMPANY,
            label=company_label(
                Connection(company_id=COMPANY, push_name="N" * 200, phone_number="5511987654321")
            ),
            detail="d" * 1000,
            since=SINCE,
        )
        for number in range(30)
    )
    message = message_of(
        AlertGroup(kind=AlertKind.SNAPSHOT_OLD, state=AlertState.OPEN, alerts=alerts), "h" * 60
    )
    assert len(message.body) < 1900
    assert "more" in message.body


def test_a_notice_says_the_same_for_programs() -> None:
    opened = AlertChange(alert=alert(), state=AlertState.OPEN)
    assert notice_data(opened) == {
        "kind": "session-logged-out",
        "state": "open",
        "severity": "warning",
        "summary": "Bella (00000000-cbee-4de1-88f1-d6e890f4c995) was logged out: phone-unlinked",
        "since": "2026-11-21T12:03:00Z",
        "user_action": "connect",
    }
    over = notice_data(AlertChange(alert=alert(), state=AlertState.RESOLVED))
    assert (over["state"], over["user_action"]) == ("resolved", "none")
    assert "linked again" in over["summary"]


def test_a_job_is_named() -> None:
    job = Alert(kind=AlertKind.JOB_FAILING, subject="x", label="session-sync", since=SINCE)
    assert summary(job, AlertState.OPEN) == "A job fails again and again (session-sync)"


@pytest.mark.parametrize(
    ("name", "number", "label"),
    [
        ("Padaria Sol", "5511987654321", "Padaria Sol, …4321"),
        (None, "+5511987654321", "…4321"),
        ("Bella", None, "Bella"),
        (None, None, ""),
        ("Vendas +55 11 98765-4321", None, "Vendas …4321"),
        ("(11) 98765.4321", None, "(…4321"),
        ("a\n<!channel> @everyone\u202e", None, "a ‹!channel› ＠everyone"),  # noqa: RUF001
        ("N" * 100, None, "N" * 39 + "…"),
    ],
)
def test_a_company_is_told_without_its_whole_number(
    name: str | None, number: str | None, label: str
) -> None:
    connection = Connection(company_id=COMPANY, push_name=name, phone_number=number)
    assert company_label(connection) == label


def test_short_numbers_stay() -> None:
    assert plain("12 of 300 sessions, WhatsApp answered 503", 100) == (
        "12 of 300 sessions, WhatsApp answered 503"
    )
