"""API keys: what they look like, what they open, and what is kept of them.

A key reads `crmwa_<id>_<secret><checksum>`: 12 characters of base32 that name it and are not
secret, 43 of base62 (256 random bits), and the CRC-32 of all before it as 6 of base62. So a scanner
finds a leaked key by its look alone, and a mistyped one is refused without being looked up.
"""

import re
import secrets
import string
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

from crm_whatsapp.domain.company import parse_company_id
from crm_whatsapp.domain.errors import InvalidInput, NotFound, StoreUnavailable

PREFIX = "crmwa"

_ID_ALPHABET = string.ascii_lowercase + "234567"
_SECRET_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID_LENGTH = 12
_SECRET_LENGTH = 43
_CHECKSUM_LENGTH = 6
_LOOK = re.compile(
    rf"({PREFIX}_([a-z2-7]{{{_ID_LENGTH}}})_[0-9A-Za-z]{{{_SECRET_LENGTH}}})"
    rf"([0-9A-Za-z]{{{_CHECKSUM_LENGTH}}})"
)
_ID_LOOK = re.compile(rf"[a-z2-7]{{{_ID_LENGTH}}}")


class Scope(StrEnum):
    """What a caller may do."""

    READ = "read"  # status, lists, logs
    SEND = "send"  # messages
    MANAGE = "manage"  # connect, disconnect, QR and pairing codes, webhooks, keys


class KeyUnknown(NotFound):
    """There is no key with this id."""


class KeysUnknown(StoreUnavailable):
    """Which keys are valid is not known yet: the database cannot be reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as it is kept.

    Attributes:
        company_id: the only company within reach; None reaches all of them (a service key).
        pepper_id: names the pepper that mac was made with.
        mac: keyed hash over the key and what it opens, hex.
        created_by: `cli`, or the id of the principal who asked.
        expires_at: None is valid until it is revoked.
        last_used_at: some minutes late.
    """

    id: str
    name: str
    company_id: str | None
    scopes: frozenset[Scope]
    pepper_id: str
    mac: str = field(repr=False)
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    revoked_by: str | None = None
    last_used_at: datetime | None = None

    def is_valid(self, now: datetime) -> bool:
        """Tell whether it opens anything now."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyBook:
    """What a sync brought. keys: None when they are what the fingerprint says is known."""

    fingerprint: str
    keys: Sequence[ApiKey] | None


class ApiKeyStore(Protocol):
    """Where keys are kept. Every call raises StoreUnavailable or StoreRejected."""

    def sync(self, used: Mapping[str, datetime], known: str | None) -> KeyBook:
        """Note when keys were used; return those that are valid, or were until a day ago."""

    def listing(self, company_id: str | None) -> list[ApiKey]:
        """Return the keys of a company, of everybody when None, the newest first."""

    def add(self, key: ApiKey) -> None:
        """Insert a key; safe to repeat."""

    def revoke(self, key_id: str, by: str) -> ApiKey | None:
        """End a key for good and return it; None when there is none. Safe to repeat."""


def new_key_text() -> tuple[str, str]:
    """Return a fresh id, and the key with that id."""
    key_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))
    secret = "".join(secrets.choice(_SECRET_ALPHABET) for _ in range(_SECRET_LENGTH))
    body = f"{PREFIX}_{key_id}_{secret}"
    return key_id, body + _checksum(body)


def find_key_id(text: str) -> str | None:
    """Return the id in a key; None when it is no key: another look, or mistyped."""
    found = _LOOK.fullmatch(text)
    if found is None or _checksum(found[1]) != found[3]:
        return None
    return found[2]


def parse_key_id(raw: object) -> str:
    """Return the id.

    Raises:
        InvalidInput: it is none; it is not repeated.
    """
    if isinstance(raw, str) and _ID_LOOK.fullmatch(raw):
        return raw
    raise InvalidInput("key_id must be 12 lower-case letters and digits.", field="key_id")


def write_api_key(key: ApiKey) -> dict[str, Any]:
    """Return the row of a key."""
    return {
        "id": key.id,
        "name": key.name,
        "company_id": key.company_id,
        "scopes": sorted(key.scopes),
        "pepper_id": key.pepper_id,
        "mac": key.mac,
        "created_at": _text(key.created_at),
        "created_by": key.created_by,
        "expires_at": _text(key.expires_at),
        "revoked_at": _text(key.revoked_at),
        "revoked_by": key.revoked_by,
        "last_used_at": _text(key.last_used_at),
    }


def read_api_key(row: Mapping[str, Any]) -> ApiKey:
    """Read a row.

    Raises:
        InvalidInput: it is of another release, or damaged.
    """
    try:
        company_id = row["company_id"]
        created_at = _time(row["created_at"])
        if created_at is None:
            raise ValueError("a time is missing")
        return ApiKey(
            id=parse_key_id(row["id"]),
            name=str(row["name"]),
            company_id=None if company_id is None else parse_company_id(company_id),
            scopes=frozenset(Scope(scope) for scope in row["scopes"]),
            pepper_id=str(row["pepper_id"]),
            mac=str(row["mac"]),
            created_at=created_at,
            created_by=str(row["created_by"]),
            expires_at=_time(row["expires_at"]),
            revoked_at=_time(row["revoked_at"]),
            revoked_by=row["revoked_by"],
            last_used_at=_time(row["last_used_at"]),
        )
    except (KeyError, TypeError, ValueError, InvalidInput) as exc:
        raise InvalidInput(f"A key cannot be read: {type(exc).__name__}.") from exc


def _checksum(body: str) -> str:
    rest, digits = zlib.crc32(body.encode()), ""
    while rest:
        rest, digit = divmod(rest, len(_SECRET_ALPHABET))
        digits = _SECRET_ALPHABET[digit] + digits
    return digits.rjust(_CHECKSUM_LENGTH, _SECRET_ALPHABET[0])


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()


def _time(raw: object) -> datetime | None:
    if raw is None:
        return None
    if not isinstance(raw, str):
        raise TypeError("a time is not text")
    moment = datetime.fromisoformat(raw)
    if moment.tzinfo is None:
        raise ValueError("a time has no zone")
    return moment
