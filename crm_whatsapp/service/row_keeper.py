"""What the rows in the database and a company's connection make of each other.

Everything is done in the company's mailbox, and judged by the connection as it is then.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from crm_whatsapp.domain.connection import (
    MOST_VERSION,
    ClientPhase,
    Connection,
    DesiredState,
    Reason,
)
from crm_whatsapp.domain.events import DesiredStateChanged, Event
from crm_whatsapp.domain.ports import Clock, StateJournal
from crm_whatsapp.domain.transitions import (
    FORGOTTEN,
    Transition,
    TransitionOutcome,
    TransitionReceipt,
)
from crm_whatsapp.service.company_runtime import CompanyRuntime
from crm_whatsapp.service.notice_board import NoticeBoard
from crm_whatsapp.service.recorder import Recorder
from crm_whatsapp.service.status_notices import adoption_notice, status_data

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What the session manager lends."""

    journal: StateJournal
    recorder: Recorder
    clock: Clock
    notices: NoticeBoard
    in_mailbox: Callable[[str, Callable[[CompanyRuntime], None]], None]
    handle: Callable[[CompanyRuntime, Event], None]
    has_credentials: Callable[[str], bool]
    is_known: Callable[[str], bool]
    forgotten_at: Callable[[str], int]


class RowKeeper:
    """Takes over rows, and writes them again where they are wrong."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def adopt(self, row: Connection) -> bool:
        """Take over a row that this process knows nothing newer of; no transition is recorded.

        Whoever listens hears of a status that is another one now.

        Returns:
            False for what a listing still shows of a company that has been forgotten since.
        """
        if row.version <= self._access.forgotten_at(row.company_id):
            return False

        def work(runtime: CompanyRuntime) -> None:
            current = runtime.connection
            if current.client is ClientPhase.NONE and current.version <= row.version:
                adopted = replace(row, client=current.client, generation=current.generation)
                runtime.set_connection(adopted)
                self._access.journal.adopt(adopted)
                if status_data(adopted) != status_data(current):
                    now = self._access.clock.now()
                    self._access.notices.post(adoption_notice(current, adopted, now))

        self._access.in_mailbox(row.company_id, work)
        return True

    def reassert(
        self, company_id: str, row_version: int, *, sets_desired_state: bool = False
    ) -> None:
        """Record the connection as it is once more, above the version of the row.

        Nothing is recorded for a company that has nothing on record, or that runs elsewhere: its
        row is somebody else's to write. Nor above a version that nobody here has counted to: there
        may be no number above it, and none would be left for what comes.

        Args:
            sets_desired_state: the row's desired_state is known to be older than the wish here.
        """

        if row_version > MOST_VERSION:
            log.error(
                "a row has a version that was not counted here, so nothing can replace it: set "
                "version to 0 in whatsapp_connections",
                company_id=company_id,
                version=row_version,
            )
            return

        def work(runtime: CompanyRuntime) -> None:
            before = runtime.connection
            if before.version == 0 or before.reason is Reason.HELD_ELSEWHERE:
                return
            now = self._access.clock.now()
            version = max(before.version, row_version, int(now.timestamp() * 1_000_000)) + 1
            after = replace(before, version=version)
            self._access.recorder.record(
                before, after, "row-corrected", now, sets_desired_state=sets_desired_state
            )
            runtime.set_connection(after)

        self._access.in_mailbox(company_id, work)

    def take_stale(self, transition: Transition, receipt: TransitionReceipt) -> None:
        """Rise above a row that turned out to be newer than a transition from here.

        The database has kept the row as it was: if nothing that came later is above it, or if the
        transition carried somebody's wish, the connection is recorded once more. A duplicate says
        the same again, because the first answer may have been lost; but it is also what a
        transition gets that was applied long before its later ones were.
        """
        company_id = transition.connection.company_id
        wish = transition.connection.desired_state if transition.sets_desired_state else None
        row_version = receipt.row_version

        def check(runtime: CompanyRuntime) -> None:
            current = runtime.connection
            below = current.version < row_version
            wanted = wish is not None and current.desired_state is wish
            if receipt.outcome is TransitionOutcome.DUPLICATE and not below:
                return
            if wanted or (below and transition.event != FORGOTTEN):
                self.reassert(company_id, row_version, sets_desired_state=wanted)

        if self._access.is_known(company_id):
            self._access.in_mailbox(company_id, check)

    def follow_table(self, seen: Connection, desired_state: DesiredState) -> None:
        """Do what somebody wrote into the table, unless the connection has changed since `seen`."""
        company_id = seen.company_id

        def work(runtime: CompanyRuntime) -> None:
            if runtime.connection.version == seen.version:
                saved = self._access.has_credentials(company_id)
                event = DesiredStateChanged(desired_state=desired_state, has_credentials=saved)
                self._access.handle(runtime, event)

        self._access.in_mailbox(company_id, work)
