"""API keys in memory, with the promises of the database."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from crm_whatsapp.domain.api_keys import ApiKey, ApiKeyStore, KeyBook


class FakeApiKeyStore(ApiKeyStore):
    """Counts its calls; `failure` is raised by each until it is cleared."""

    def __init__(self) -> None:
        self.rows: dict[str, ApiKey] = {}
        self.failure: Exception | None = None
        self.syncs = 0
        self.calls = 0
        self.used: list[Mapping[str, datetime]] = []

    def _called(self) -> datetime:
        self.calls += 1
        if self.failure is not None:
            raise self.failure
        return datetime.now(UTC)

    def sync(self, used: Mapping[str, datetime], known: str | None) -> KeyBook:
        self.syncs += 1
        yesterday = self._called() - timedelta(days=1)
        self.used.append(used)
        for key_id, at in used.items():
            if key_id in self.rows:
                row = self.rows[key_id]
                last = max(row.last_used_at or at, at)
                self.rows[key_id] = replace(row, last_used_at=last)
        keys = [
            key
            for key in self.rows.values()
            if (key.revoked_at or datetime.max.replace(tzinfo=UTC)) > yesterday
            and (key.expires_at or datetime.max.replace(tzinfo=UTC)) > yesterday
        ]
        fingerprint = repr(sorted((key.id, key.mac, key.revoked_at is None) for key in keys))
        return KeyBook(fingerprint=fingerprint, keys=None if fingerprint == known else keys)

    def listing(self, company_id: str | None) -> list[ApiKey]:
        self._called()
        found = [key for key in self.rows.values() if company_id in (None, key.company_id)]
        return sorted(found, key=lambda key: key.created_at, reverse=True)

    def add(self, key: ApiKey) -> None:
        self._called()
        self.rows.setdefault(key.id, key)

    def revoke(self, key_id: str, by: str) -> ApiKey | None:
        now = self._called()
        key = self.rows.get(key_id)
        if key is None:
            return None
        if key.revoked_at is None:
            self.rows[key_id] = key = replace(key, revoked_at=now, revoked_by=by)
        return key
