"""Makes, lists and ends API keys."""

import logging
from dataclasses import replace
from datetime import datetime

from crm_whatsapp.domain.api_keys import ApiKey, KeyUnknown, Scope, new_key_text
from crm_whatsapp.domain.errors import InvalidInput, WrongState
from crm_whatsapp.domain.ports import Clock
from crm_whatsapp.service.api_key_seal import KeySeal
from crm_whatsapp.service.api_keys import ApiKeyRing

_LOG = logging.getLogger(__name__)

_MOST_PER_COMPANY = 50
_MOST = 10_000


class TooManyKeys(WrongState):
    """There are too many keys. Revoke some first."""

    code = "too-many-keys"


class ApiKeyDesk:
    """What the API and the command line ask of keys."""

    def __init__(self, ring: ApiKeyRing, seal: KeySeal, clock: Clock) -> None:
        self._ring = ring
        self._seal = seal
        self._clock = clock

    def create(
        self,
        *,
        name: str,
        company_id: str | None,
        scopes: frozenset[Scope],
        expires_at: datetime | None,
        created_by: str,
    ) -> tuple[ApiKey, str]:
        """Make a key; return it with its text, which is kept nowhere.

        Raises:
            InvalidInput: it opens nothing, or has expired.
            TooManyKeys, StoreUnavailable, StoreRejected, ServiceBusy.
        """
        now = self._clock.now()
        if not scopes:
            raise InvalidInput("scopes must name one or more.", field="scopes")
        if expires_at is not None and expires_at <= now:
            raise InvalidInput("expires_at must be in the future.", field="expires_at")
        self._check_room(company_id, now)
        key_id, text = new_key_text()
        key = ApiKey(
            id=key_id,
            name=name.encode("utf-8", "replace").decode(),
            company_id=company_id,
            scopes=scopes,
            pepper_id=self._seal.first_id,
            mac="",
            created_at=now,
            created_by=created_by,
            # Whole seconds: what the hash covers must survive the database.
            expires_at=None if expires_at is None else expires_at.replace(microsecond=0),
        )
        key = replace(key, mac=self._seal.mac(key, text))
        self._ring.add(key)
        _LOG.info("API key %s of %s was made by %s", key.id, company_id or "all", created_by)
        return key, text

    def listing(self, company_id: str | None) -> list[ApiKey]:
        """Return the keys of a company, of everybody when None; asks the database."""
        return self._ring.listing(company_id)

    def revoke(self, key_id: str, *, by: str, company_id: str | None) -> ApiKey:
        """End a key for good: here at once, in other pods with their next sync.

        Args:
            company_id: only a key of this company; None reaches all of them.

        Raises:
            KeyUnknown: there is none within reach. Otherwise as create.
        """
        if company_id is not None:
            own = {key.id for key in self._ring.listing(company_id)}
            if key_id not in own:
                raise KeyUnknown()
        revoked = self._ring.revoke(key_id, by)
        if revoked is None:
            raise KeyUnknown()
        _LOG.info("API key %s of %s was revoked by %s", key_id, revoked.company_id or "all", by)
        return revoked

    def _check_room(self, company_id: str | None, now: datetime) -> None:
        valid = [key for key in self._ring.keys() if key.is_valid(now)]
        own = sum(key.company_id == company_id for key in valid)
        if len(valid) >= _MOST or (company_id is not None and own >= _MOST_PER_COMPANY):
            raise TooManyKeys()
