"""What counts as a restore: the same words for the report, for alerts and for metrics.

A restore begins when a session's reason becomes `restoring`. It ends with the first other reason.
Source of the same lists in SQL: migrations/0007_status_report.sql.
"""

from enum import StrEnum

from crm_whatsapp.domain.connection import Reason


class RestoreOutcome(StrEnum):
    """How a restore ended."""

    SUCCEEDED = "succeeded"  # connected
    FAILED = "failed"  # anything that WhatsApp, the network or the machine did to it
    CANCELLED = "cancelled"  # a person or a stop of the service came in between: counts as neither


CANCELLING = frozenset(
    {
        Reason.NEVER_CONNECTED,
        Reason.STOPPED,
        Reason.PREPARING_PAIRING,
        Reason.PAIRING,
        Reason.FINISHING_PAIRING,
        Reason.LOGGED_OUT_BY_USER,
        Reason.PAIRING_EXPIRED,
        Reason.PAIRING_FAILED,
        Reason.HELD_ELSEWHERE,
        Reason.LOGGING_OUT,
        Reason.SERVICE_STOPPED,
    }
)
"""The reasons that end a restore without an outcome."""

UNWANTED = CANCELLING - {Reason.HELD_ELSEWHERE, Reason.SERVICE_STOPPED}
"""The reasons during which nobody expects the session to be connected."""


def outcome_of(reason: Reason) -> RestoreOutcome | None:
    """Return how a restore has ended that was followed by this reason; None: it goes on."""
    if reason is Reason.RESTORING:
        return None
    if reason is Reason.ONLINE:
        return RestoreOutcome.SUCCEEDED
    return RestoreOutcome.CANCELLED if reason in CANCELLING else RestoreOutcome.FAILED
