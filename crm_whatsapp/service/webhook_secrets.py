"""Signing secrets of webhooks, in the form of Standard Webhooks.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
(24 to 64 random bytes in base64, after whsec_; several signatures in one header while a secret is
being replaced).
"""

import base64
import binascii
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from crm_whatsapp.domain.errors import InvalidInput, StorageError
from crm_whatsapp.domain.webhooks import SealedSecret

PREFIX = "whsec_"

_MADE_BYTES = 32
_FEWEST_BYTES = 24
_MOST_BYTES = 64


class SecretVault(Protocol):
    """Seals secrets for the database."""

    def seal(self, webhook_id: str, text: str) -> SealedSecret:
        """Encrypt with the first key; without any key the text is kept as it is."""

    def open(self, webhook_id: str, sealed: SealedSecret) -> str:
        """Return the text.

        Raises:
            KeyMissing: the key it was sealed under is not configured.
            SnapshotDamaged: it was altered, or sealed for another webhook.
        """

    def is_current(self, sealed: SealedSecret) -> bool:
        """Tell whether it is sealed the way `seal` would do it now."""


class KeptSecret(Protocol):
    """The secret of WEBHOOK_URL where WEBHOOK_SECRET is not set."""

    @property
    def place(self) -> str:
        """Return where it is kept, for people."""

    def find(self) -> str | None:
        """Return it, None when there is none or it is not usable. Raises StorageError."""

    def keep(self, secret: str) -> None:
        """Write it durably, readable for the service alone. Raises StorageError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningSecrets:
    """The secret of a webhook and, for a while after a change, the one before it."""

    current: str = field(repr=False)
    previous: str | None = field(default=None, repr=False)
    previous_until: datetime | None = None

    def valid(self, now: datetime) -> tuple[str, ...]:
        """Return those to sign with, the newest first."""
        if self.previous is None or self.previous_until is None or now >= self.previous_until:
            return (self.current,)
        return (self.current, self.previous)

    def replaced(self, secret: str, previous_until: datetime) -> "SigningSecrets":
        """Return what is to be kept once `secret` takes over."""
        if secret == self.current:
            return self
        return SigningSecrets(current=secret, previous=self.current, previous_until=previous_until)

    def as_text(self) -> str:
        """Return it as one line, for sealing."""
        if self.previous is None or self.previous_until is None:
            return self.current
        return f"{self.current} {self.previous} {int(self.previous_until.timestamp())}"

    @classmethod
    def of_text(cls, text: str) -> "SigningSecrets":
        """Read what as_text returned.

        Raises:
            StorageError: it is not that.
        """
        words = text.split(" ")
        try:
            if len(words) == 3:
                until = datetime.fromtimestamp(int(words[2]), UTC)
                return cls(
                    current=check_secret(words[0]),
                    previous=check_secret(words[1]),
                    previous_until=until,
                )
            return cls(current=check_secret(text))
        except (InvalidInput, ValueError, OverflowError, OSError):
            # Not chained: a traceback with local variables would show the secret.
            raise StorageError("What is stored of this webhook is not a secret.") from None


def new_secret() -> str:
    """Return a fresh secret."""
    return PREFIX + base64.b64encode(secrets.token_bytes(_MADE_BYTES)).decode()


def check_secret(secret: str) -> str:
    """Return the secret.

    Raises:
        InvalidInput: it is not one of Standard Webhooks; it is never repeated.
    """
    encoded = secret.removeprefix(PREFIX).rstrip("=")
    try:
        decoded = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if not secret.startswith(PREFIX) or not _FEWEST_BYTES <= len(decoded) <= _MOST_BYTES:
        raise InvalidInput(
            f"secret must be {PREFIX} and the base64 of {_FEWEST_BYTES} to {_MOST_BYTES} random "
            "bytes; leave it out to have one made.",
            field="secret",
        )
    return secret
