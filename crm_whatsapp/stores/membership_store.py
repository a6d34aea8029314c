"""Memberships in Supabase: what the CRM's own function says."""

from supabase import Client

from crm_whatsapp.domain.memberships import MembershipAnswer, read_memberships
from crm_whatsapp.stores.supabase_client import DatabaseCalls


class SupabaseMembershipStore:
    """The MembershipStore on PostgREST."""

    def __init__(self, client: Client) -> None:
        self._calls = DatabaseCalls(client)

    def read(self, user_id: str | None) -> MembershipAnswer:
        """Return the companies of a user; None asks for the source alone.

        Source:
            migrations: whatsapp_memberships_v1.
        """
        answer = self._calls.repeatable("whatsapp_memberships_v1", {"p_user_id": user_id})
        return read_memberships(answer)
