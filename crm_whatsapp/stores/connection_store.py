"""The rows and the history of connections in Supabase."""

import logging
from collections.abc import Sequence
from typing import Any

from postgrest.types import CountMethod
from supabase import Client

from crm_whatsapp.domain.connection import Connection
from crm_whatsapp.domain.errors import InvalidInput, StoreRejected, StoreUnavailable
from crm_whatsapp.domain.transitions import Transition, TransitionOutcome, TransitionReceipt
from crm_whatsapp.stores.connection_record import (
    ROW_FIELDS,
    clean_text,
    read_record,
    time_text,
    write_record,
)
from crm_whatsapp.stores.database_errors import translated
from crm_whatsapp.stores.supabase_client import DatabaseCalls

_LOG = logging.getLogger(__name__)

_BATCH = 500  # whatsapp_record_transitions_v1 takes 1000; a row is about 1 KB
_PAGE = 1000
_NO_SUCH_FUNCTION = "PGRST202"


class SupabaseConnectionStore:
    """The ConnectionStore on PostgREST.

    Attributes:
        row_problems: what the last listing found in rows that this release does not know.
    """

    def __init__(self, client: Client, *, owner_id: str, page_size: int = _PAGE) -> None:
        """Use the client.

        Args:
            owner_id: the instance that the history names.
            page_size: rows asked for at once; the server may give fewer.
        """
        self._calls = DatabaseCalls(client)
        self._owner_id = owner_id
        self._page_size = page_size
        self.row_problems: tuple[str, ...] = ()

    def record_transitions(self, transitions: Sequence[Transition]) -> list[TransitionReceipt]:
        """Record a batch in order; safe to repeat, also when it was cut short by an error.

        Raises:
            StoreUnavailable, StoreRejected: as ConnectionStore.

        Source:
            migrations: whatsapp_record_transitions_v1.
        """
        receipts: list[TransitionReceipt] = []
        for start in range(0, len(transitions), _BATCH):
            batch = transitions[start : start + _BATCH]
            answer = self._calls.repeatable(
                "whatsapp_record_transitions_v1",
                {"p_transitions": [self._element(transition) for transition in batch]},
            )
            receipts.extend(_receipts(batch, answer))
        return receipts

    def list_connections(self) -> list[Connection]:
        """Return every row, pages joined by company_id.

        A row whose words this release does not know is read as safely as possible, and named in
        row_problems and in the log; it never hides the other rows.
        """
        found: list[Connection] = []
        problems: list[str] = []
        last: str | None = None
        while True:
            rows, left_before = self._page_after(last)
            for row in rows:
                try:
                    read = read_record(row)
                except InvalidInput as exc:
                    problems.append(f"a row cannot be read: {exc.message}")
                    continue
                found.append(read.connection)
                problems.extend(f"{row['company_id']}: {text}" for text in read.problems)
            if not rows or len(rows) >= left_before:
                break
            last = str(rows[-1]["company_id"])
        for problem in problems:
            _LOG.warning("whatsapp_connections: %s", problem)
        self.row_problems = tuple(problems)
        return found

    def forget_company(self, company_id: str, version: int) -> None:
        """Remove the row and end the lease; writes of `version` or older never bring it back.

        A row that is newer stays: the company was connected anew since.
        """
        answer = self._calls.repeatable(
            "whatsapp_forget_company_v1", {"p_company_id": company_id, "p_version": version}
        )
        if isinstance(answer, dict) and answer.get("outcome") == "stale":
            _LOG.warning(
                "Company %s was not forgotten at version %d: its row is newer (%s).",
                company_id,
                version,
                answer.get("row_version"),
            )

    def schema_version(self) -> int:
        """Return the number of the newest applied migration, 0 when there is none."""
        try:
            answer = self._calls.repeatable("whatsapp_schema_version_v1", {})
        except StoreRejected as exc:
            if exc.details.get("sql_state") == _NO_SUCH_FUNCTION:
                return 0
            raise
        try:
            return int(answer)
        except (TypeError, ValueError) as exc:
            raise StoreRejected(f"The schema version is not a number: {answer!r}.") from exc

    def _element(self, transition: Transition) -> dict[str, Any]:
        connection = transition.connection
        return {
            "id": transition.id,
            "company_id": connection.company_id,
            "version": connection.version,
            "occurred_at": time_text(transition.occurred_at),
            "event": clean_text(transition.event),
            "from_status": str(transition.from_status),
            "owner_id": self._owner_id,
            "sets_desired_state": transition.sets_desired_state,
            "row": write_record(connection, ROW_FIELDS),
        }

    def _page_after(self, company_id: str | None) -> tuple[list[dict[str, Any]], int]:
        """Return the next rows and how many there were after company_id, these included.

        The count tells the last page, because the server may cut pages shorter than asked.
        """

        def ask() -> tuple[list[dict[str, Any]], int]:
            table = self._calls.client.table("whatsapp_connections")
            query = table.select(*ROW_FIELDS, count=CountMethod.exact)
            if company_id is not None:
                query = query.gt("company_id", company_id)
            with translated():
                answer = query.order("company_id").limit(self._page_size).execute()
            if not isinstance(answer.data, list):
                raise StoreUnavailable("Something other than the database answered.")
            rows = [row for row in answer.data if isinstance(row, dict)]
            return rows, answer.count or 0

        return self._calls.repeat(ask)


def _receipts(batch: Sequence[Transition], answer: Any) -> list[TransitionReceipt]:
    """Read the receipts, which come in the order of the batch."""
    if not isinstance(answer, list) or len(answer) != len(batch):
        raise StoreRejected("The database gave another number of receipts than transitions.")
    return [_receipt(transition, item) for transition, item in zip(batch, answer, strict=True)]


def _receipt(transition: Transition, item: Any) -> TransitionReceipt:
    try:
        return TransitionReceipt(
            id=transition.id,
            outcome=TransitionOutcome(item["outcome"]),
            row_version=int(item["row_version"]),
            error=item.get("error"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise StoreRejected(f"The database gave an unknown receipt: {item!r}.") from exc
