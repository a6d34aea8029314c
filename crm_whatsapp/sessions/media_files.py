"""The files in which attachments wait until WhatsApp has taken them.

The engine is another process, so content passes through a file and not through its pipe. A killed
service leaves some behind; the next start removes them.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import BinaryIO

from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.domain.media import Content

_FOLDER = ".media"


class PassingFile:
    """A MediaFile on disk."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._path

    def write(self, chunk: bytes) -> None:
        """Append; raises StorageError."""
        try:
            self._file.write(chunk)
        except OSError as exc:
            raise _refused(exc) from exc

    @contextmanager
    def content(self) -> Iterator[Content]:
        """Map all that was written; raises StorageError."""
        try:
            self._file.flush()
            size = os.fstat(self._file.fileno()).st_size
            mapped = mmap(self._file.fileno(), size, access=ACCESS_READ) if size else None
        except OSError as exc:
            raise _refused(exc) from exc
        if mapped is None:
            yield b""
            return
        with mapped:
            yield mapped


class LocalMediaFiles:
    """The MediaFiles of this pod, in a folder of SESSIONS_DIR."""

    def __init__(self, root: Path) -> None:
        self._folder = root / _FOLDER

    def clear(self) -> None:
        """Make the folder, and remove what an earlier run left in it; raises StorageError."""
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            for left in self._folder.iterdir():
                left.unlink()
        except OSError as exc:
            raise _refused(exc) from exc

    @contextmanager
    def new(self) -> Iterator[PassingFile]:
        """Make a file, mode 0600, for as long as it is needed; raises StorageError."""
        path = self._folder / uuid.uuid4().hex
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.fdopen(os.open(path, flags, 0o600), "w+b")
        except OSError as exc:
            raise _refused(exc) from exc
        try:
            with file:
                yield PassingFile(path, file)
        finally:
            path.unlink(missing_ok=True)


def _refused(exc: OSError) -> StorageError:
    return StorageError(f"An attachment cannot be kept for sending: {exc.strerror or exc}.")
