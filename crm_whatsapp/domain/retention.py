"""How long what is over is kept."""

from dataclasses import dataclass
from typing import Protocol

from crm_whatsapp.domain.webhooks import DeliveryState


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionTerms:
    """How long each is kept, in seconds; None keeps it for ever.

    Attributes:
        status_events_seconds: transitions in the history; a day at least.
        delivered_seconds: deliveries that a webhook took.
        parked_seconds: deliveries that were given up.
        logged_out_seconds: companies after their logout.
    """

    status_events_seconds: float | None
    delivered_seconds: float | None
    parked_seconds: float | None
    logged_out_seconds: float | None


class RetentionStore(Protocol):
    """Removal of what is old, a bounded number a call. Raises as ConnectionStore does."""

    def trim_status_events(self, older_than_seconds: float, limit: int) -> int:
        """Remove the oldest transitions, but the newest of each company; return how many went."""

    def trim_deliveries(self, state: DeliveryState, older_than_seconds: float, limit: int) -> int:
        """Remove deliveries that were settled so long ago; return how many went."""
