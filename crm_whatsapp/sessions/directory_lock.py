"""The lock on SESSIONS_DIR: one service a folder.

The gunicorn master takes it. Its forked workers share the lock through the inherited descriptor, so
it outlives a killed master until the orphaned worker is gone too; programs started with exec
(engines) do not inherit it.
"""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from crm_whatsapp.domain.errors import ConfigurationError
from crm_whatsapp.sessions.durable_file import refused

_HELD = frozenset({errno.EWOULDBLOCK, errno.EACCES})
_LOOK_AGAIN_SECONDS = 0.1
_SAME_START_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Holder:
    """Who wrote the lock file; started_at: Unix time of the process, told apart from its heirs."""

    host: str
    pid: int
    started_at: float

    def lives(self) -> bool:
        """Tell whether that very process still runs on this host; a zombie does not."""
        if self.host != socket.gethostname():
            return False
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_at) < _SAME_START_SECONDS
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


class DirectoryLock:
    """A held lock; `release` or the end of every process that shares it lets it go."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor: int | None = descriptor
        self.path = path

    @classmethod
    def acquire(
        cls,
        root: Path,
        wait_for_orphan_seconds: float,
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> "DirectoryLock":
        """Take the lock, made with its folder when missing.

        Args:
            wait_for_orphan_seconds: how long to wait for the workers of a dead master, or for a
                service on another host that is being replaced.

        Raises:
            ConfigurationError: another service uses the folder, or it lies on a file system
                without locks.
            StorageError: the lock file cannot be made.
        """
        path = root / ".locks" / "service.lock"
        descriptor = _open(path)
        try:
            give_up_at = monotonic() + wait_for_orphan_seconds
            while not _try_lock(descriptor, path):
                holder = _read_holder(descriptor)
                if holder is not None and holder.lives():
                    raise ConfigurationError(_in_use(root, holder))
                if monotonic() >= give_up_at:
                    raise ConfigurationError(_still_in_use(root, holder, wait_for_orphan_seconds))
                sleep(_LOOK_AGAIN_SECONDS)
            _write_holder(descriptor, path)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor, path)

    def release(self) -> None:
        """Give up this process's share of the lock; the file stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise refused("open", path, exc) from exc


def _try_lock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno in _HELD:
            return False
        raise ConfigurationError(
            f"SESSIONS_DIR must lie on a file system with file locks; {path} cannot be locked: "
            f"{exc.strerror}."
        ) from exc
    return True


def _write_holder(descriptor: int, path: Path) -> None:
    own = psutil.Process()
    record = {"host": socket.gethostname(), "pid": own.pid, "started_at": own.create_time()}
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(record).encode(), 0)
    except OSError as exc:
        raise refused("write", path, exc) from exc


def _read_holder(descriptor: int) -> _Holder | None:
    """Return who wrote the file; None while it is being written, or when it is unreadable."""
    try:
        record = json.loads(os.pread(descriptor, 4096, 0))
        return _Holder(
            host=str(record["host"]),
            pid=int(record["pid"]),
            started_at=float(record["started_at"]),
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _in_use(root: Path, holder: _Holder) -> str:
    return (
        f"SESSIONS_DIR {root} is in use by another crm_whatsapp service (process {holder.pid}). "
        "Stop that one first, or give this one another SESSIONS_DIR."
    )


def _still_in_use(root: Path, holder: _Holder | None, waited_seconds: float) -> str:
    who = f"process {holder.pid} on {holder.host}" if holder else "an unknown process"
    return (
        f"SESSIONS_DIR {root} is still locked after {waited_seconds:g} s. It was taken by {who}, "
        "or by workers it left behind. Stop them, or give this service another SESSIONS_DIR."
    )
