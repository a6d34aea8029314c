"""In-memory implementations of the database ports, held to the same suite as the real ones."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import wraps
from threading import RLock
from time import monotonic
from typing import Any, Concatenate, ParamSpec, TypeVar

from crm_whatsapp.domain.connection import LOCAL_FIELDS, Connection
from crm_whatsapp.domain.errors import StoreRejected, StoreUnavailable
from crm_whatsapp.domain.leases import InstanceReport, Lease, LeaseClaim
from crm_whatsapp.domain.ports import ConnectionStore, LeaseStore, SnapshotStore
from crm_whatsapp.domain.snapshots import LeaseFenced, SealedSnapshot, SnapshotDamaged, SnapshotMeta
from crm_whatsapp.domain.transitions import Transition, TransitionOutcome, TransitionReceipt

P = ParamSpec("P")
R = TypeVar("R")

TOMBSTONE_SECONDS = 7 * 86_400
KEEP = 3

_NOT_IN_THE_TABLE = {"intent", "engine_crashes", "failed_at", *LOCAL_FIELDS}


@dataclass(slots=True)
class FakeLease:
    """One lease row. expires_at: seconds on the database clock."""

    owner_id: str | None = None
    epoch: int = 0
    expires_at: float = float("-inf")


@dataclass(slots=True)
class FakeSnapshot:
    """One snapshot row. tombstoned_at: seconds on the database clock."""

    sealed: SealedSnapshot
    tombstoned_at: float | None = None


@dataclass(slots=True)
class FakeDatabase:
    """The rows, shared by the stores of several pods. reachable: False simulates an outage."""

    clock: Callable[[], float] = monotonic
    reachable: bool = True
    rows: dict[str, Connection] = field(default_factory=dict)
    history: dict[str, Transition] = field(default_factory=dict)
    forgotten: dict[str, int] = field(default_factory=dict)
    leases: dict[str, FakeLease] = field(default_factory=dict)
    instances: dict[str, InstanceReport] = field(default_factory=dict)
    snapshots: dict[tuple[str, int, int], FakeSnapshot] = field(default_factory=dict)
    lock: Any = field(default_factory=RLock)

    def check(self) -> None:
        """Raise StoreUnavailable during an outage."""
        if not self.reachable:
            raise StoreUnavailable("The database cannot be reached.")

    def is_held(self, owner_id: str, company_id: str, epoch: int) -> bool:
        """Tell whether this is a live lease."""
        row = self.leases.get(company_id, FakeLease())
        return (row.owner_id, row.epoch) == (owner_id, epoch) and row.expires_at > self.clock()

    def live_snapshots(self, company_id: str) -> list[SealedSnapshot]:
        """Return those in use, newest first."""
        return [
            self.snapshots[key].sealed
            for key in sorted(self.snapshots, reverse=True)
            if key[0] == company_id and self.snapshots[key].tombstoned_at is None
        ]


def atomic(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Let a method of a fake store happen at once, as one SQL function does."""

    @wraps(method)
    def alone(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._database.lock:
            return method(self, *args, **kwargs)

    return alone


class FakeConnectionStore(ConnectionStore):
    """ConnectionStore in memory."""

    def __init__(self, database: FakeDatabase) -> None:
        self._database = database

    def record_transitions(self, transitions: Sequence[Transition]) -> list[TransitionReceipt]:
        if transitions:
            self._database.check()
        return [self._record(transition) for transition in transitions]

    def list_connections(self) -> list[Connection]:
        self._database.check()
        return [self._database.rows[company_id] for company_id in sorted(self._database.rows)]

    def forget_company(self, company_id: str, version: int) -> None:
        database = self._database
        database.check()
        row = database.rows.get(company_id)
        if row is not None and row.version > version:
            return
        if database.forgotten.get(company_id, -1) >= version:
            return
        database.rows.pop(company_id, None)
        database.forgotten[company_id] = version
        lease = database.leases.setdefault(company_id, FakeLease())
        lease.owner_id, lease.epoch, lease.expires_at = None, lease.epoch + 1, database.clock()

    def schema_version(self) -> int:
        self._database.check()
        return 4

    def _record(self, transition: Transition) -> TransitionReceipt:
        database, connection = self._database, transition.connection
        row = database.rows.get(connection.company_id)
        newest = max(row.version if row else 0, database.forgotten.get(connection.company_id, 0))
        if connection.restore_attempts < 0:
            return _receipt(transition, TransitionOutcome.INVALID, 0, "restore_attempts below 0")
        if transition.id in database.history:
            return _receipt(transition, TransitionOutcome.DUPLICATE, newest)
        database.history[transition.id] = transition
        if connection.version <= newest:
            return _receipt(transition, TransitionOutcome.STALE, newest)
        stored = _as_row(connection)
        if row is not None and not transition.sets_desired_state:
            stored = replace(stored, desired_state=row.desired_state)
        database.rows[connection.company_id] = stored
        return _receipt(transition, TransitionOutcome.APPLIED, connection.version)


class FakeLeaseStore(LeaseStore):
    """LeaseStore in memory."""

    def __init__(self, database: FakeDatabase) -> None:
        self._database = database

    @atomic
    def claim(
        self, owner_id: str, company_ids: Sequence[str], ttl_seconds: float
    ) -> list[LeaseClaim]:
        if company_ids:
            self._database.check()
        _check_ttl(ttl_seconds)
        return [
            self._claim(owner_id, company_id, ttl_seconds) for company_id in sorted(company_ids)
        ]

    @atomic
    def tick(
        self, report: InstanceReport, leases: Sequence[Lease], ttl_seconds: float
    ) -> list[LeaseClaim]:
        self._database.check()
        _check_ttl(ttl_seconds)
        self._database.instances[report.instance_id] = report
        renewed = []
        for term in leases:
            row = self._held(report.instance_id, term)
            if row is not None:
                row.expires_at = self._database.clock() + ttl_seconds
                renewed.append(
                    LeaseClaim(
                        company_id=term.company_id,
                        owner_id=report.instance_id,
                        epoch=row.epoch,
                        granted=True,
                        expires_in_seconds=ttl_seconds,
                    )
                )
        return renewed

    @atomic
    def release(self, owner_id: str, leases: Sequence[Lease]) -> None:
        if leases:
            self._database.check()
        for term in leases:
            row = self._held(owner_id, term)
            if row is not None:
                row.expires_at = self._database.clock()

    def _held(self, owner_id: str, term: Lease) -> FakeLease | None:
        held = self._database.is_held(owner_id, term.company_id, term.epoch)
        return self._database.leases[term.company_id] if held else None

    def _claim(self, owner_id: str, company_id: str, ttl_seconds: float) -> LeaseClaim:
        row = self._database.leases.setdefault(company_id, FakeLease())
        now = self._database.clock()
        granted = row.owner_id in (None, owner_id) or row.expires_at <= now
        if granted:
            row.owner_id, row.epoch, row.expires_at = owner_id, row.epoch + 1, now + ttl_seconds
        newest = next(iter(self._database.live_snapshots(company_id)), None)
        known = self._database.rows.get(company_id)
        return LeaseClaim(
            company_id=company_id,
            owner_id=str(row.owner_id),
            epoch=row.epoch,
            granted=granted,
            expires_in_seconds=max(0.0, row.expires_at - now),
            snapshot_epoch=newest.meta.epoch if newest else None,
            snapshot_seq=newest.meta.seq if newest else None,
            last_version=max(
                known.version if known else 0, self._database.forgotten.get(company_id, 0)
            ),
        )


class FakeSnapshotStore(SnapshotStore):
    """SnapshotStore in memory."""

    def __init__(self, database: FakeDatabase) -> None:
        self._database = database

    @atomic
    def write(self, owner_id: str, sealed: SealedSnapshot) -> None:
        database, meta = self._database, sealed.meta
        database.check()
        if not _is_intact(sealed):
            raise StoreRejected("the payload does not have this sha256")
        if not database.is_held(owner_id, meta.company_id, meta.epoch):
            raise LeaseFenced()
        position = (meta.company_id, meta.epoch, meta.seq)
        there = database.snapshots.get(position)
        if there is None or there.sealed.meta.sha256 != meta.sha256:
            newest = max(
                (key for key in database.snapshots if key[0] == meta.company_id), default=()
            )
            if position <= newest:
                raise StoreRejected(
                    "A newer snapshot exists.",
                    outcome="stale",
                    newest_epoch=newest[1],
                    newest_seq=newest[2],
                )
            stored = replace(meta, created_at=datetime.now(UTC), object_key=None)
            database.snapshots[position] = FakeSnapshot(replace(sealed, meta=stored))
        self._prune(meta.company_id, KEEP)

    @atomic
    def list(self, company_id: str) -> list[SnapshotMeta]:
        self._database.check()
        return [sealed.meta for sealed in self._database.live_snapshots(company_id)]

    @atomic
    def read(self, company_id: str, epoch: int, seq: int) -> SealedSnapshot:
        self._database.check()
        row = self._database.snapshots.get((company_id, epoch, seq))
        if row is None or row.tombstoned_at is not None:
            raise SnapshotDamaged("The snapshot does not exist.")
        if not _is_intact(row.sealed):
            raise SnapshotDamaged("The snapshot does not match its hash.")
        return row.sealed

    @atomic
    def companies(self) -> dict[str, tuple[int, int]]:
        self._database.check()
        live = sorted(k for k, row in self._database.snapshots.items() if row.tombstoned_at is None)
        return {company_id: (epoch, seq) for company_id, epoch, seq in live}

    @atomic
    def tombstone(self, company_id: str) -> None:
        self._database.check()
        for key, row in self._database.snapshots.items():
            if key[0] == company_id and row.tombstoned_at is None:
                row.tombstoned_at = self._database.clock()

    @atomic
    def delete(self, company_id: str) -> None:
        self._database.check()
        for key in [key for key in self._database.snapshots if key[0] == company_id]:
            del self._database.snapshots[key]

    @atomic
    def prune(self, company_id: str | None, keep: int) -> int:
        database = self._database
        database.check()
        if keep < 1:
            raise StoreRejected("keep must be at least 1")
        if company_id is not None:
            return self._prune(company_id, keep)
        removed = sum(self._prune(each, keep) for each in self.companies())
        before = database.clock() - TOMBSTONE_SECONDS
        for key, row in list(database.snapshots.items()):
            if row.tombstoned_at is not None and row.tombstoned_at <= before:
                del database.snapshots[key]
        return removed

    @atomic
    def rewrap(self, meta: SnapshotMeta, *, new_key_id: str, wrapped_key: bytes) -> bool:
        self._database.check()
        row = self._database.snapshots.get((meta.company_id, meta.epoch, meta.seq))
        if row is None or row.sealed.meta.sha256 != meta.sha256:
            return False
        now = (row.sealed.meta.key_id, row.sealed.wrapped_key)
        if now[0] != meta.key_id and now != (new_key_id, wrapped_key):
            return False
        row.sealed = replace(
            row.sealed, meta=replace(row.sealed.meta, key_id=new_key_id), wrapped_key=wrapped_key
        )
        return True

    def _prune(self, company_id: str, keep: int) -> int:
        old = self._database.live_snapshots(company_id)[keep:]
        for sealed in old:
            del self._database.snapshots[(company_id, sealed.meta.epoch, sealed.meta.seq)]
        return len(old)


def _is_intact(sealed: SealedSnapshot) -> bool:
    meta, payload = sealed.meta, sealed.payload
    return (len(payload), hashlib.sha256(payload).hexdigest()) == (meta.size_bytes, meta.sha256)


def _as_row(connection: Connection) -> Connection:
    """Return what comes back from the table: only its columns."""
    blank = Connection(company_id=connection.company_id)
    cleared = {name: getattr(blank, name) for name in _NOT_IN_THE_TABLE}
    return replace(connection, **cleared)


def _receipt(
    transition: Transition, outcome: TransitionOutcome, row_version: int, error: str | None = None
) -> TransitionReceipt:
    return TransitionReceipt(
        id=transition.id, outcome=outcome, row_version=row_version, error=error
    )


def _check_ttl(ttl_seconds: float) -> None:
    if not 0 < ttl_seconds <= 300:
        raise StoreRejected("ttl must be above 0 and at most 300 seconds")
