"""What API keys leave in SESSIONS_DIR: the pepper where none is set, and the keys last known."""

import os
import re
import secrets
from pathlib import Path

from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.sessions.durable_file import (
    NotAPlainFile,
    read_bounded,
    refused,
    sync_folder,
    write_durably,
)

_MOST_PEPPER_BYTES = 4096
_MOST_BOOK_BYTES = 32 * 1024 * 1024
_USABLE_PEPPER = re.compile(r"[\x21-\x7e]{32,512}")


def load_pepper(root: Path) -> str:
    """Return the pepper in SESSIONS_DIR/api-key-pepper; it is made when missing.

    Safe for two processes at a time: the first one's stays. A damaged one is never replaced, since
    every key would end with it.

    Raises:
        StorageError: the disk refuses, or something else is in the file.
    """
    path = root / "api-key-pepper"
    found = _find_pepper(path)
    if found is not None:
        return found
    draft = root / f".api-key-pepper.{secrets.token_hex(8)}"
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(f"{secrets.token_urlsafe(48)}\n")
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(draft, path)
            except FileExistsError:
                pass  # another process was quicker, and its pepper is read below
        finally:
            draft.unlink(missing_ok=True)
        sync_folder(root)
    except OSError as exc:
        raise refused("write", path, exc) from exc
    made = _find_pepper(path)
    if made is None:
        raise StorageError(f"{path} was removed while it was made.")
    return made


def _find_pepper(path: Path) -> str | None:
    try:
        content = read_bounded(path, _MOST_PEPPER_BYTES).decode("ascii", "replace").strip()
        path.chmod(0o600)
    except FileNotFoundError:
        return None
    except NotAPlainFile as exc:
        raise StorageError(f"{path}: {exc}.") from exc
    except OSError as exc:
        raise refused("read", path, exc) from exc
    if not _USABLE_PEPPER.fullmatch(content):
        raise StorageError(
            f"{path} holds no pepper (32 to 512 visible characters). Put it back from a backup; "
            "or remove it, and make every API key anew."
        )
    return content


class KeyBookFile:
    """The keys as they were last known: SESSIONS_DIR/api-keys.json, hashes only, mode 0600."""

    def __init__(self, root: Path) -> None:
        self._path = root / "api-keys.json"

    def find(self) -> str | None:
        """Return the text; None when there is none, or it cannot be used.

        Raises:
            StorageError: the disk refuses.
        """
        try:
            raw = read_bounded(self._path, _MOST_BOOK_BYTES)
        except (FileNotFoundError, NotAPlainFile):
            return None
        except OSError as exc:
            raise refused("read", self._path, exc) from exc
        return raw.decode("utf-8", "replace") if len(raw) <= _MOST_BOOK_BYTES else None

    def keep(self, text: str) -> None:
        """Replace it durably. Raises StorageError."""
        write_durably(self._path, text.encode())
