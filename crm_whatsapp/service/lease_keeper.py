"""Leases of this pod (INSTANCE_MODE=single).

A foreign live lease is obeyed while the database can be reached, because deploys overlap. A
database that cannot be reached neither blocks a start nor stops a session: the lock on
SESSIONS_DIR already proves that no other process of this disk runs it. Claims of starts and
releases are made by one thread, in the order in which they were asked for: nobody waits for them.
Source: River, internal/leadership (trust a term until start + ttl - margin); migrations/.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from crm_whatsapp.domain.errors import CrmWhatsappError, StoreUnavailable
from crm_whatsapp.domain.leases import InstanceReport, Lease, LeaseClaim
from crm_whatsapp.domain.ports import Clock, LeaseStore

log = structlog.get_logger(__name__)

_SLOW_SECONDS = 1.0

Granted = Callable[[], None]
Denied = Callable[[float], None]
LostListener = Callable[[str], None]
SnapshotListener = Callable[[str, tuple[int, int]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTerms:
    """How long a lease lasts and how much of that is not trusted, in seconds.

    away_seconds: after a call that hung and failed, starts do not ask for a lease for so long.
    """

    ttl_seconds: float = 60.0
    margin_seconds: float = 5.0
    away_seconds: float = 15.0
    capacity: int = 300


@dataclass(frozen=True, slots=True)
class _Waiting:
    granted: Granted
    denied: Denied


class LeaseKeeper:
    """Claims before a start, renews all with one call, and tells who lost theirs."""

    def __init__(
        self,
        *,
        store: LeaseStore,
        owner_id: str,
        clock: Clock,
        terms: LeaseTerms,
        started_at: datetime,
    ) -> None:
        self.owner_id = owner_id
        self._store = store
        self._clock = clock
        self._terms = terms
        self._started_at = started_at
        self._changed = threading.Condition()
        self._waiting: dict[str, list[_Waiting]] = {}
        self._held: dict[str, Lease] = {}
        self._unleased: set[str] = set()
        self._foreign: dict[str, str] = {}
        self._given_up: list[Lease] = []
        self._asking: Counter[str] = Counter()
        self._unwanted: set[str] = set()
        self._away_until_monotonic = float("-inf")
        self._stopping = False
        self._lost_listener: LostListener = lambda company_id: None
        self._snapshot_listener: SnapshotListener = lambda company_id, position: None
        self._thread = threading.Thread(target=self._claim_loop, name="lease-claims", daemon=True)

    def start(self) -> None:
        """Start answering `permit`."""
        self._thread.start()

    def on_lost(self, listener: LostListener) -> None:
        """Have companies passed on whose lease another pod took."""
        self._lost_listener = listener

    def on_snapshot(self, listener: SnapshotListener) -> None:
        """Have the newest snapshot passed on that a claim tells of."""
        self._snapshot_listener = listener

    def permit(self, company_id: str, *, granted: Granted, denied: Denied) -> None:
        """Answer by one of the callbacks; at once when the lease is held already."""
        with self._changed:
            held = company_id in self._held or company_id in self._unleased
            self._unwanted.discard(company_id)
            if not held:
                self._waiting.setdefault(company_id, []).append(_Waiting(granted, denied))
                self._changed.notify_all()
        if held:
            granted()

    def epoch_of(self, company_id: str) -> int:
        """Return the epoch under which this pod holds the company; 0 without a lease."""
        lease = self._held.get(company_id)
        return lease.epoch if lease else 0

    def owner_of(self, company_id: str) -> str | None:
        """Return who runs the company as far as this pod knows; None when nobody does."""
        if company_id in self._held or company_id in self._unleased:
            return self.owner_id
        return self._foreign.get(company_id)

    def give_up(self, company_id: str) -> None:
        """Release the lease of a session that is no longer wanted here; returns at once.

        A claim whose answer is still out is released when it comes.
        """
        with self._changed:
            self._waiting.pop(company_id, None)
            if self._asking[company_id]:
                self._unwanted.add(company_id)
            lease = self._held.pop(company_id, None)
            self._unleased.discard(company_id)
            if lease is not None:
                self._given_up.append(lease)
                self._changed.notify_all()

    def tick(self, session_count: int, *, draining: bool = False) -> None:
        """Renew every lease, and claim for sessions that started while the database was away.

        Raises:
            StoreUnavailable: nothing is lost by it in this mode.
        """
        report = InstanceReport(
            instance_id=self.owner_id,
            started_at=self._started_at,
            capacity=self._terms.capacity,
            session_count=session_count,
            draining=draining,
        )
        before = dict(self._held)
        asked_at = self._clock.monotonic()
        renewed = self._store.tick(report, list(before.values()), self._terms.ttl_seconds)
        self._away_until_monotonic = float("-inf")
        with self._changed:
            for claim in renewed:
                if self._held.get(claim.company_id) == before.get(claim.company_id):
                    self._held[claim.company_id] = self._lease(claim, asked_at)
            answered = {claim.company_id for claim in renewed}
            missing = {
                company_id
                for company_id, lease in before.items()
                if company_id not in answered and self._held.get(company_id) == lease
            }
            wanted = set() if self._stopping else missing | self._unleased
            self._asking.update(wanted)
        try:
            self._claim_again(sorted(wanted))
        finally:
            self._asked(wanted)

    def stop(self, timeout_seconds: float) -> None:
        """Let every term end now, so that the next process need not wait; deny what waits.

        Args:
            timeout_seconds: leases that are not released by then expire.
        """
        with self._changed:
            self._given_up.extend(self._held.values())
            self._held.clear()
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)

    def _claim_again(self, company_ids: Sequence[str]) -> None:
        if not company_ids:
            return
        for claim in self._claim(company_ids):
            if not claim.granted:
                log.warning(
                    "another instance took the session",
                    company_id=claim.company_id,
                    owner_id=claim.owner_id,
                )
                self._lost_listener(claim.company_id)

    def _claim(self, company_ids: Sequence[str]) -> list[LeaseClaim]:
        asked_at = self._clock.monotonic()
        claims = self._store.claim(self.owner_id, company_ids, self._terms.ttl_seconds)
        for claim in claims:
            if claim.snapshot_epoch is not None and claim.snapshot_seq is not None:
                self._snapshot_listener(
                    claim.company_id, (claim.snapshot_epoch, claim.snapshot_seq)
                )
        with self._changed:
            for claim in claims:
                self._take(claim, asked_at)
        return claims

    def _asked(self, company_ids: Iterable[str]) -> None:
        """Note that a claim for these is over, however it ended."""
        with self._changed:
            for company_id in company_ids:
                self._asking[company_id] -= 1
                if not self._asking[company_id]:
                    del self._asking[company_id]
                    self._unwanted.discard(company_id)

    def _take(self, claim: LeaseClaim, asked_at: float) -> None:
        company_id = claim.company_id
        if not claim.granted:
            self._unleased.discard(company_id)
            self._held.pop(company_id, None)
            self._foreign[company_id] = claim.owner_id
            return
        lease = self._lease(claim, asked_at)
        if company_id in self._unwanted or self._stopping:
            self._given_up.append(lease)
            self._changed.notify_all()
            return
        self._unleased.discard(company_id)
        self._foreign.pop(company_id, None)
        held = self._held.get(company_id)
        if held is None or held.epoch < lease.epoch:  # answers may overtake each other
            self._held[company_id] = lease

    def _lease(self, claim: LeaseClaim, asked_at: float) -> Lease:
        return Lease(
            company_id=claim.company_id,
            owner_id=self.owner_id,
            epoch=claim.epoch,
            trusted_until_monotonic=asked_at + self._terms.ttl_seconds - self._terms.margin_seconds,
        )

    def _claim_loop(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._given_up or self._stopping):
                    self._changed.wait()
                waiting, self._waiting = self._waiting, {}
                self._asking.update(waiting.keys())
                given_up, self._given_up = self._given_up, []
                stopping = self._stopping
            self._release(given_up)
            if stopping:
                break
            self._answer(waiting)
        for entries in waiting.values():
            for entry in entries:
                entry.denied(self._terms.ttl_seconds)

    def _answer(self, waiting: dict[str, list[_Waiting]]) -> None:
        """Claim for everybody who waits, in one call."""
        claims = self._claim_unless_away(sorted(waiting)) if waiting else {}
        with self._changed:
            self._unleased |= waiting.keys() - claims.keys() - self._unwanted
        self._asked(waiting)
        for company_id, entries in waiting.items():
            claim = claims.get(company_id)
            for entry in entries:
                if claim is None or claim.granted:
                    entry.granted()
                else:
                    entry.denied(claim.expires_in_seconds)

    def _claim_unless_away(self, company_ids: Sequence[str]) -> dict[str, LeaseClaim]:
        """Return the answers; none when the database does not give any."""
        if not self._is_away():
            asked_at = self._clock.monotonic()
            try:
                return {claim.company_id: claim for claim in self._claim(company_ids)}
            except StoreUnavailable:
                self._note_away(asked_at)
            except CrmWhatsappError as error:
                sessions = len(company_ids)
                log.error("starting without a lease", detail=error.message, sessions=sessions)
                return {}
            except Exception:  # the one thread that lets sessions start must live on
                log.exception("starting without a lease", sessions=len(company_ids))
                return {}
        log.warning("starting without a lease: the database is away", sessions=len(company_ids))
        return {}

    def _release(self, leases: Sequence[Lease]) -> None:
        if not leases or self._is_away():
            return
        asked_at = self._clock.monotonic()
        try:
            self._store.release(self.owner_id, leases)
        except CrmWhatsappError as error:
            if isinstance(error, StoreUnavailable):
                self._note_away(asked_at)
            log.warning("leases were not released and will expire", detail=error.message)
        except Exception:  # the one thread that lets sessions start must live on
            log.exception("leases were not released and will expire")

    def _is_away(self) -> bool:
        """Tell whether a call has just hung: the next starts do not wait for another one."""
        return self._clock.monotonic() < self._away_until_monotonic

    def _note_away(self, asked_at: float) -> None:
        now = self._clock.monotonic()
        if now - asked_at >= _SLOW_SECONDS:
            self._away_until_monotonic = now + self._terms.away_seconds
