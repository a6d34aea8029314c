"""In-memory implementations of the database ports, held to the same suite as the real ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic

from crm_whatsapp.domain.connection import LOCAL_FIELDS, Connection
from crm_whatsapp.domain.errors import StoreRejected, StoreUnavailable
from crm_whatsapp.domain.leases import InstanceReport, Lease, LeaseClaim
from crm_whatsapp.domain.ports import ConnectionStore, LeaseStore
from crm_whatsapp.domain.transitions import Transition, TransitionOutcome, TransitionReceipt

_NOT_IN_THE_TABLE = {"intent", "engine_crashes", "failed_at", *LOCAL_FIELDS}


@dataclass(slots=True)
class FakeLease:
    """One lease row. expires_at: seconds on the database clock."""

    owner_id: str | None = None
    epoch: int = 0
    expires_at: float = float("-inf")


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

    def check(self) -> None:
        """Raise StoreUnavailable during an outage."""
        if not self.reachable:
            raise StoreUnavailable("The database cannot be reached.")


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
        return 3

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

    def claim(
        self, owner_id: str, company_ids: Sequence[str], ttl_seconds: float
    ) -> list[LeaseClaim]:
        if company_ids:
            self._database.check()
        _check_ttl(ttl_seconds)
        return [
            self._claim(owner_id, company_id, ttl_seconds) for company_id in sorted(company_ids)
        ]

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

    def release(self, owner_id: str, leases: Sequence[Lease]) -> None:
        if leases:
            self._database.check()
        for term in leases:
            row = self._held(owner_id, term)
            if row is not None:
                row.expires_at = self._database.clock()

    def _held(self, owner_id: str, term: Lease) -> FakeLease | None:
        row = self._database.leases.get(term.company_id)
        if row is None or (row.owner_id, row.epoch) != (owner_id, term.epoch):
            return None
        return row if row.expires_at > self._database.clock() else None

    def _claim(self, owner_id: str, company_id: str, ttl_seconds: float) -> LeaseClaim:
        row = self._database.leases.setdefault(company_id, FakeLease())
        now = self._database.clock()
        granted = row.owner_id in (None, owner_id) or row.expires_at <= now
        if granted:
            row.owner_id, row.epoch, row.expires_at = owner_id, row.epoch + 1, now + ttl_seconds
        return LeaseClaim(
            company_id=company_id,
            owner_id=str(row.owner_id),
            epoch=row.epoch,
            granted=granted,
            expires_in_seconds=max(0.0, row.expires_at - now),
        )


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
