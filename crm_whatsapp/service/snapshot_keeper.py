"""Takes snapshots: when something that matters has changed, and never when nothing has.

A store whose files have not changed costs two stats a scan. One that has is fingerprinted: a
change of the device row, one-time keys, identities or app-state keys is written at the next scan,
a change of ratchets alone at most every `ratchet_interval_seconds`.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

import structlog

from crm_whatsapp.domain.connection import ClientPhase, Connection
from crm_whatsapp.domain.errors import (
    CrmWhatsappError,
    StorageError,
    StoreUnavailable,
)
from crm_whatsapp.domain.ports import Clock, SnapshotCipher, SnapshotStore, StoreCopier
from crm_whatsapp.domain.snapshots import (
    KeyMissing,
    StoreDamaged,
    StoreUnfit,
)
from crm_whatsapp.service.lease_keeper import LeaseKeeper
from crm_whatsapp.service.snapshot_catalogue import SnapshotCatalogue
from crm_whatsapp.service.snapshot_ledger import SnapshotLedger, SnapshotState, SnapshotTerms
from crm_whatsapp.service.snapshot_writer import SnapshotWriter

log = structlog.get_logger(__name__)

_STARTUP_SECONDS = 10.0
"""Restoring comes first: copies wait for it, at most so long."""


@dataclass(frozen=True, slots=True)
class _Finish:
    """Somebody who waits for the last snapshot of a session."""

    done: Callable[[], None]
    at_rest: Callable[[], bool]


class SnapshotKeeper:
    """One queue, a few threads; a company waits in the queue at most once."""

    def __init__(
        self,
        *,
        store: SnapshotStore,
        cipher: SnapshotCipher | None,
        copier: StoreCopier,
        leases: LeaseKeeper,
        catalogue: SnapshotCatalogue,
        clock: Clock,
        terms: SnapshotTerms,
    ) -> None:
        self._store = store
        self._cipher = cipher
        self._copier = copier
        self._leases = leases
        self._catalogue = catalogue
        self._ledger = SnapshotLedger(clock, terms)
        self._writer = SnapshotWriter(store, leases)
        self._lock = threading.Lock()
        self._turns: dict[str, threading.Lock] = {}
        self._queued: set[str] = set()
        self._retiring: dict[str, bool] = {}
        self._finishing: dict[str, list[_Finish]] = {}
        self._stopping = False
        self._queue: SimpleQueue[str | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"snapshots-{number}", daemon=True)
            for number in range(terms.threads)
        ]
        self._started = threading.Event()
        self._term_listener: Callable[[str], None] = lambda company_id: None
        self._damage_listener: Callable[[str, str], None] = lambda company_id, detail: None
        self.written = 0
        self.failed = 0

    @property
    def is_on(self) -> bool:
        """Tell whether there is a key; without one nothing is copied, but retiring goes on."""
        return self._cipher is not None

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Take nothing more from the queue; who waits for a last snapshot waits no longer."""
        with self._lock:
            self._stopping = True
            waiting, self._finishing = self._finishing, {}
        self._started.set()
        for _ in self._threads:
            self._queue.put(None)
        for company_id, finishes in waiting.items():
            _tell(company_id, finishes)

    def let_go(self) -> None:
        """Begin to work on the queue now: the start-up restore is over."""
        self._started.set()

    def on_unwritten_term(self, listener: Callable[[str], None]) -> None:
        """Have companies passed on whose creds.json is to be told of the present lease's epoch."""
        self._term_listener = listener

    def on_damage(self, listener: Callable[[str, str], None]) -> None:
        """Have companies passed on whose store was found damaged, with what is wrong."""
        self._damage_listener = listener

    def request(self, company_id: str) -> None:
        """Ask for a snapshot soon; nothing is written when nothing has changed."""
        with self._lock:
            wanted = self.is_on or company_id in self._retiring
            if not wanted or company_id in self._queued:
                return
            self._queued.add(company_id)
        self._queue.put(company_id)

    def finish(
        self,
        company_id: str,
        done: Callable[[], None],
        *,
        at_rest: Callable[[], bool] = lambda: True,
    ) -> None:
        """Take the last, clean snapshot of a stopped session; `done` is called in any case.

        Args:
            at_rest: tells whether no client runs; one that was started again while the snapshot
                waited for its turn makes it an ordinary one.
        """
        finish = _Finish(done, at_rest)
        with self._lock:
            stopping = self._stopping or not self.is_on
            if not stopping:
                self._finishing.setdefault(company_id, []).append(finish)
        if stopping:
            _tell(company_id, [finish])
        else:
            self.request(company_id)

    def retire(self, company_id: str, *, for_good: bool = False) -> None:
        """Take a company's snapshots out of use, or remove them; tried until it is done."""
        self._catalogue.hide(company_id)
        self._ledger.drop(company_id)
        with self._lock:
            self._retiring[company_id] = for_good or self._retiring.get(company_id, False)
        self.request(company_id)

    def scan(self, connections: Sequence[Connection]) -> int:
        """Queue every connected session whose store has changed enough; return how many."""
        asked = 0
        with self._lock:
            waiting = list(self._retiring)
        for company_id in waiting:
            self.request(company_id)
        for connection in connections:
            live = connection.is_connected and connection.client is ClientPhase.LIVE
            if live and self.is_on and self._is_due(connection.company_id):
                self.request(connection.company_id)
                asked += 1
        return asked

    def take(self, company_id: str, *, clean: bool = False, even_if_same: bool = False) -> bool:
        """Take a snapshot on this thread; True when one was written.

        Raises:
            StoreUnfit: the store may not be copied (damaged, or another device in it).
            StoreUnavailable, StoreRejected, LeaseFenced: it was not written.
            StorageError: the disk refuses.
        """
        with self._lock:
            turn = self._turns.setdefault(company_id, threading.Lock())
        with turn:
            try:
                self._retire_waiting(company_id)
                return self._take(company_id, clean=clean, even_if_same=even_if_same)
            except Exception as error:
                self.failed += 1
                self._ledger.note_failure(company_id, error)
                if isinstance(error, StoreDamaged):
                    self._damage_listener(company_id, error.message)
                raise

    def state(self, company_id: str) -> SnapshotState:
        """Return what is known of the company's last snapshot."""
        return self._ledger.state(company_id)

    def states(self) -> dict[str, SnapshotState]:
        """Return what is known of every company's last snapshot."""
        return self._ledger.states()

    def behind_seconds(self) -> dict[str, float]:
        """Return how long a store has been known to hold what its snapshot does not, by company."""
        return self._ledger.behind_seconds()

    def problems(self) -> dict[str, str]:
        """Return why the last snapshot of a company failed, for those whose did."""
        return self._ledger.problems()

    def _retire_waiting(self, company_id: str) -> bool:
        """Do what `retire` asked for; True when there was something."""
        with self._lock:
            for_good = self._retiring.get(company_id)
        if for_good is None:
            return False
        if for_good:
            self._store.delete(company_id)
        else:
            self._store.tombstone(company_id)
        self._ledger.drop(company_id)  # what a copy that was under way meanwhile has noted
        with self._lock:
            done = self._retiring.get(company_id) is for_good
            if done:
                self._retiring.pop(company_id, None)
        if done:
            self._catalogue.show(company_id)
        return True

    def _take(self, company_id: str, *, clean: bool, even_if_same: bool) -> bool:
        if self._cipher is None:
            raise KeyMissing("SNAPSHOT_ENCRYPTION_KEYS is not set.")
        epoch = self._leases.epoch_of(company_id)
        if epoch == 0:
            raise StoreUnavailable("The session has no lease yet: the database was away.")
        fingerprint = self._copier.fingerprint(company_id)
        if not even_if_same and self._ledger.is_needless(
            company_id, epoch, fingerprint, clean=clean
        ):
            self._ledger.note_needless(company_id)
            return False
        copy = self._copier.copy(company_id)
        if copy.credentials.epoch < epoch:
            # The client started while the database was away. Were the snapshot written first, it
            # would win over the newer store that a kill leaves behind.
            self._term_listener(company_id)
            raise StoreUnavailable("The folder is not told yet of the lease's epoch.")
        meta = self._writer.write(self._cipher, copy, epoch, clean)
        self._ledger.note_written(company_id, fingerprint, meta)
        self._catalogue.note(company_id, (meta.epoch, meta.seq))
        self.written += 1
        log.info(
            "session snapshot written",
            company_id=company_id,
            epoch=meta.epoch,
            seq=meta.seq,
            size_bytes=meta.size_bytes,
            clean=meta.clean,
        )
        return True

    def _is_due(self, company_id: str) -> bool:
        state = self.state(company_id)
        if state.problem is not None:
            return self._ledger.may_try(company_id)
        if state.fingerprint is None:
            return True
        try:
            present = self._copier.fingerprint(company_id)
        except (StoreUnfit, StorageError) as error:
            log.debug("the store cannot be read now", company_id=company_id, detail=error.message)
            return False
        self._ledger.note_seen(company_id, present)
        return self._ledger.is_due(company_id, present)

    def _work(self) -> None:
        self._started.wait(_STARTUP_SECONDS)
        while (company_id := self._queue.get()) is not None:
            with self._lock:
                if self._stopping:
                    return
                self._queued.discard(company_id)
                finishes = self._finishing.pop(company_id, [])
                retires = company_id in self._retiring
            try:
                if retires:
                    self._retire(company_id)
                else:
                    clean = bool(finishes) and all(finish.at_rest() for finish in finishes)
                    self.take(company_id, clean=clean)
            except StoreUnavailable as error:
                log.info("snapshot postponed", company_id=company_id, detail=error.message)
            except CrmWhatsappError as error:
                log.warning("no snapshot was taken", company_id=company_id, detail=error.message)
            except Exception:
                log.exception("a snapshot failed", company_id=company_id)
            finally:
                _tell(company_id, finishes)

    def _retire(self, company_id: str) -> None:
        with self._lock:
            turn = self._turns.setdefault(company_id, threading.Lock())
        with turn:
            self._retire_waiting(company_id)


def _tell(company_id: str, finishes: Sequence[_Finish]) -> None:
    """Let them go on; a listener that fails must not end the thread."""
    for finish in finishes:
        try:
            finish.done()
        except Exception:
            log.exception("the end of a snapshot was not taken note of", company_id=company_id)
