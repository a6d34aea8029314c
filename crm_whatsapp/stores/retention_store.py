"""Removal of what is old in Supabase."""

from typing import Any

from supabase import Client

from crm_whatsapp.domain.errors import StoreRejected
from crm_whatsapp.domain.webhooks import DeliveryState
from crm_whatsapp.stores.supabase_client import DatabaseCalls


class SupabaseRetentionStore:
    """The RetentionStore on PostgREST."""

    def __init__(self, client: Client) -> None:
        self._calls = DatabaseCalls(client)

    def trim_status_events(self, older_than_seconds: float, limit: int) -> int:
        """Remove up to `limit` old transitions; the newest of each company stays.

        Args:
            older_than_seconds: on the database clock, since they were recorded; 86,400 or more.
            limit: 1 to 10,000.

        Source:
            migrations: whatsapp_trim_status_events_v1.
        """
        params = {"p_older_than_seconds": older_than_seconds, "p_limit": limit}
        return self._count("whatsapp_trim_status_events_v1", params)

    def trim_deliveries(self, state: DeliveryState, older_than_seconds: float, limit: int) -> int:
        """Remove up to `limit` old deliveries in this state, DELIVERED or PARKED.

        Source:
            migrations: whatsapp_trim_deliveries_v1.
        """
        params = {
            "p_state": state.value,
            "p_older_than_seconds": older_than_seconds,
            "p_limit": limit,
        }
        return self._count("whatsapp_trim_deliveries_v1", params)

    def _count(self, function: str, params: dict[str, Any]) -> int:
        answer = self._calls.repeatable(function, params)
        if not isinstance(answer, int):
            raise StoreRejected(f"{function} gave something else than a number: {answer!r}.")
        return answer
