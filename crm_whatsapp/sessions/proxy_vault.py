"""Each company's proxy, encrypted: SESSIONS_DIR/.proxies/<company_id>.

Fernet (AES-128-CBC with HMAC-SHA256) under a key of this folder, SESSIONS_DIR/.proxies/key, so
that a copied session folder or a stray backup of one file carries no readable proxy password.
"""

from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from crm_whatsapp.domain.company import parse_company_id
from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.sessions.durable_file import (
    NotAPlainFile,
    read_bounded,
    refused,
    write_durably,
)

_MOST_BYTES = 8192


class EncryptedProxyVault:
    """The ProxyVault of the service."""

    def __init__(self, root: Path) -> None:
        self._folder = root / ".proxies"

    def put(self, company_id: str, url: str) -> None:
        """Keep the proxy of a company."""
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as exc:
            raise refused("make", self._folder, exc) from exc
        write_durably(self._path(company_id), self._cipher().encrypt(url.encode()))

    def find(self, company_id: str) -> str | None:
        """Return the proxy, None when the company has none."""
        path = self._path(company_id)
        content = _read(path)
        if content is None:
            return None
        try:
            return self._cipher().decrypt(content).decode()
        except (InvalidToken, UnicodeDecodeError) as exc:
            raise StorageError(
                f"{path} cannot be decrypted. Connect again with `proxy` to replace it."
            ) from exc

    def remove(self, company_id: str) -> None:
        """Forget it; no error when there is none."""
        path = self._path(company_id)
        try:
            path.unlink(missing_ok=True)
        except OSError as exc:
            raise refused("remove", path, exc) from exc

    def _path(self, company_id: str) -> Path:
        return self._folder / parse_company_id(company_id)

    def _cipher(self) -> Fernet:
        path = self._folder / "key"
        key = _read(path)
        if key is None:
            key = Fernet.generate_key()
            write_durably(path, key)
        try:
            return Fernet(key)
        except ValueError as exc:
            raise StorageError(f"{path} is not a key any more.") from exc


def _read(path: Path) -> bytes | None:
    try:
        return read_bounded(path, _MOST_BYTES)
    except FileNotFoundError:
        return None
    except NotAPlainFile as exc:
        raise StorageError(f"{path}: {exc}.") from exc
    except OSError as exc:
        raise refused("read", path, exc) from exc
