"""The runtimes: one a company, every change of it through its mailbox."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout

import structlog

from crm_whatsapp.domain import events
from crm_whatsapp.domain.connection import ClientPhase, Connection
from crm_whatsapp.domain.errors import (
    CrmWhatsappError,
    ServiceBusy,
    ServiceStopping,
    StorageError,
)
from crm_whatsapp.domain.inbound import InboundEvent
from crm_whatsapp.domain.rules.timer_rules import is_due
from crm_whatsapp.service.company_runtime import CompanyRuntime
from crm_whatsapp.service.effect_runner import Work
from crm_whatsapp.service.event_handler import EventHandler, RuntimeParts, Surroundings
from crm_whatsapp.service.mailroom import Mailroom
from crm_whatsapp.service.row_keeper import Access, RowKeeper

__all__ = ["RuntimeParts", "SessionRuntimes"]

log = structlog.get_logger(__name__)

_ANSWER_SECONDS = 5.0
_MOST_FORGOTTEN = 10_000


class SessionRuntimes:
    """Holds the connection of every company and lets the policy answer what happens to it.

    Attributes:
        rows: what follows from the rows in the database.
    """

    def __init__(self, parts: RuntimeParts) -> None:
        self._parts = parts
        self._mailroom = Mailroom()
        self._lock = threading.Lock()
        self._runtimes: dict[str, CompanyRuntime] = {}
        self._forgotten: dict[str, Connection] = {}
        self._stopping = False
        self._polls_may_start = False
        self._handler = EventHandler(
            parts,
            Surroundings(
                is_stopping=lambda: self._stopping,
                find=self.find,
                then=self.then,
                retire=self._retire,
            ),
        )
        parts.effects.bind(self.post, self._post_work)
        self.rows = RowKeeper(
            Access(
                journal=parts.journal,
                recorder=parts.recorder,
                clock=parts.clock,
                notices=parts.notices,
                in_mailbox=self._in_mailbox,
                handle=self._handler.handle,
                has_credentials=self.has_credentials,
                is_known=lambda company_id: company_id in self._runtimes,
                forgotten_at=self._forgotten_at,
            )
        )

    # --- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Load the journal and begin to handle messages. Starts no session."""
        for connection in self._parts.journal.load_connections():
            self._runtimes[connection.company_id] = CompanyRuntime(connection)
        self._mailroom.start()

    def allow_polls_to_start(self) -> None:
        """From now on a status poll may start a restore; before that, start-up decides."""
        self._polls_may_start = True

    @property
    def starts_are_decided(self) -> bool:
        """Tell whether start-up has ordered all that it is going to restore."""
        return self._polls_may_start

    def refuse_requests(self) -> None:
        """Begin to stop: requests that change something are refused from now on."""
        self._stopping = True

    def stop(self, timeout_seconds: float) -> None:
        """Handle what was posted, then end."""
        self._mailroom.stop(timeout_seconds)

    # --- what the rest of the service asks ----------------------------------------------------

    def connections(self) -> list[Connection]:
        """Return every known connection."""
        with self._lock:
            return [runtime.connection for runtime in self._runtimes.values()]

    def find(self, company_id: str) -> Connection | None:
        """Return the connection if the company is known here."""
        runtime = self._runtimes.get(company_id)
        return runtime.connection if runtime else None

    def runtime(self, company_id: str) -> CompanyRuntime:
        """Return the company's runtime, made when there is none yet."""
        with self._lock:
            runtime = self._runtimes.get(company_id)
            if runtime is None:
                earlier = self._forgotten.get(company_id)
                # Generations go on: a late event of the forgotten client must not be taken for one
                # of the new client.
                generation = earlier.generation if earlier else 0
                runtime = CompanyRuntime(Connection(company_id=company_id, generation=generation))
                self._runtimes[company_id] = runtime
            return runtime

    def has_credentials(self, company_id: str) -> bool:
        """Tell whether something is saved. The store of a running client is left alone. A folder
        that cannot be read holds something: the start will say what is wrong with it."""
        runtime = self._runtimes.get(company_id)
        try:
            if runtime is not None and runtime.connection.client is not ClientPhase.NONE:
                linked = runtime.connection.jid is not None
                return linked or self._parts.folders.has_credentials_file(company_id)
            saved = self._parts.folders.has_credentials(company_id)
            return saved or self._parts.catalogue.find(company_id) is not None
        except StorageError as error:
            log.error(
                "the session folder cannot be read", company_id=company_id, detail=error.message
            )
            return True

    def post(self, company_id: str, event: events.Event) -> None:
        """Have the event handled in the company's mailbox; returns at once."""
        if not isinstance(event, events.EngineEvent) or company_id in self._runtimes:
            self._in_mailbox(company_id, lambda runtime: self._handler.handle(runtime, event))

    def then(self, company_id: str, work: Callable[[Connection], None]) -> None:
        """Have the connection passed on once everything posted so far is handled."""
        self._in_mailbox(company_id, lambda runtime: work(runtime.connection))

    def post_engine_event(self, event: events.EngineEvent) -> None:
        """Take an event from the engines; the sink of the fleet."""
        if isinstance(event, InboundEvent):
            self._post_inbound(event)
        else:
            self.post(event.company_id, event)

    def _post_inbound(self, event: InboundEvent) -> None:
        """Have a message or a receipt told in its turn, whichever client it came by."""
        runtime, inbox = self._runtimes.get(event.company_id), self._parts.inbox
        if runtime is None:
            inbox.drop(event)
            return
        self._mailroom.post(
            runtime.mailbox, lambda: (inbox.drop if runtime.retired else inbox.take)(event)
        )

    def repair_credentials(self, company_id: str) -> None:
        """Write creds.json of a connected session again if it is missing."""
        self._in_mailbox(
            company_id,
            lambda runtime: (
                self._parts.effects.write_credentials(runtime.connection)
                if runtime.connection.is_connected
                else None
            ),
        )

    def sweep(self) -> None:
        """Let everything happen that is due."""
        now = self._parts.clock.now()
        for connection in self.connections():
            if is_due(connection, now) and not self._stopping:
                saved = self.has_credentials(connection.company_id)
                self.post(connection.company_id, events.TimerDue(has_credentials=saved))

    def expire_codes(self) -> None:
        """Take down codes that have expired unscanned, in case the sweep did not run."""
        now = self._parts.clock.now()
        for connection in self.connections():
            expiry = connection.qr_expires_at
            if expiry is not None and expiry <= now:
                self.post(connection.company_id, events.TimerDue(has_credentials=False))

    def ask(
        self,
        company_id: str,
        event: Callable[[], events.Event],
        check: Callable[[Connection], None] = lambda connection: None,
    ) -> Connection:
        """Have a request handled and return what became of the connection.

        Args:
            event: makes the event when it is the request's turn.
            check: looks at the connection as the request finds it; what it raises is the answer.
        """
        if self._stopping:
            raise ServiceStopping
        answer: Future[Connection] = Future()

        def work(runtime: CompanyRuntime) -> None:
            if runtime.retired:  # the company was forgotten before its turn: its next life begins
                put(self.runtime(company_id))
                return
            try:
                check(runtime.connection)
                self._handler.handle(runtime, event())
            except CrmWhatsappError as error:
                answer.set_exception(error)
            except BaseException as error:
                answer.set_exception(error)
                raise
            else:
                answer.set_result(runtime.connection)

        def put(runtime: CompanyRuntime) -> None:
            self._mailroom.post(runtime.mailbox, lambda: work(runtime))

        put(self.runtime(company_id))
        try:
            return answer.result(_ANSWER_SECONDS)
        except FutureTimeout as error:
            raise ServiceBusy from error

    def _in_mailbox(self, company_id: str, work: Callable[[CompanyRuntime], None]) -> None:
        """Have the work done in its turn; not for a company that is forgotten by then."""
        runtime = self.runtime(company_id)
        self._mailroom.post(runtime.mailbox, lambda: None if runtime.retired else work(runtime))

    def _post_work(self, company_id: str, generation: int, work: Work) -> None:
        def when_current(runtime: CompanyRuntime) -> None:
            connection = runtime.connection
            expected = (ClientPhase.STARTING, ClientPhase.PAIRING, ClientPhase.RESUMING)
            if connection.generation == generation and connection.client in expected:
                work(connection)

        self._in_mailbox(company_id, when_current)

    def _retire(self, runtime: CompanyRuntime) -> None:
        """Forget a company: what is still in its mailbox is meant for its next life."""
        with self._lock:
            self._forgotten.pop(runtime.company_id, None)
            self._forgotten[runtime.company_id] = runtime.connection
            if len(self._forgotten) > _MOST_FORGOTTEN:  # deleting is free, and so are ids
                self._forgotten.pop(next(iter(self._forgotten)))
            self._runtimes.pop(runtime.company_id, None)
            runtime.retired = True

    def _forgotten_at(self, company_id: str) -> int:
        """Return the version at which the company was last forgotten, -1 when it never was."""
        forgotten = self._forgotten.get(company_id)
        return forgotten.version if forgotten else -1
