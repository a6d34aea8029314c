"""How alerts read: for people in messages, for programs in notices."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from crm_whatsapp.domain.alert_book import AlertChange, AlertGroup
from crm_whatsapp.domain.alerts import WORDING, Alert, AlertMessage, AlertState
from crm_whatsapp.domain.connection import Connection, UserAction
from crm_whatsapp.service.status_notices import iso_text

_MOST_NAMED = 10
_MOST_NAME = 40
_MOST_DETAIL = 300
_MOST_DETAIL_IN_LIST = 80
_MOST_LISTED = 1300
_LONG_NUMBER = re.compile(r"\+?\d(?:[\s().-]{0,2}\d){5,}")
_NOT_PLAIN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]+")
_MARKUP = str.maketrans({"<": "‹", ">": "›", "@": "＠"})  # noqa: RUF001 - so that nobody is pinged


def company_label(connection: Connection) -> str:
    """Return what an operator knows the company by: its name on WhatsApp, the end of its number."""
    name = plain(connection.push_name or "", _MOST_NAME)
    number = re.sub(r"\D", "", connection.phone_number or "")
    return ", ".join(part for part in (name, f"…{number[-4:]}" if number else "") if part)


def plain(text: str, most: int) -> str:
    """Return one line without markup, mentions and whole phone numbers."""
    line = " ".join(_NOT_PLAIN.sub(" ", text).translate(_MARKUP).split())
    line = _LONG_NUMBER.sub(lambda found: "…" + re.sub(r"\D", "", found.group())[-4:], line)
    return line if len(line) <= most else line[: most - 1] + "…"


def summary(alert: Alert, state: AlertState) -> str:
    """Return one sentence about one alert."""
    wording = WORDING[alert.kind]
    words = wording.one if state is AlertState.OPEN else wording.over_one
    if alert.company_id is not None:
        sentence = f"{_named(alert)} {words}"
    else:
        sentence = f"{words} ({alert.label})" if alert.label else words
    if state is AlertState.OPEN and alert.detail:
        sentence = f"{sentence}: {plain(alert.detail, _MOST_DETAIL)}"
    return sentence


def notice_data(change: AlertChange) -> dict[str, Any]:
    """Return what a notice says of an alert that opened or is over, as JSON values."""
    alert = change.alert
    is_open = change.state is AlertState.OPEN
    return {
        "kind": alert.kind.value,
        "state": change.state.value,
        "severity": alert.severity.value,
        "summary": summary(alert, change.state),
        "since": iso_text(alert.since),
        "user_action": (alert.user_action if is_open else UserAction.NONE).value,
    }


def message_of(group: AlertGroup, source: str) -> AlertMessage:
    """Return the message that tells people of these alerts.

    Args:
        source: where the service runs, for people who have several.
    """
    wording = WORDING[group.kind]
    is_open = group.state is AlertState.OPEN
    first = group.alerts[0]
    count = len(group.alerts)
    if first.company_id is not None:
        many, one = (
            (wording.many, wording.one) if is_open else (wording.over_many, wording.over_one)
        )
        headline = f"{count} sessions {many}" if count > 1 else f"{_name_of(first)} {one}"
        lines = [_line(alert, is_open=is_open) for alert in group.alerts]
    elif count > 1:
        headline = wording.many if is_open else wording.over_many
        lines = [f"- {summary(alert, group.state)}" for alert in group.alerts]
    else:
        headline = wording.one if is_open else wording.over_one
        lines = [summary(first, group.state)] if first.label or (first.detail and is_open) else []
        lines += [f"Since {_time(first.since)}"] if is_open else []
    still_open = f"{group.still_open} more are not over yet." if group.still_open else ""
    parts = [f"{headline}.", _limited(lines), still_open]
    if is_open:
        parts.append(f"What to do: {wording.what_to_do}")
    parts.append(f"crm_whatsapp on {source}")
    return AlertMessage(
        state=group.state,
        severity=wording.severity,
        title=f"WhatsApp: {headline}" if is_open else f"WhatsApp, resolved: {headline}",
        body="\n\n".join(part for part in parts if part),
    )


def _name_of(alert: Alert) -> str:
    return alert.label or f"Company {alert.company_id}"


def _named(alert: Alert) -> str:
    return f"{alert.label} ({alert.company_id})" if alert.label else f"Company {alert.company_id}"


def _line(alert: Alert, *, is_open: bool) -> str:
    if not is_open:
        return f"- {_named(alert)}"
    detail = f": {plain(alert.detail, _MOST_DETAIL_IN_LIST)}" if alert.detail else ""
    return f"- {_named(alert)}{detail}, since {_time(alert.since)}"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _limited(lines: Sequence[str]) -> str:
    """Return as many as a message holds (Discord takes 2000 characters), and how many are left."""
    shown: list[str] = []
    for line in lines[:_MOST_NAMED]:
        if sum(map(len, shown)) + len(line) > _MOST_LISTED:
            break
        shown.append(line)
    if len(lines) > len(shown):
        shown.append(f"and {len(lines) - len(shown)} more")
    return "\n".join(shown)
