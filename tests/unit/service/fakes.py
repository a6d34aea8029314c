"""The service's surroundings in memory: a clock that tests move, engines, folders, a journal.

Nothing here sleeps. A test that has to wait for a thread waits on what the fakes note down.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from crm_whatsapp.domain import events
from crm_whatsapp.domain.connection import LOCAL_FIELDS, Connection
from crm_whatsapp.domain.engines import (
    EngineFleet,
    EngineHealth,
    PairOrder,
    SentMessage,
    StartOrder,
)
from crm_whatsapp.domain.errors import (
    InvalidInput,
    StorageError,
    StoreRejected,
    StoreUnavailable,
)
from crm_whatsapp.domain.folders import Credentials, FolderReport, FolderState
from crm_whatsapp.domain.media import MediaParcel
from crm_whatsapp.domain.notices import Notice
from crm_whatsapp.domain.ports import (
    Clock,
    JournalEntry,
    ProxyVault,
    SessionFolders,
    SessionInstaller,
    StateJournal,
    StoreCopier,
)
from crm_whatsapp.domain.snapshots import StoreCopy, StoreFingerprint
from crm_whatsapp.domain.transitions import FORGOTTEN, Transition, TransitionReceipt
from crm_whatsapp.service.backlog_runs import company_of
from tests.contract.fakes import FakeConnectionStore, FakeDatabase

DEADLINE_SECONDS = 20.0
"""Far beyond what anything here takes: a test that reaches it has failed."""

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Signal:
    """Something that threads note and a test waits for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()

    def __enter__(self) -> "Signal":
        self._changed.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._changed.notify_all()
        self._changed.release()

    def wait_until(self, wanted: Callable[[], bool], what: str) -> None:
        """Wait for it, and fail with these words when it does not come."""
        with self._changed:
            if not self._changed.wait_for(wanted, DEADLINE_SECONDS):
                raise AssertionError(f"not within {DEADLINE_SECONDS} s: {what}")


class ManualClock(Clock):
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


class FakeJournal(StateJournal):
    """A journal in memory. `refusal` is raised by every write until it is cleared."""

    def __init__(self) -> None:
        self.signal = Signal()
        self.refusal: Exception | None = None
        self.refused_events: set[str] = set()
        self.backlog: list[JournalEntry] = []
        self.states: dict[str, Connection] = {}
        self.written: list[Transition] = []
        self.notices: list[tuple[Notice, bool]] = []
        self.before_pending: Callable[[], None] = lambda: None
        self.after_pending: Callable[[], None] = lambda: None
        self.closed = False

    def append(self, transition: Transition) -> None:
        self._check()
        if transition.event in self.refused_events:
            raise ValueError("this one cannot be written down")
        with self.signal:
            if any(item.id == transition.id for item in self.written):
                return
            self.backlog.append(transition)
            self.written.append(transition)
            if transition.event == FORGOTTEN:
                self.states.pop(transition.connection.company_id, None)
            else:
                self.states[transition.connection.company_id] = transition.connection

    def append_notice(self, notice: Notice, *, keep: bool) -> None:
        self._check()
        if notice.kind in self.refused_events:
            raise InvalidInput("this one cannot be written down")
        with self.signal:
            self.backlog.append(notice)
            self.notices.append((notice, keep))

    def pending(self, limit: int, *, notices: bool = True) -> list[JournalEntry]:
        with self.signal:
            return self._pending(notices)[:limit]

    def pending_heads(self, limit: int, *, notices: bool) -> list[JournalEntry]:
        heads: dict[str | None, JournalEntry] = {}
        for item in self.backlog:
            heads.setdefault(company_of(item), item)
        return [item for item in heads.values() if isinstance(item, Notice) is notices][:limit]

    def pending_count(self, *, notices: bool = True) -> int:
        self.before_pending()
        with self.signal:
            found = len(self._pending(notices))
        self.after_pending()
        return found

    def mark_sent(self, entry_ids: Sequence[str]) -> None:
        self._check()
        with self.signal:
            self.backlog = [item for item in self.backlog if item.id not in entry_ids]

    def forgotten_companies(self) -> list[str]:
        return [
            item.connection.company_id
            for item in self.backlog
            if isinstance(item, Transition) and item.event == FORGOTTEN
        ]

    def _pending(self, notices: bool) -> list[JournalEntry]:
        return [item for item in self.backlog if notices or isinstance(item, Transition)]

    def load_connections(self) -> list[Connection]:
        """Return what a restart would find: nothing that only a process knows."""
        blank = Connection(company_id="")
        cleared = {name: getattr(blank, name) for name in LOCAL_FIELDS}
        return [replace(connection, **cleared) for connection in self.states.values()]

    def adopt(self, connection: Connection) -> None:
        self._check()
        self.states[connection.company_id] = connection

    def close(self) -> None:
        self.closed = True

    def _check(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    def await_empty(self) -> None:
        self.signal.wait_until(lambda: not self.backlog, "an empty backlog")


class FakeFleet(EngineFleet):
    """Engines that do as they are told: `answer_starts` and `answer_stops` say how.

    Without them the test answers itself, with `emit`.
    """

    def __init__(self) -> None:
        self.signal = Signal()
        self.sink: Callable[[events.EngineEvent], None] = lambda event: None
        self.orders: list[tuple[str, str, int]] = []
        self.starts: list[StartOrder] = []
        self.pairings: list[PairOrder] = []
        self.running: set[tuple[str, int]] = set()
        self.answer_starts = True
        self.answer_stops = True
        self.closing = False
        self.unstopped: list[str] = []
        self.send_results: list[SentMessage | Exception] = []
        self.parcels: list[tuple[MediaParcel, bytes]] = []
        self.prewarmed: list[int] = []
        self.shutdowns: list[float] = []

    def emit(self, event: events.EngineEvent) -> None:
        self.sink(event)

    def start(self, order: StartOrder) -> None:
        self._note("start", order.company_id, order.generation)
        if self._closed(order.company_id, order.generation):
            return
        with self.signal:
            self.starts.append(order)
            self.running.add((order.company_id, order.generation))
        if self.answer_starts:
            self.connected(order.company_id, order.generation)

    def pair(self, order: PairOrder) -> None:
        self._note("pair", order.company_id, order.generation)
        if self._closed(order.company_id, order.generation):
            return
        with self.signal:
            self.pairings.append(order)
            self.running.add((order.company_id, order.generation))

    def connected(self, company_id: str, generation: int) -> None:
        self.emit(
            events.ClientConnected(
                company_id=company_id,
                generation=generation,
                jid=jid_of(company_id),
            )
        )

    def stop(self, company_id: str, generation: int) -> None:
        self._note("stop", company_id, generation)
        if self.answer_stops:
            self.stopped(company_id, generation)

    def stopped(self, company_id: str, generation: int) -> None:
        with self.signal:
            self.running.discard((company_id, generation))
        self.emit(events.ClientStopped(company_id=company_id, generation=generation))

    def probe(self, company_id: str, generation: int) -> None:
        self._note("probe", company_id, generation)

    def logout(self, company_id: str, generation: int) -> None:
        self._note("logout", company_id, generation)
        self.emit(
            events.LogoutAnswered(company_id=company_id, generation=generation, succeeded=True)
        )

    def send_text(
        self, company_id: str, generation: int, *, to_jid: str, text: str, timeout_seconds: float
    ) -> Future[SentMessage]:
        self._note("send", company_id, generation)
        future: Future[SentMessage] = Future()
        if self.send_results:
            result = self.send_results.pop(0)
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        return future

    def send_media(
        self,
        company_id: str,
        generation: int,
        *,
        to_jid: str,
        parcel: MediaParcel,
        upload_seconds: float,
        ack_seconds: float,
    ) -> Future[SentMessage]:
        self.parcels.append((parcel, parcel.path.read_bytes()))
        return self.send_text(
            company_id, generation, to_jid=to_jid, text="", timeout_seconds=ack_seconds
        )

    def health(self) -> list[EngineHealth]:
        return []

    def prewarm(self, sessions: int) -> None:
        self.prewarmed.append(sessions)

    def shutdown(self, timeout_seconds: float) -> list[str]:
        self.closing = True
        self.shutdowns.append(timeout_seconds)
        for company_id, generation in sorted(self.running):
            self.stopped(company_id, generation)
        return self.unstopped

    def await_order(self, name: str, company_id: str, generation: int) -> None:
        self.signal.wait_until(
            lambda: (name, company_id, generation) in self.orders,
            f"order {name} for {company_id}, generation {generation}; there were {self.orders}",
        )

    def generations(self, company_id: str) -> list[int]:
        """Return the generations that were started or paired, in order."""
        return [
            generation
            for name, company, generation in self.orders
            if company == company_id and name in ("start", "pair")
        ]

    def taken(self, company_id: str, generation: int) -> None:
        self._note("taken", company_id, generation)

    def _note(self, name: str, company_id: str, generation: int) -> None:
        with self.signal:
            self.orders.append((name, company_id, generation))

    def _closed(self, company_id: str, generation: int) -> bool:
        if self.closing:
            self.emit(events.ClientStopped(company_id=company_id, generation=generation))
        return self.closing


class FakeFolders(SessionFolders):
    """Folders in a dict. Methods named in `refusing` raise StorageError.

    `unreadable` companies raise it whatever is asked about them.
    """

    def __init__(self) -> None:
        self.saved: dict[str, Credentials] = {}
        self.states: dict[str, FolderState] = {}
        self.quarantined: list[str] = []
        self.removed: list[str] = []
        self.refusing: set[str] = set()
        self.unreadable: set[str] = set()
        self.on_call: Callable[[str, str], None] = lambda name, company_id: None

    def save(self, company_id: str) -> None:
        """Put a valid session there."""
        self.saved[company_id] = Credentials(
            company_id=company_id,
            jid=jid_of(company_id),
            lid=None,
            push_name="Ana",
            platform="android",
            paired_at=NOON,
            epoch=1,
        )

    def keep_before_start(self, company_id: str) -> None:
        self._check("keep_before_start", company_id)

    def put_back(self, company_id: str) -> bool:
        self._check("put_back", company_id)
        return company_id in self.saved

    def has_credentials(self, company_id: str) -> bool:
        self._check("has_credentials", company_id)
        return company_id in self.saved

    def has_credentials_file(self, company_id: str) -> bool:
        self._check("has_credentials_file", company_id)
        return company_id in self.saved

    def inspect(self, company_id: str, *, deep: bool = True) -> FolderReport:
        self._check("inspect", company_id)
        credentials = self.saved.get(company_id)
        state = FolderState.VALID if credentials else FolderState.MISSING
        return FolderReport(
            state=self.states.get(company_id, state), detail="", credentials=credentials
        )

    def list_companies(self) -> list[str]:
        self._check("list_companies", "")
        return sorted(self.saved.keys() | self.unreadable)

    def store_path(self, company_id: str) -> Path:
        return self.session_path(company_id) / "store.db"

    def session_path(self, company_id: str) -> Path:
        return Path("/sessions") / f"session-{company_id}"

    def lock_path(self, company_id: str) -> Path:
        return Path("/sessions/.locks") / company_id

    def prepare(self, company_id: str) -> None:
        self._check("prepare", company_id)
        if company_id in self.saved:
            raise StorageError("The folder is not empty.")

    def write_credentials(self, credentials: Credentials) -> None:
        self._check("write_credentials", credentials.company_id)
        self.saved[credentials.company_id] = credentials

    def remove_credentials(self, company_id: str) -> None:
        self._check("remove_credentials", company_id)
        self.saved.pop(company_id, None)

    def remove(self, company_id: str) -> None:
        self._check("remove", company_id)
        self.saved.pop(company_id, None)
        self.removed.append(company_id)

    def quarantine(self, company_id: str, why: str) -> Path | None:
        self._check("quarantine", company_id)
        if self.saved.pop(company_id, None) is None:
            return None
        self.quarantined.append(company_id)
        return Path("/sessions/quarantine") / company_id

    def check_writable(self) -> None:
        self._check("check_writable", "")

    def _check(self, name: str, company_id: str) -> None:
        self.on_call(name, company_id)
        if name in self.refusing or company_id in self.unreadable:
            raise StorageError("The disk refuses.")


class FakeProxies(ProxyVault):
    """No proxies, until one is put."""

    def __init__(self) -> None:
        self.urls: dict[str, str] = {}
        self.refuses = False

    def put(self, company_id: str, url: str) -> None:
        self._check()
        self.urls[company_id] = url

    def find(self, company_id: str) -> str | None:
        return self.urls.get(company_id)

    def remove(self, company_id: str) -> None:
        self._check()
        self.urls.pop(company_id, None)

    def _check(self) -> None:
        if self.refuses:
            raise StorageError("The disk refuses.")


class MoodyStore(FakeConnectionStore):
    """The store in memory, with the moods of a real one.

    poisonous: companies whose transitions make the database refuse the whole call.
    denies: every write is refused, as when a permission is missing.
    """

    def __init__(self, database: FakeDatabase | None = None) -> None:
        self.database = database or FakeDatabase()
        super().__init__(self.database)
        self.poisonous: set[str] = set()
        self.denies = False
        self.unanswered: set[str] = set()
        self.calls: list[list[str]] = []
        self.signal = Signal()
        self.before_call: Callable[[str], None] = lambda name: None
        self.after_listing: Callable[[], None] = lambda: None

    def record_transitions(self, transitions: Sequence[Transition]) -> list[TransitionReceipt]:
        with self.signal:
            self.calls.append([item.connection.company_id for item in transitions])
        self.before_call("record")
        if self.denies or any(item.connection.company_id in self.poisonous for item in transitions):
            raise StoreRejected("The database refused it.")
        receipts = super().record_transitions(transitions)
        return [receipt for receipt in receipts if receipt.id not in self.unanswered]

    def list_connections(self) -> list[Connection]:
        self.before_call("list")
        found = super().list_connections()
        self.after_listing()
        return found

    def forget_company(self, company_id: str, version: int) -> None:
        with self.signal:
            self.calls.append(["forget", company_id])
        self.before_call("forget")
        super().forget_company(company_id, version)

    def await_calls(self, number: int) -> None:
        self.signal.wait_until(lambda: len(self.calls) >= number, f"{number} calls: {self.calls}")


class HangingCalls:
    """Set as `before_call`: calls of these names wait until `release`, then fail."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.entered = threading.Event()
        self.let_go = threading.Event()

    def __call__(self, name: str) -> None:
        if name in self.names:
            self.entered.set()
            assert self.let_go.wait(DEADLINE_SECONDS), "nobody ended the hanging call"
            raise StoreUnavailable("The database did not answer in time.")


def jid_of(company_id: str) -> str:
    """Return a jid that belongs to the company."""
    number = int(company_id.replace("-", "")[:8], 16) % 10**8
    return f"55119{number:08d}:1@s.whatsapp.net"


class FakeCopier(StoreCopier):
    """Copies nothing: for pods without snapshots."""

    def copy(self, company_id: str) -> StoreCopy:
        raise AssertionError("nobody copies without snapshots")

    def fingerprint(self, company_id: str) -> StoreFingerprint:
        raise AssertionError("nobody compares without snapshots")

    def verify(self, company_id: str) -> None:
        raise AssertionError("nobody compares without snapshots")


class NoInstaller(SessionInstaller):
    """Installs nothing: for pods without snapshots."""

    def install(self, copy: StoreCopy, *, epoch: int, reset_signal: bool = False) -> None:
        raise AssertionError("nobody installs without snapshots")
