"""Small files that are whole or absent, whatever happens to the process or the power."""

import errno
import os
from pathlib import Path

from crm_whatsapp.domain.errors import StorageError


def write_durably(path: Path, content: bytes) -> None:
    """Replace the file by one rename, synced to disk, mode 0600.

    The temporary file has a fixed name, so that a killed writer leaves at most one behind; callers
    see to it that one file has one writer at a time.

    Raises:
        StorageError: the disk refuses; the file is as it was.
    """
    _replace(path, content, synced=True)


def write_whole(path: Path, content: bytes) -> None:
    """Replace the file like write_durably, but leave it to the kernel when it is on the disk.

    After a power cut it may be what it was before, or damaged.
    """
    _replace(path, content, synced=False)


def _replace(path: Path, content: bytes, *, synced: bool) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        try:
            _write_new(temporary, content, synced=synced)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if synced:
            sync_folder(path.parent)
    except OSError as exc:
        raise refused("write", path, exc) from exc


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """Return the content, cut after most_bytes + 1; links, devices and pipes are refused.

    Raises:
        FileNotFoundError: there is no such file.
        NotAPlainFile: something else has that name.
        OSError: it cannot be read.
    """
    with os.fdopen(open_plain(path), "rb") as file:
        return file.read(most_bytes + 1)


def open_plain(path: Path) -> int:
    """Return a descriptor to read the file by. Raises as read_bounded."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.ENXIO):
            raise NotAPlainFile(f"{path.name} is not a regular file") from exc
        raise
    if not is_plain(os.fstat(descriptor)):
        os.close(descriptor)
        raise NotAPlainFile(f"{path.name} is not a regular file")
    return descriptor


class NotAPlainFile(Exception):
    """A link, folder, pipe or device stands where a regular file belongs."""


def is_plain(status: os.stat_result) -> bool:
    """Tell whether it is a regular file."""
    return status.st_mode & 0o170000 == 0o100000


def sync_folder(folder: Path) -> None:
    """Make renames and removals in the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refused(action: str, path: Path, exc: OSError) -> StorageError:
    """Return the StorageError that says what the disk refused, and why."""
    return StorageError(f"Cannot {action} {path}: {exc.strerror or exc}.", errno=exc.errno)


def _write_new(path: Path, content: bytes, *, synced: bool) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        if synced:
            os.fsync(file.fileno())
