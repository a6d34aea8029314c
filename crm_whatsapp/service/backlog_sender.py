"""Sends a batch of the journal: what is of one kind together, each company's entries in order."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from crm_whatsapp.domain.errors import CrmWhatsappError, StoreRejected, StoreUnavailable
from crm_whatsapp.domain.notices import Notice
from crm_whatsapp.domain.ports import ConnectionStore, JournalEntry, StateJournal
from crm_whatsapp.domain.transitions import (
    Transition,
    TransitionOutcome,
    TransitionReceipt,
)
from crm_whatsapp.service.backlog_runs import EntryKind, company_of, kind_of, runs
from crm_whatsapp.service.refusals import Refusals

log = structlog.get_logger(__name__)

_MOST_PROBES = 8
_FRESH_SECONDS = 3600.0  # far below the age at which a transition is removed from the history

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


@dataclass(frozen=True, slots=True)
class _Refused:
    """Entries of one kind that were refused together. since: see Refusals.note."""

    kind: EntryKind
    entries: Sequence[JournalEntry]
    error: StoreRejected
    since: int


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
        self._refusals = Refusals()
        self._taken: Transition | None = None
        self._taken_at = 0.0
        self._held: set[str | None] = set()
        self._unsettled: list[_Refused] = []
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
        self._held.clear()
        self._unsettled.clear()
        for kind, run in runs(batch):
            entries = [entry for entry in run if company_of(entry) not in self._held]
            since = self._refusals.now(kind)
            try:
                if entries:
                    self._send_run(kind, entries, since)
            except StoreRejected as error:  # it may be these alone: the others go on
                refused.append(_Refused(kind, entries, error, since))
                self._held.update(map(company_of, entries))
        for item in refused:
            if self._is_about_content(item):
                self._send_singly(item)
            else:
                self._unsettled.append(item)
        for item in sorted(self._unsettled, key=lambda item: item.kind is EntryKind.NOTICE):
            if item.kind is EntryKind.NOTICE:
                raise NoticesNotTaken(item.error) from item.error
            raise item.error

    def _is_about_content(self, refused: _Refused) -> bool:
        """Tell whether the database has taken others of the kind since, or nothing new was refused.

        A deletion has no content that could be the reason; it is never given up.
        """
        if refused.kind is EntryKind.FORGOTTEN:
            return False
        if self._refusals.now(refused.kind) > refused.since:
            return True
        heads = {company_of(entry): entry for entry in reversed(refused.entries)}
        return all(self._refusals.is_suspect(refused.kind, entry) for entry in heads.values())

    def _send_run(self, kind: EntryKind, run: Sequence[JournalEntry], since: int) -> None:
        """Send entries of one kind; singly when a content among them is refused.

        Raises:
            StoreRejected: all of them, as far as one can tell.
        """
        try:
            self._deliver(kind, run)
        except StoreRejected as error:
            tried = self._find_accepted(_Refused(kind, run, error, since))
            rest = [
                entry
                for entry in run
                if entry.id not in tried and company_of(entry) not in self._held
            ]
            self._send_singly(_Refused(kind, rest, error, since))

    def _deliver(self, kind: EntryKind, run: Sequence[JournalEntry]) -> None:
        """Make the calls for entries of one kind and mark what was accepted.

        Raises:
            StoreRejected: it was refused.
            StoreUnavailable, NoticesNotTaken: there was no answer.
        """
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
        self._refusals.accept(kind, [entry.id for entry in run])

    def _find_accepted(self, refused: _Refused) -> set[str]:
        """Find out, for a run that was refused as a whole, whether anything is accepted at all.

        A transition that it has already taken is shown to it once more, which changes nothing.
        Without one, a few entries are tried alone: of different companies first, the oldest of each
        before its next, until one is accepted.

        Returns:
            The ids that were tried.
        Raises:
            StoreRejected: none was accepted.
        """
        fresh = time.monotonic() - self._taken_at < _FRESH_SECONDS
        if refused.kind is EntryKind.TRANSITION and self._taken is not None and fresh:
            self._store.record_transitions([self._taken])
            self._refusals.accept(refused.kind, [])
            return set()
        kind, tried = refused.kind, list[tuple[JournalEntry, StoreRejected]]()
        for entry in self._probes(refused):
            try:
                self._deliver(kind, [entry])
            except StoreRejected as error:
                self._refusals.note(entry, refused.since)
                tried.append((entry, error))
                continue
            for other, why in tried:
                self._strike(_Refused(kind, [other], why, refused.since))
            return {entry.id, *(other.id for other, _ in tried)}
        raise refused.error

    def _probes(self, refused: _Refused) -> list[JournalEntry]:
        """Return what to try alone: nothing new when there is one entry, or a deletion."""
        if refused.kind is EntryKind.FORGOTTEN:
            return []
        notices = refused.kind is EntryKind.NOTICE
        heads = [
            entry
            for entry in self._journal.pending_heads(_MOST_PROBES, notices=notices)
            if kind_of(entry) is refused.kind
        ]
        probes = {entry.id: entry for entry in (*heads, *refused.entries[:_MOST_PROBES])}
        if len(probes) == 1:
            for entry in refused.entries:
                self._refusals.note(entry, refused.since)
            return []
        return list(probes.values())

    def _send_singly(self, refused: _Refused) -> None:
        """Send each by itself, now that the database is known to accept some."""
        log.warning(
            "a batch was refused; its entries are sent singly", detail=refused.error.message
        )
        stuck: set[str | None] = set()
        given_up: set[str | None] = set()
        for entry in refused.entries:
            company_id = company_of(entry)
            if company_id in stuck:
                continue
            try:
                self._deliver(refused.kind, [entry])
            except StoreRejected as error:
                self._refusals.note(entry, refused.since)
                alone = _Refused(refused.kind, [entry], error, refused.since)
                # What is wrong with one of a company, such as its name, is so with its next.
                if self._strike(alone, at_once=company_id in given_up):
                    given_up.add(company_id)
                else:
                    stuck.add(company_id)

    def _strike(self, refused: _Refused, *, at_once: bool = False) -> bool:
        """Give an entry up, or have it tried again; until then it holds up its company alone."""
        (entry,) = refused.entries
        if self._refusals.strike(refused.kind, entry, at_once=at_once):
            self._note_refusal(entry, refused.error.message)
            self._journal.mark_sent([entry.id])
            self._refusals.forget([entry.id])
            return True
        self._held.add(company_of(entry))
        self._unsettled.append(refused)
        return False

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
        self._taken, self._taken_at = transition, time.monotonic()
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
