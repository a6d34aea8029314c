"""Whatever is cut off between the journal and the database: once each, in order, nothing missing.

The real journal on a real disk, a database in memory that loses questions and answers, and kills
between any two steps. Hypothesis prints the steps of a failure; they replay as they are.
"""

import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from crm_whatsapp.domain.connection import Connection, Status
from crm_whatsapp.domain.errors import CrmWhatsappError, StoreRejected, StoreUnavailable
from crm_whatsapp.domain.notices import Notice, NoticeKind
from crm_whatsapp.domain.ports import JournalEntry
from crm_whatsapp.domain.transitions import FORGOTTEN, Transition, TransitionReceipt
from crm_whatsapp.service.backlog_runs import company_of
from crm_whatsapp.service.backlog_sender import BacklogSender, NoticesNotTaken
from crm_whatsapp.stores.state_journal import SqliteStateJournal
from tests.contract.fakes import FakeConnectionStore, FakeDatabase
from tests.unit.service.fakes import NOON
from tests.unit.service.pod import COMPANY, OTHER, THIRD

FOURTH = "44444444-2222-4333-8444-555555555555"
COMPANIES = st.sampled_from([COMPANY, OTHER, THIRD])
FAULTS = st.sampled_from(["none", "away", "answer-lost", "killed-before", "killed-after"])


class Killed(BaseException):
    """The process is gone."""


class FaultyDatabase(FakeConnectionStore):
    """Takes transitions and notices, each once; `fault` happens to the next call, then none."""

    def __init__(self) -> None:
        super().__init__(FakeDatabase())
        self.fault = "none"
        self.poison: set[str] = set()
        self.arrived: list[str] = []
        self.notices: dict[str, Notice] = {}

    def record_transitions(self, transitions: Sequence[Transition]) -> list[TransitionReceipt]:
        self._before(transitions)
        receipts = super().record_transitions(transitions)
        self._after(transitions)
        return receipts

    def enqueue(self, notices: Sequence[Notice]) -> int:
        self._before(notices)
        self.notices.update((notice.id, notice) for notice in notices)
        self._after(notices)
        return len(notices)

    def forget_company(self, company_id: str, version: int) -> None:
        self._before(())
        super().forget_company(company_id, version)
        self._after(())

    def _before(self, entries: Sequence[JournalEntry]) -> None:
        if self.fault == "killed-before":
            self.fault = "none"
            raise Killed
        if self.fault == "away":
            self.fault = "none"
            raise StoreUnavailable("away")
        if any(entry.id in self.poison for entry in entries):
            raise StoreRejected("the gateway refuses this content")

    def _after(self, entries: Sequence[JournalEntry]) -> None:
        self.arrived.extend(entry.id for entry in entries if entry.id not in self.arrived)
        fault, self.fault = self.fault, "none"
        if fault == "killed-after":
            raise Killed
        if fault == "answer-lost":
            raise StoreUnavailable("The database did not answer in time.")


class WritePath(RuleBasedStateMachine):
    """A service that records and sends, and is killed now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.database = FaultyDatabase()
        self.recorded: list[JournalEntry] = []
        self.lives: dict[str, int] = {}
        self.clock = 0
        self.start()

    def start(self) -> None:
        self.journal = SqliteStateJournal(Path(self.folder.name) / "state.db")
        self.sender = BacklogSender(self.journal, self.database, self.database)

    def teardown(self) -> None:
        self.database.fault = "none"
        try:
            self.sort_out_poison()
            self.everything_arrived()
        finally:
            self.journal.close()
            self.folder.cleanup()

    def sort_out_poison(self) -> None:
        """Go on until nothing waits: what is refused is known once something is accepted."""
        for _ in range(100):
            if not self.journal.pending_count():
                return
            self.clock += 1
            self.add_change(FOURTH, 1)
            self.add_notice(FOURTH, 1)
            self.send("none", 200)
        raise AssertionError(f"still waiting: {self.journal.pending(10)}")

    def everything_arrived(self) -> None:
        wanted = [entry for entry in self.recorded if entry.id not in self.database.poison]
        transitions = [item for item in wanted if isinstance(item, Transition)]
        kept = [item.id for item in transitions if item.event != FORGOTTEN]
        assert sorted(self.database._database.history) == sorted(kept)
        notices = [item.id for item in wanted if isinstance(item, Notice)]
        assert sorted(self.database.notices) == sorted(notices)
        for company_id in (COMPANY, OTHER, THIRD, FOURTH):
            mine = [item for item in transitions if company_of(item) == company_id]
            row = self.database._database.rows.get(company_id)
            if not mine or mine[-1].event == FORGOTTEN:
                assert row is None
            else:
                assert row is not None and row.version == mine[-1].connection.version

    @rule(company_id=COMPANIES, poison=st.integers(0, 9))
    def change(self, company_id: str, poison: int) -> None:
        self.clock += 1
        self.add_change(company_id, poison)

    def add_change(self, company_id: str, poison: int) -> None:
        entry = Transition(
            id=str(uuid.uuid4()),
            connection=Connection(company_id=company_id, version=self.clock),
            event="Event",
            from_status=Status.CONNECTED,
            occurred_at=NOON,
        )
        self.journal.append(entry)
        self.note(entry, poison)

    @rule(company_id=COMPANIES | st.none(), poison=st.integers(0, 9))
    def tell(self, company_id: str | None, poison: int) -> None:
        self.add_notice(company_id, poison)

    def add_notice(self, company_id: str | None, poison: int) -> None:
        entry = Notice(
            id=str(uuid.uuid4()),
            kind=NoticeKind.MESSAGE,
            company_id=company_id,
            occurred_at=NOON,
            data={},
        )
        self.journal.append_notice(entry, keep=True)
        self.note(entry, poison)

    @rule(company_id=COMPANIES)
    def forget(self, company_id: str) -> None:
        entry = Transition(
            id=str(uuid.uuid4()),
            connection=Connection(company_id=company_id, version=self.clock),
            event=FORGOTTEN,
            from_status=Status.LOGGED_OUT,
            occurred_at=NOON,
            final=True,
        )
        self.journal.append(entry)
        self.recorded.append(entry)

    def note(self, entry: JournalEntry, poison: int) -> None:
        self.recorded.append(entry)
        if not poison:
            self.database.poison.add(entry.id)

    @precondition(lambda self: self.recorded)
    @rule(fault=FAULTS, limit=st.integers(1, 8))
    def send(self, fault: str, limit: int) -> None:
        self.database.fault = fault
        try:
            self.sender.send(self.journal.pending(limit))
        except (NoticesNotTaken, CrmWhatsappError):
            pass
        except Killed:
            self.kill()

    @rule()
    def kill(self) -> None:
        self.journal._db.close()
        self.start()

    @invariant()
    def no_company_is_told_out_of_order(self) -> None:
        order = {entry.id: number for number, entry in enumerate(self.recorded)}
        owner = {entry.id: company_of(entry) for entry in self.recorded}
        for company_id in (COMPANY, OTHER, THIRD, FOURTH, None):
            mine = [order[item] for item in self.database.arrived if owner[item] == company_id]
            assert mine == sorted(mine), (company_id, mine)

    @invariant()
    def counts_are_right(self) -> None:
        assert self.journal.backlog_count == self.journal.pending_count()


TestWritePath = WritePath.TestCase
TestWritePath.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
