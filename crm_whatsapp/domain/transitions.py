"""A change of a connection on its way to the journal, the database and the listeners."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from crm_whatsapp.domain.connection import Connection, Status

FORGOTTEN = "forgotten"
"""The event of a company's last transition: journal and database keep no state of it after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One change. `id` is a UUID: however often it is sent, it is recorded once.

    sets_desired_state: only then may the row's desired_state be overwritten, because the CRM
        may have written there in the meantime.
    final: survives a power cut, not only a kill (a stop, a logout, a ban must not be forgotten).
    """

    id: str
    connection: Connection
    event: str
    from_status: Status
    occurred_at: datetime
    sets_desired_state: bool = False
    final: bool = False


class TransitionOutcome(StrEnum):
    """What the database did with a transition."""

    APPLIED = "applied"  # history written, row changed
    DUPLICATE = "duplicate"  # already recorded earlier
    STALE = "stale"  # history written; the row was newer already
    INVALID = "invalid"  # refused; sending it again cannot help


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionReceipt:
    """The database's answer for one transition."""

    id: str
    outcome: TransitionOutcome
    row_version: int
    error: str | None = None
