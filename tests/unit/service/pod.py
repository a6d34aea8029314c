"""The whole service layer on fakes: one pod, which can be killed and started again."""

import threading
from collections.abc import Callable
from typing import Any

from crm_whatsapp.domain.connection import Connection, DesiredState, Reason, Status
from crm_whatsapp.domain.decisions import PolicyLimits
from crm_whatsapp.domain.events import LeaseLost
from crm_whatsapp.domain.transitions import Transition
from crm_whatsapp.service.company_runtime import CompanyRuntime
from crm_whatsapp.service.effect_runner import Collaborators, EffectRunner
from crm_whatsapp.service.inbox import Inbox
from crm_whatsapp.service.lease_keeper import LeaseKeeper, LeaseTerms
from crm_whatsapp.service.notice_board import NoticeBoard
from crm_whatsapp.service.pairing_allowance import PairingAllowance
from crm_whatsapp.service.reconciliation import Reconciliation
from crm_whatsapp.service.recorder import Recorder
from crm_whatsapp.service.session_manager import SessionManager
from crm_whatsapp.service.session_opener import SessionOpener
from crm_whatsapp.service.session_runtimes import RuntimeParts
from crm_whatsapp.service.snapshot_catalogue import SnapshotCatalogue
from crm_whatsapp.service.startup_restore import RestorePlan, StartupRestore
from crm_whatsapp.service.write_behind import WriteBehind
from tests.contract.fakes import FakeLeaseStore
from tests.unit.service.fakes import (
    DEADLINE_SECONDS,
    FakeFleet,
    FakeFolders,
    FakeJournal,
    FakeProxies,
    ManualClock,
    MoodyStore,
    NoInstaller,
    jid_of,
)

OWNER = "11111111-2222-4333-8444-555555555555"
COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
OTHER = "9d6f2061-60e5-4e93-a0df-f55dd5c3d40c"
THIRD = "c0ffee00-60e5-4e93-a0df-f55dd5c3d40c"


class Pod:
    """One process of the service. Journal, folders and database outlive it."""

    def __init__(
        self,
        *,
        journal: FakeJournal | None = None,
        folders: FakeFolders | None = None,
        store: MoodyStore | None = None,
        clock: ManualClock | None = None,
        owner_id: str = OWNER,
        plan: RestorePlan | None = None,
        limits: PolicyLimits | None = None,
        pairings_per_hour: int = 0,
    ) -> None:
        self.clock = clock or ManualClock()
        self.journal = journal or FakeJournal()
        self.folders = folders or FakeFolders()
        self.store = store or MoodyStore()
        self.store.database.clock = self.clock.monotonic
        self.owner_id = owner_id
        self.proxies = FakeProxies()
        self.fleet = FakeFleet()
        self.recorder = Recorder(self.journal)
        self.lease_store = FakeLeaseStore(self.store.database)
        self.leases = LeaseKeeper(
            store=self.lease_store,
            owner_id=owner_id,
            clock=self.clock,
            terms=LeaseTerms(),
            started_at=self.clock.now(),
        )
        self.catalogue = SnapshotCatalogue(None)
        self.opener = SessionOpener(
            folders=self.folders,
            installer=NoInstaller(),
            leases=self.leases,
            catalogue=self.catalogue,
            remote=None,
        )
        effects = EffectRunner(
            Collaborators(
                folders=self.folders,
                fleet=self.fleet,
                leases=self.leases,
                clock=self.clock,
                proxies=self.proxies,
                opener=self.opener,
                snapshots=None,
            )
        )
        self.notices = NoticeBoard()
        self.manager = SessionManager(
            RuntimeParts(
                journal=self.journal,
                recorder=self.recorder,
                effects=effects,
                folders=self.folders,
                leases=self.leases,
                clock=self.clock,
                proxies=self.proxies,
                limits=limits or PolicyLimits(),
                catalogue=self.catalogue,
                snapshots=None,
                inbox=Inbox(notices=self.notices, clock=self.clock, taken=self.fleet.taken),
                notices=self.notices,
                pairings=PairingAllowance(self.clock, pairings_per_hour),
            )
        )
        self.fleet.sink = self.manager.post_engine_event
        self.write_behind = WriteBehind(
            journal=self.journal,
            store=self.store,
            longest_wait_seconds=0.01,
            held_count=lambda: self.recorder.held_count,
        )
        self.reconciliation = Reconciliation(
            manager=self.manager,
            store=self.store,
            folders=self.folders,
            leases=self.leases,
            clock=self.clock,
            write_behind=self.write_behind,
            catalogue=self.catalogue,
            flush_timeout_seconds=DEADLINE_SECONDS,
            restores=True,
        )
        self.restore = StartupRestore(
            manager=self.manager,
            folders=self.folders,
            reconciliation=self.reconciliation,
            catalogue=self.catalogue,
            prewarm=self.fleet.prewarm,
            plan=plan or RestorePlan(),
        )
        self._connect_listeners()

    def _connect_listeners(self) -> None:
        def recorded(transition: Transition) -> None:
            self.write_behind.notify()
            self.restore.watch(transition)

        self.recorder.listen(recorded)
        self.leases.on_lost(lambda company_id: self.manager.post(company_id, LeaseLost()))
        self.write_behind.on_stale(self.manager.rows.take_stale)

    def start(self, *, restores: bool = True, writes: bool = True) -> "Pod":
        self.leases.start()
        self.manager.start()
        if writes:
            self.write_behind.start()
        if restores:
            self.restore.start()
        else:
            self.manager.allow_polls_to_start()
        return self

    def end(self) -> None:
        """End the threads."""
        self.restore.stop()
        self.manager.stop(DEADLINE_SECONDS)
        self.write_behind.stop(1.0)
        self.leases.stop(DEADLINE_SECONDS)

    def next_process(self, **changes: Any) -> "Pod":
        """Return the pod that starts after this one was killed: same disk, same database."""
        kept: dict[str, Any] = {
            "journal": self.journal,
            "folders": self.folders,
            "store": self.store,
            "clock": self.clock,
        }
        return Pod(**(kept | changes))

    # --- what tests ask -----------------------------------------------------------------------

    def settle(self, company_id: str = COMPANY) -> Connection:
        """Wait until everything posted so far, and what followed from it, is handled."""
        return self.drain(self.manager.runtime(company_id))

    def drain(self, runtime: CompanyRuntime) -> Connection:
        """Do so for a runtime that may have been retired."""
        for _ in range(8):  # a request, its start, the engine's answer, ...
            done = threading.Event()
            self.manager._mailroom.post(runtime.mailbox, done.set)
            assert done.wait(DEADLINE_SECONDS), "the mailbox is stuck"
        return runtime.connection

    def delete(self, company_id: str = COMPANY) -> CompanyRuntime:
        """Delete the company; return the runtime that is no more."""
        runtime = self.manager.runtime(company_id)
        self.manager.delete(company_id)
        self.drain(runtime)
        return runtime

    def await_connection(
        self, wanted: Callable[[Connection], bool], what: str, company_id: str = COMPANY
    ) -> Connection:
        runtime: CompanyRuntime = self.manager.runtime(company_id)
        assert runtime.wait_until(wanted, DEADLINE_SECONDS), f"{what}: {runtime.connection}"
        return runtime.connection

    def await_status(self, status: Status, company_id: str = COMPANY) -> Connection:
        return self.await_connection(
            lambda connection: connection.status is status, f"status {status}", company_id
        )

    def connect_saved(self, company_id: str = COMPANY) -> Connection:
        """Bring up a saved session by a request."""
        self.folders.save(company_id)
        self.manager.connect(company_id)
        return self.await_status(Status.CONNECTED, company_id)

    def row(self, company_id: str = COMPANY) -> Connection | None:
        return self.store.database.rows.get(company_id)

    def flush(self) -> None:
        assert self.write_behind.flush(DEADLINE_SECONDS)

    def events(self, company_id: str = COMPANY) -> list[str]:
        """Return what the history in the database says, in order."""
        return [
            item.event
            for item in self.store.database.history.values()
            if item.connection.company_id == company_id
        ]


def online(company_id: str = COMPANY, *, version: int = 1, **changes: Any) -> Connection:
    """Return a connected session as a row or the journal keeps it."""
    values: dict[str, Any] = {
        "desired_state": DesiredState.RUN,
        "status": Status.CONNECTED,
        "reason": Reason.ONLINE,
        "message": "WhatsApp is connected.",
        "jid": jid_of(company_id),
        "version": version,
    }
    return Connection(company_id=company_id, **(values | changes))
