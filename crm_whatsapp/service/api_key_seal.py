"""The keyed hashes of API keys.

The hash covers the key and what it opens, so that a row can be neither made up nor widened by
somebody who can write the table: without the pepper there is no hash that fits.
"""

import hashlib
import hmac
import json
from collections.abc import Sequence

from crm_whatsapp.domain.api_keys import ApiKey
from crm_whatsapp.domain.errors import ConfigurationError

_FEWEST_CHARACTERS = 32
_MAC_INFO = b"crm-whatsapp/api-key/mac/1"
_ID_INFO = b"crm-whatsapp/api-key/pepper-id/1"
_FORM = "crm-whatsapp/api-key/1"


class KeySeal:
    """Makes and checks the hashes. The first pepper makes them, all of them check."""

    def __init__(self, peppers: Sequence[str]) -> None:
        """Use these peppers.

        Raises:
            ConfigurationError: there is none, or one is too short; none is ever shown.
        """
        if not peppers:
            raise ConfigurationError("API_KEY_PEPPER holds nothing")
        self._secrets: dict[str, bytes] = {}
        for place, pepper in enumerate(peppers, 1):
            if len(pepper) < _FEWEST_CHARACTERS:
                raise ConfigurationError(
                    f"entry {place} of API_KEY_PEPPER has {len(pepper)} characters, "
                    f"not {_FEWEST_CHARACTERS} or more"
                )
            raw = pepper.encode()
            pepper_id = hmac.digest(raw, _ID_INFO, "sha256").hex()[:8]
            # A pepper is long and random: one HMAC with a label derives a key (RFC 5869, 3.3).
            self._secrets[pepper_id] = hmac.digest(raw, _MAC_INFO, "sha256")
        self.first_id = next(iter(self._secrets))

    @classmethod
    def parse(cls, text: str) -> "KeySeal":
        """Read the peppers of API_KEY_PEPPER, separated by commas. Raises ConfigurationError."""
        return cls([part.strip() for part in text.split(",")])

    def knows(self, pepper_id: str) -> bool:
        """Tell whether hashes of this pepper can be checked."""
        return pepper_id in self._secrets

    def mac(self, key: ApiKey, text: str) -> str:
        """Return the hash of a key for what `key` says it opens; its own hash is not looked at."""
        secret = self._secrets.get(key.pepper_id) or self._secrets[self.first_id]
        expires_at = None if key.expires_at is None else int(key.expires_at.timestamp())
        covered = [_FORM, key.id, key.company_id, sorted(key.scopes), expires_at, text]
        return hmac.new(secret, json.dumps(covered).encode(), hashlib.sha256).hexdigest()

    def fits(self, key: ApiKey, text: str) -> bool:
        """Tell, in a time that does not depend on the answer, whether this is the text of `key`."""
        return hmac.compare_digest(self.mac(key, text), key.mac) and self.knows(key.pepper_id)

    def __repr__(self) -> str:
        return f"KeySeal({', '.join(self._secrets)})"
