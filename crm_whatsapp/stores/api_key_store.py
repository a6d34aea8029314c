"""API keys in Supabase."""

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from supabase import Client

from crm_whatsapp.domain.api_keys import ApiKey, KeyBook, read_api_key, write_api_key
from crm_whatsapp.domain.errors import InvalidInput, StoreRejected
from crm_whatsapp.stores.connection_record import clean_text
from crm_whatsapp.stores.database_errors import translated
from crm_whatsapp.stores.supabase_client import DatabaseCalls

_LOG = logging.getLogger(__name__)


class SupabaseApiKeyStore:
    """The ApiKeyStore on PostgREST. A key that this release cannot read is logged and left out."""

    def __init__(self, client: Client) -> None:
        self._calls = DatabaseCalls(client)

    def sync(self, used: Mapping[str, datetime], known: str | None) -> KeyBook:
        """Note when keys were used; return those that are valid, or were until a day ago.

        Source:
            migrations: whatsapp_sync_api_keys_v1.
        """
        params = {
            "p_used": {key_id: at.astimezone(UTC).isoformat() for key_id, at in used.items()},
            "p_known": known,
        }
        answer = self._calls.repeatable("whatsapp_sync_api_keys_v1", params)
        if not isinstance(answer, dict) or not isinstance(answer.get("fingerprint"), str):
            raise StoreRejected("The database gave an unknown answer about keys.")
        keys = answer.get("keys")
        return KeyBook(
            fingerprint=answer["fingerprint"], keys=None if keys is None else _readable(keys)
        )

    def listing(self, company_id: str | None) -> list[ApiKey]:
        """Return the keys of a company, of everybody when None, the newest first."""
        params = {"p_company_id": company_id}
        return _readable(self._calls.repeatable("whatsapp_list_api_keys_v1", params))

    def add(self, key: ApiKey) -> None:
        """Insert a key; one with its id stays as it is, so that this is safe to repeat."""
        row = write_api_key(key)
        row["name"] = clean_text(key.name)

        def insert() -> None:
            table = self._calls.client.table("whatsapp_api_keys")
            with translated():
                table.upsert(row, ignore_duplicates=True).execute()

        self._calls.repeat(insert)

    def revoke(self, key_id: str, by: str) -> ApiKey | None:
        """End a key for good and return it; None when there is none. Safe to repeat."""
        params = {"p_id": key_id, "p_by": by}
        row = self._calls.repeatable("whatsapp_revoke_api_key_v1", params)
        return None if row is None else _read(row)


def _read(row: Any) -> ApiKey:
    if not isinstance(row, dict):
        raise StoreRejected("The database gave an unknown answer about keys.")
    try:
        return read_api_key(row)
    except InvalidInput as exc:
        raise StoreRejected("The database gave a key that this release cannot read.") from exc


def _readable(rows: Any) -> list[ApiKey]:
    if not isinstance(rows, Sequence) or not all(isinstance(row, dict) for row in rows):
        raise StoreRejected("The database gave an unknown answer about keys.")
    found = []
    for row in rows:
        try:
            found.append(read_api_key(row))
        except InvalidInput as exc:
            _LOG.warning("Key %s is left out: %s", row.get("id"), exc.message)
    return found
