"""The key-encryption keys of SNAPSHOT_ENCRYPTION_KEYS: the first encrypts, all decrypt.

    SNAPSHOT_ENCRYPTION_KEYS="2026b:<base64 of 32 bytes>,2026a:<base64 of 32 bytes>"

No message and no repr ever carries a key: an entry that is refused is named by its position.
"""

import base64
import binascii
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from crm_whatsapp.domain.errors import ConfigurationError
from crm_whatsapp.domain.snapshots import KeyMissing

KEY_BYTES = 32

_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")
_URLSAFE_TO_STANDARD = str.maketrans("-_", "+/")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptionKey:
    """A key that encrypts data keys. secret: 32 bytes."""

    key_id: str
    secret: bytes = field(repr=False)


class KeyRing:
    """The configured keys."""

    def __init__(self, keys: Sequence[EncryptionKey]) -> None:
        """Use these keys, the first for encryption.

        Raises:
            ConfigurationError: there is none, an id is malformed or there twice, or a key has
                not 32 bytes.
        """
        if not keys:
            raise ConfigurationError("SNAPSHOT_ENCRYPTION_KEYS holds no key.")
        self._keys: dict[str, EncryptionKey] = {}
        for position, key in enumerate(keys, 1):
            if not _KEY_ID.fullmatch(key.key_id):
                raise _refused(position, "needs an id of 1 to 32 letters, digits, - or _")
            if len(key.secret) != KEY_BYTES:
                raise _refused(position, f"has a key of {len(key.secret)} bytes, not {KEY_BYTES}")
            if key.key_id in self._keys:
                raise _refused(position, f"has the id {key.key_id}, which an earlier one has too")
            self._keys[key.key_id] = key
        self._first = keys[0]

    @classmethod
    def parse(cls, text: str) -> "KeyRing":
        """Read "id1:base64,id2:base64"; standard and URL-safe base64, with padding or without.

        Raises:
            ConfigurationError: says which entry is wrong, and how; never shows it.
        """
        if not text.strip():
            return cls(())
        entries = text.split(",")
        return cls([_parse_entry(entry, place) for place, entry in enumerate(entries, 1)])

    @property
    def first(self) -> EncryptionKey:
        """The key that encrypts."""
        return self._first

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids in the order of the configuration."""
        return tuple(self._keys)

    def find(self, key_id: str) -> EncryptionKey:
        """Return the key.

        Raises:
            KeyMissing: it is not configured.
        """
        key = self._keys.get(key_id)
        if key is None:
            raise KeyMissing(
                f"This snapshot was encrypted with the key {key_id[:32]!r}, which is not in "
                f"SNAPSHOT_ENCRYPTION_KEYS (there: {', '.join(self._keys)}).",
                key_id=key_id,
            )
        return key

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self._keys)})"


def generate_key_entry(key_id: str | None = None) -> str:
    """Return a fresh "id:base64" entry for SNAPSHOT_ENCRYPTION_KEYS.

    Raises:
        ConfigurationError: the id is malformed.
    """
    chosen = f"k{secrets.token_hex(4)}" if key_id is None else key_id
    ring = KeyRing([EncryptionKey(key_id=chosen, secret=secrets.token_bytes(KEY_BYTES))])
    return f"{chosen}:{base64.b64encode(ring.first.secret).decode()}"


def _parse_entry(entry: str, position: int) -> EncryptionKey:
    key_id, colon, encoded = entry.strip().partition(":")
    if not colon:
        raise _refused(position, "is not of the form id:base64key")
    standard = encoded.strip().rstrip("=").translate(_URLSAFE_TO_STANDARD)
    padding = "=" * (-len(standard) % 4)
    try:
        secret = base64.b64decode(standard + padding, validate=True)
    except (binascii.Error, ValueError):
        # Not chained: a traceback with local variables would show the key.
        raise _refused(position, "has a key that is not base64") from None
    return EncryptionKey(key_id=key_id.strip(), secret=secret)


def _refused(position: int, why: str) -> ConfigurationError:
    return ConfigurationError(f"Entry {position} of SNAPSHOT_ENCRYPTION_KEYS {why}.")
