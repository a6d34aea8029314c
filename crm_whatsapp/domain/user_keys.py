"""What is said of the keys that user tokens are signed with."""

from typing import Protocol

from crm_whatsapp.domain.errors import CrmWhatsappError


class SigningKeysUnknown(CrmWhatsappError):
    """The keys that user tokens are signed with cannot be read; try again in a moment."""

    code = "user-keys-unknown"


class KeysUnreadable(Exception):
    """The list of keys could not be read. The message says why."""


class KeyListReader(Protocol):
    """Where the list is."""

    def read(self) -> bytes:
        """Return the JWKS document; raises KeysUnreadable."""
