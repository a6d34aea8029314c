"""Where signing secrets of webhooks are safe: sealed for the database, or in a file of their own.

Sealed: base64 of 12 bytes nonce and AES-256-GCM under a key of SNAPSHOT_ENCRYPTION_KEYS; the
additional data is "crm-whatsapp/webhook|<webhook id>|<key id>", so that no webhook can be given
the secret of another.
"""

import base64
import binascii
import re
from pathlib import Path

from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.domain.snapshots import KeyMissing, KeyRefused, SnapshotDamaged
from crm_whatsapp.domain.webhooks import SealedSecret
from crm_whatsapp.sessions.durable_file import (
    NotAPlainFile,
    read_bounded,
    refused,
    write_durably,
)
from crm_whatsapp.sessions.key_ring import KeyRing
from crm_whatsapp.sessions.snapshot_cipher import decrypt, encrypt

_MOST_BYTES = 4096
_USABLE = re.compile(r"whsec_[A-Za-z0-9+/]{32,88}={0,2}")


class KeyRingVault:
    """The SecretVault of the service; without a key ring it keeps secrets as they are."""

    def __init__(self, keys: KeyRing | None) -> None:
        self._keys = keys

    def seal(self, webhook_id: str, text: str) -> SealedSecret:
        """Encrypt with the first key."""
        if self._keys is None:
            return SealedSecret(key_id=None, value=text)
        key = self._keys.first
        sealed = encrypt(key.secret, text.encode(), _context(webhook_id, key.key_id))
        return SealedSecret(key_id=key.key_id, value=base64.b64encode(sealed).decode())

    def open(self, webhook_id: str, sealed: SealedSecret) -> str:
        """Return the text.

        Raises:
            KeyMissing: the key it was sealed under is not configured.
            KeyRefused: it was altered, or sealed for another webhook.
        """
        if sealed.key_id is None:
            return sealed.value
        if self._keys is None or sealed.key_id not in self._keys.key_ids:
            raise KeyMissing(
                f"The secret of this webhook was sealed under the key {sealed.key_id[:32]!r}, "
                "which is not in SNAPSHOT_ENCRYPTION_KEYS.",
                key_id=sealed.key_id,
            )
        key = self._keys.find(sealed.key_id)
        try:
            raw = base64.b64decode(sealed.value, validate=True)
            return decrypt(key.secret, raw, _context(webhook_id, key.key_id)).decode()
        except (binascii.Error, ValueError, SnapshotDamaged):
            # Not chained: nothing of a secret belongs into a traceback.
            raise KeyRefused(
                f"The key {key.key_id!r} does not open the secret of this webhook: it was "
                "altered, or sealed with another key of this name."
            ) from None

    def is_current(self, sealed: SealedSecret) -> bool:
        """Tell whether it is sealed the way `seal` would do it now."""
        return sealed.key_id == (self._keys.first.key_id if self._keys is not None else None)


class WebhookSecretFile:
    """The secret of WEBHOOK_URL where WEBHOOK_SECRET is not set: SESSIONS_DIR/webhook-secret."""

    def __init__(self, root: Path) -> None:
        self._path = root / "webhook-secret"

    @property
    def place(self) -> str:
        """Return the path."""
        return str(self._path)

    def find(self) -> str | None:
        """Return the secret and bring the file's mode back to 0600; None when there is none.

        Raises:
            StorageError: the disk refuses, or something else has that name.
        """
        try:
            content = read_bounded(self._path, _MOST_BYTES).decode("ascii", "replace").strip()
            self._path.chmod(0o600)
        except FileNotFoundError:
            return None
        except NotAPlainFile as exc:
            raise StorageError(f"{self._path}: {exc}.") from exc
        except OSError as exc:
            raise refused("read", self._path, exc) from exc
        if not _USABLE.fullmatch(content):
            raise StorageError(
                f"{self._path} holds no secret (whsec_ and base64): mend it, or remove it to have "
                "a new one made."
            )
        return content

    def keep(self, secret: str) -> None:
        """Write it durably, mode 0600."""
        write_durably(self._path, f"{secret}\n".encode())


def _context(webhook_id: str, key_id: str) -> bytes:
    return f"crm-whatsapp/webhook|{webhook_id}|{key_id}".encode()
