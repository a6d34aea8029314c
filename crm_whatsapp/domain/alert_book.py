"""When an alert opens, when it is over, and when people are told: a pure state machine.

An alert opens once its condition has held for a while, and is over once the condition has been
gone for a while. That is noted for programs at once. What people are told follows it, and is
limited: alerts of a kind that come together make one message, the same alert is not told again
within its cool-down, and that it is over is told once for all of a kind where possible.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

from crm_whatsapp.domain.alerts import (
    SESSION_KINDS,
    Alert,
    AlertKind,
    AlertState,
    Outgoing,
    Sightings,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertTerms:
    """Every duration of the state machine, in seconds.

    Attributes:
        hold_seconds: how long a condition holds before its alert opens; kinds not named: at once.
        clear_seconds: how long it is gone before the alert is over.
        group_seconds: a message waits so long for others of its kind.
        pause_seconds: between two messages about the same kind.
        cool_down_seconds: the same alert is not told again within it.
        resolve_wait_seconds: that some are over is told after so long when others of the kind are
            still open; without those after group_seconds.
    """

    hold_seconds: Mapping[AlertKind, float] = field(default_factory=dict)
    clear_seconds: float = 60.0
    group_seconds: float = 15.0
    pause_seconds: float = 120.0
    cool_down_seconds: float = 1800.0
    resolve_wait_seconds: float = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertEntry:
    """Where one alert stands.

    Attributes:
        is_open: whether programs were told that it is open.
        changed_at: when is_open became what it is.
        leaning_since: since when what is seen contradicts is_open; None when it does not.
        is_told: whether people were told that it is open, and not yet that it is over.
        told_at: when people were last told that it is open.
    """

    alert: Alert
    is_open: bool
    changed_at: datetime
    leaning_since: datetime | None = None
    is_told: bool = False
    told_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertBook:
    """Every alert that is open, about to open, or was told of lately.

    messages_at: when the last message about each kind was written.
    """

    entries: Mapping[str, AlertEntry] = field(default_factory=dict)
    messages_at: Mapping[AlertKind, datetime] = field(default_factory=dict)

    def lasting(self) -> "AlertBook":
        """Return what a restart must not forget."""
        return replace(
            self,
            entries={
                key: replace(entry, leaning_since=None)
                for key, entry in self.entries.items()
                if entry.is_open or entry.is_told or entry.told_at is not None
            },
        )

    def not_after(self, now: datetime) -> "AlertBook":
        """Return it with no time in the future: the machine's clock may have been set back."""
        return AlertBook(
            entries={
                key: replace(
                    entry,
                    changed_at=min(entry.changed_at, now),
                    told_at=min(entry.told_at, now) if entry.told_at else None,
                )
                for key, entry in self.entries.items()
            },
            messages_at={kind: min(at, now) for kind, at in self.messages_at.items()},
        )

    def open_alerts(self) -> list[Alert]:
        """Return what is open now."""
        return [entry.alert for entry in self.entries.values() if entry.is_open]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRecord:
    """What a restart must not forget. outbox: messages that a channel has not taken yet."""

    book: AlertBook = field(default_factory=AlertBook)
    outbox: tuple[Outgoing, ...] = ()


class AlertLedger(Protocol):
    """Keeps the record on the disk. Methods raise StorageError when the disk refuses."""

    def read(self) -> AlertRecord:
        """Return the record; an empty one when there is none, or none that can be read."""

    def write(self, record: AlertRecord) -> None:
        """Replace the record, durably."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertChange:
    """One alert that opened or is over: for programs."""

    alert: Alert
    state: AlertState


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertGroup:
    """Alerts of one kind that people are told of in one message.

    still_open: how many others of the kind people know to be open.
    """

    kind: AlertKind
    state: AlertState
    alerts: tuple[Alert, ...]
    still_open: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """What a look at the present state brought."""

    book: AlertBook
    changes: tuple[AlertChange, ...]
    groups: tuple[AlertGroup, ...]


def advance(book: AlertBook, seen: Sightings, now: datetime, terms: AlertTerms) -> Advance:
    """Take note of what is the case now; the same sightings twice at one time change nothing."""
    entries = dict(book.entries)
    for key, alert in seen.present.items():
        entries[key] = _sighted(entries.get(key), alert, now, terms)
    pressing = {
        entry.alert.company_id
        for key, entry in entries.items()
        if key in seen.present and entry.is_open and entry.alert.kind in SESSION_KINDS
    }
    for key in entries.keys() - seen.present.keys():
        entry = entries[key]
        if entry.alert.kind in SESSION_KINDS and entry.alert.company_id in pressing:
            entries[key] = _superseded(entry, now)
        elif key in seen.unsure:
            entries[key] = replace(entry, leaning_since=None)
        else:
            entries[key] = _not_sighted(entry, now, terms)
    changes = tuple(_changes(book.entries, entries))
    groups, messages_at = _tell(entries, dict(book.messages_at), now, terms)
    kept = {
        key: entry
        for key, entry in sorted(entries.items())
        if key in seen.present or not _is_forgotten(entry, now, terms)
    }
    return Advance(
        book=AlertBook(entries=kept, messages_at=messages_at), changes=changes, groups=groups
    )


def _sighted(
    entry: AlertEntry | None, alert: Alert, now: datetime, terms: AlertTerms
) -> AlertEntry:
    if entry is None:
        entry = AlertEntry(alert=alert, is_open=False, changed_at=now)
    if entry.is_open:
        same = replace(alert, since=min(entry.alert.since, alert.since))
        return replace(entry, alert=same, leaning_since=None)
    if entry.leaning_since is None:
        entry = replace(entry, alert=alert, leaning_since=now)
    begun = entry.leaning_since or now
    entry = replace(entry, alert=replace(alert, since=min(entry.alert.since, alert.since)))
    if _seconds(begun, now) < terms.hold_seconds.get(alert.kind, 0.0):
        return entry
    return replace(entry, is_open=True, changed_at=now, leaning_since=None)


def _not_sighted(entry: AlertEntry, now: datetime, terms: AlertTerms) -> AlertEntry:
    if not entry.is_open:
        return replace(entry, leaning_since=None)
    gone_since = entry.leaning_since or now
    if _seconds(gone_since, now) < terms.clear_seconds:
        return replace(entry, leaning_since=gone_since)
    return replace(entry, is_open=False, changed_at=now, leaning_since=None)


def _superseded(entry: AlertEntry, now: datetime) -> AlertEntry:
    """Another alert about the same session took its place: no good news, so nobody is told."""
    if not entry.is_open:
        return replace(entry, leaning_since=None, is_told=False)
    return replace(entry, is_open=False, changed_at=now, leaning_since=None, is_told=False)


def _changes(
    before: Mapping[str, AlertEntry], after: Mapping[str, AlertEntry]
) -> Iterable[AlertChange]:
    for key, entry in sorted(after.items()):
        was_open = key in before and before[key].is_open
        if entry.is_open != was_open:
            state = AlertState.OPEN if entry.is_open else AlertState.RESOLVED
            yield AlertChange(alert=entry.alert, state=state)


def _tell(
    entries: dict[str, AlertEntry],
    messages_at: dict[AlertKind, datetime],
    now: datetime,
    terms: AlertTerms,
) -> tuple[tuple[AlertGroup, ...], dict[AlertKind, datetime]]:
    """Decide what people are told now, and note that they are."""
    groups: list[AlertGroup] = []
    by_kind: dict[AlertKind, list[str]] = {}
    for key, entry in sorted(entries.items()):
        by_kind.setdefault(entry.alert.kind, []).append(key)
    for kind, keys in by_kind.items():
        last = messages_at.get(kind)
        if last is not None and _seconds(last, now) < terms.pause_seconds:
            continue
        opening = [key for key in keys if _waits_to_open(entries[key], now, terms)]
        ending = [key for key in keys if entries[key].is_told and not entries[key].is_open]
        if opening and _longest(opening, entries, now) >= terms.group_seconds:
            groups.append(_group(kind, AlertState.OPEN, opening, entries))
            for key in opening:
                entries[key] = replace(entries[key], is_told=True, told_at=now)
        still_open = sum(entries[key].is_told and entries[key].is_open for key in keys)
        wait = terms.resolve_wait_seconds if still_open else terms.group_seconds
        if ending and _longest(ending, entries, now) >= wait:
            over = _group(kind, AlertState.RESOLVED, ending, entries)
            groups.append(replace(over, still_open=still_open))
            for key in ending:
                entries[key] = replace(entries[key], is_told=False)
        if groups and groups[-1].kind is kind:
            messages_at[kind] = now
    pause = timedelta(seconds=terms.pause_seconds)
    return tuple(groups), {kind: at for kind, at in messages_at.items() if now - at < pause}


def _waits_to_open(entry: AlertEntry, now: datetime, terms: AlertTerms) -> bool:
    if not entry.is_open or entry.is_told:
        return False
    return entry.told_at is None or _seconds(entry.told_at, now) >= terms.cool_down_seconds


def _longest(keys: list[str], entries: Mapping[str, AlertEntry], now: datetime) -> float:
    return max(_seconds(entries[key].changed_at, now) for key in keys)


def _group(
    kind: AlertKind, state: AlertState, keys: list[str], entries: Mapping[str, AlertEntry]
) -> AlertGroup:
    alerts = tuple(entries[key].alert for key in keys)
    return AlertGroup(kind=kind, state=state, alerts=alerts)


def _is_forgotten(entry: AlertEntry, now: datetime, terms: AlertTerms) -> bool:
    if entry.is_open or entry.is_told:
        return False
    return entry.told_at is None or _seconds(entry.told_at, now) >= terms.cool_down_seconds


def _seconds(since: datetime, now: datetime) -> float:
    return (now - since).total_seconds()
