"""Sends a batch of the journal: what is of one kind together, each company's entries in order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import structlog

from crm_whatsapp.domain.errors import CrmWhatsappError, StoreRejected, StoreUnavailable
from crm_whatsapp.domain.notices import Notice
from crm_whatsapp.domain.ports import ConnectionStore, JournalEntry, StateJournal
from crm_whatsapp.domain.transitions import (
    FORGOTTEN,
    Transition,
    TransitionOutcome,
    TransitionReceipt,
)

log = structlog.get_logger(__name__)

_MOST_PROBES = 8

StaleListener = Callable[[Transition, TransitionReceipt], None]


class NoticeQueue(Protocol):
    """Where notices wait for their webhooks; part of WebhookStore."""

    def enqueue(self, notices: Sequence[Notice]) -> int:
        """Queue each for every webhook that wants it, in order, once whatever happens."""


class NoticesNotTaken(Exception):
    """The notices could not be queued. Transitions go on without them; cause says why."""

    def __init__(self, cause: CrmWhatsappError) -> None:
        super().__init__(cause.message)
        self.cause = cause


class EntryKind(StrEnum):
    """What may share a call."""

    TRANSITION = "transition"
    FORGOTTEN = "forgotten"  # alone: after all that came before it
    NOTICE = "notice"


@dataclass(frozen=True, slots=True)
class _Refused:
    """Entries of one kind that were refused together."""

    kind: EntryKind
    entries: Sequence[JournalEntry]
    error: StoreRejected


class BacklogSender:
    """Sends and marks as sent. Used by one thread.

    Attributes:
        sent: transitions the database has taken since start.
        sent_notices: notices it has taken.
        refused: entries of either kind that it refused for good.
    """

    def __init__(
        self, journal: StateJournal, store: ConnectionStore, notices: NoticeQueue | None
    ) -> None:
        """Wire it. Without a queue, notices are given up as they come."""
        self._journal = journal
        self._store = store
        self._notices = notices
        self._stale_listeners: list[StaleListener] = []
        self.sent = 0
        self.sent_notices = 0
        self.refused = 0

    def on_stale(self, listener: StaleListener) -> None:
        """Have transitions passed on whose row is newer, with what the database said."""
        self._stale_listeners.append(listener)

    def send(self, batch: Sequence[JournalEntry]) -> None:
        """Send a batch, in as few calls as the order of each company allows.

        Raises:
            NoticesNotTaken: a call with notices failed.
            StoreUnavailable: another call failed.
            StoreRejected: transitions were refused, and nothing tells them from a database that
                refuses everything. Of other companies everything was tried.
            StorageError: the journal cannot be used.
        """
        refused: list[_Refused] = []
        accepted: set[EntryKind] = set()
        held: set[str | None] = set()
        for kind, run in runs(batch):
            entries = [entry for entry in run if company_of(entry) not in held]
            try:
                if entries:
                    self._send_run(kind, entries)
                    accepted.add(kind)
            except StoreRejected as error:  # it may be these alone: the others go on
                refused.append(_Refused(kind, entries, error))
                held.update(map(company_of, entries))
        known = accepted - {EntryKind.FORGOTTEN}
        hopeless = [item for item in refused if item.kind not in known]
        for item in refused:
            if item.kind in known:
                self._send_singly(item)
        for item in sorted(hopeless, key=lambda item: item.kind is EntryKind.NOTICE):
            if item.kind is EntryKind.NOTICE:
                raise NoticesNotTaken(item.error) from item.error
            raise item.error

    def _send_run(self, kind: EntryKind, run: Sequence[JournalEntry]) -> None:
        """Send entries of one kind; singly when a content among them is refused.

        Raises:
            StoreRejected: all of them, as far as one can tell.
        """
        try:
            self._deliver(kind, run)
            return
        except StoreRejected as error:
            tried = self._find_accepted(kind, run)
            if tried is None:
                raise
            rest = [entry for entry in run if entry.id not in tried]
            self._send_singly(_Refused(kind, rest, error))

    def _deliver(self, kind: EntryKind, run: Sequence[JournalEntry]) -> None:
        match kind:
            case EntryKind.TRANSITION:
                self._record(run)
            case EntryKind.FORGOTTEN:
                for entry in run:
                    self._forget(entry)
            case EntryKind.NOTICE:
                try:
                    self._enqueue(run)
                except StoreUnavailable as error:
                    raise NoticesNotTaken(error) from error

    def _find_accepted(self, kind: EntryKind, run: Sequence[JournalEntry]) -> set[str] | None:
        """Tell, for a run that was refused as a whole, whether anything is accepted at all.

        Permissions and migrations refuse everything, and nothing may be lost by that. One entry
        with a content that the database or its gateway refuses must not hold up the others: a few
        are tried alone, of different companies first, the oldest of each before its next. Once
        one is accepted, those refused before it are given up.

        Returns:
            The ids that are settled by it, None when nothing was accepted.
        """
        if kind is EntryKind.FORGOTTEN:
            return None  # it has no content that could be the reason, and is never given up
        notices = kind is EntryKind.NOTICE
        heads = [
            entry
            for entry in self._journal.pending_heads(_MOST_PROBES, notices=notices)
            if kind_of(entry) is kind
        ]
        probes = {entry.id: entry for entry in (*heads, *run[:_MOST_PROBES])}
        refusals: list[tuple[JournalEntry, StoreRejected]] = []
        for entry in probes.values() if len(probes) > 1 else ():
            try:
                self._deliver(kind, [entry])
            except StoreRejected as error:
                refusals.append((entry, error))
                continue
            for refused, why in refusals:
                self._give_up(refused, why)
            return {entry.id, *(refused.id for refused, _ in refusals)}
        return None

    def _send_singly(self, refused: _Refused) -> None:
        """Send each by itself, now that the database is known to accept some."""
        log.error("a batch was refused; its entries are sent singly", detail=refused.error.message)
        for entry in refused.entries:
            try:
                self._deliver(refused.kind, [entry])
            except StoreRejected as error:
                self._give_up(entry, error)

    def _give_up(self, entry: JournalEntry, error: StoreRejected) -> None:
        self._note_refusal(entry, error.message)
        self._journal.mark_sent([entry.id])

    def _record(self, run: Sequence[JournalEntry]) -> None:
        transitions = [entry for entry in run if isinstance(entry, Transition)]
        by_id = {transition.id: transition for transition in transitions}
        receipts = [
            receipt
            for receipt in self._store.record_transitions(transitions)
            if receipt.id in by_id
        ]
        for receipt in receipts:
            self._take(by_id[receipt.id], receipt)
        self._journal.mark_sent([receipt.id for receipt in receipts])
        missing = by_id.keys() - {receipt.id for receipt in receipts}
        if missing:
            raise StoreUnavailable(f"The database gave no receipt for {len(missing)} transitions.")

    def _take(self, transition: Transition, receipt: TransitionReceipt) -> None:
        if receipt.outcome is TransitionOutcome.INVALID:
            self._note_refusal(transition, receipt.error or "no reason given")
            return
        self.sent += 1
        if receipt.row_version > transition.connection.version:
            for listener in self._stale_listeners:
                try:
                    listener(transition, receipt)
                except Exception:  # the journal has to be carried on
                    log.exception(
                        "a listener to stale transitions failed",
                        company_id=transition.connection.company_id,
                    )

    def _forget(self, entry: JournalEntry) -> None:
        """Remove a company after all that came before it.

        The journal keeps no state of it since that was recorded; what it holds by now belongs to
        a company that was connected anew.
        """
        if isinstance(entry, Transition):
            connection = entry.connection
            self._store.forget_company(connection.company_id, connection.version)
            self._journal.mark_sent([entry.id])
            self.sent += 1

    def _enqueue(self, run: Sequence[JournalEntry]) -> None:
        notices = [entry for entry in run if isinstance(entry, Notice)]
        if self._notices is not None:
            self._notices.enqueue(notices)
            self.sent_notices += len(notices)
        self._journal.mark_sent([notice.id for notice in notices])

    def _note_refusal(self, entry: JournalEntry, error: str) -> None:
        self.refused += 1
        if isinstance(entry, Notice):
            log.error(
                "the database refused a notice for good",
                company_id=entry.company_id,
                id=entry.id,
                kind=entry.kind.value,
                detail=error,
            )
            return
        log.error(
            "the database refused a transition for good",
            company_id=entry.connection.company_id,
            id=entry.id,
            status=entry.connection.status.value,
            reason=entry.connection.reason.value,
            detail=error,
        )


def runs(batch: Sequence[JournalEntry]) -> Iterator[tuple[EntryKind, list[JournalEntry]]]:
    """Part a batch into runs of one kind. No entry overtakes another one of its company."""
    left = list(batch)
    while left:
        kind = kind_of(left[0])
        run: list[JournalEntry] = []
        rest: list[JournalEntry] = []
        blocked: set[str | None] = set()
        for entry in left:
            company_id = company_of(entry)
            if kind_of(entry) is kind and company_id not in blocked:
                run.append(entry)
            else:
                rest.append(entry)
                blocked.add(company_id)
        yield kind, run
        left = rest


def kind_of(entry: JournalEntry) -> EntryKind:
    """Tell what the entry may share a call with."""
    if isinstance(entry, Notice):
        return EntryKind.NOTICE
    return EntryKind.FORGOTTEN if entry.event == FORGOTTEN else EntryKind.TRANSITION


def company_of(entry: JournalEntry) -> str | None:
    """Return whose entry it is; None for a notice about the service as a whole."""
    return entry.company_id if isinstance(entry, Notice) else entry.connection.company_id
