"""A process that writes a store as a client does, its kill, and a look at what it left."""

import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from crm_whatsapp.sessions import device_row as store
from crm_whatsapp.sessions.store_content import content_of, is_whole, open_in_memory
from crm_whatsapp.sessions.store_pages import StorePages

WRITER = Path(__file__).with_name("store_writer.py")
FILES = ("store.db", "store.db-wal", "store.db-shm", "store.pages")
UNKNOWN = "unknown"
"""The verdict where nobody can tell."""


class WritingClient:
    """Writes so many random transactions as it is told."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._unanswered = 0

    def order(self, transactions: int) -> None:
        """Let it write, without waiting for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{transactions}\n")
        self._process.stdin.flush()
        self._unanswered += 1

    def write(self, transactions: int) -> None:
        """Let it write, and wait until everything ordered is written."""
        self.order(transactions)
        self.await_written()

    def await_written(self) -> None:
        """Wait until everything ordered is written."""
        assert self._process.stdout is not None
        while self._unanswered:
            assert self._process.stdout.readline() == "done\n"
            self._unanswered -= 1

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait()


@contextmanager
def writing(path: Path, *, seed: int, checkpoint_frames: int = 1000) -> Iterator[WritingClient]:
    """Run a client on the store; it is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-I", str(WRITER), str(path), str(seed), str(checkpoint_frames)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield WritingClient(process)
    finally:
        process.kill()
        process.communicate(timeout=30)


def new_store(session: Path) -> Path:
    """Make an empty store in WAL mode, closed."""
    session.mkdir(parents=True)
    path = session / store.FILE_NAME
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("pragma journal_mode = wal")
        db.execute("create table made (at)")
    return path


def verdict(session: Path, pages: StorePages | None = None) -> str | None:
    """Return what a start would say of the store; None when it is whole, or UNKNOWN."""
    used = pages or StorePages()
    with used.turn(session):
        check = used.begin_check(session)
        if check is None:
            return UNKNOWN
        if check.damage is not None:
            return check.damage
        try:
            content = store.read_store(session / store.FILE_NAME, checked_content)
        except store.StoreCorrupt as damage:
            return str(damage)
        check.take(content)
        return check.judge() or (UNKNOWN if check.trail is None else None)


def checked_content(db: sqlite3.Connection) -> bytes:
    """Return the content of an open store that SQLite finds no fault in."""
    content = content_of(db)
    assert content is not None
    with closing(open_in_memory(content)) as memory:
        if not is_whole(memory):
            raise store.StoreCorrupt("its check failed")
    return content


def logical_content(session: Path) -> bytes | None:
    """Return what SQLite reads, None when it cannot."""
    try:
        return store.read_store(session / store.FILE_NAME, content_of)
    except store.StoreCorrupt:
        return None


class Preserved:
    """The files of a session as they are now, to be put back as often as is wanted."""

    def __init__(self, session: Path) -> None:
        self._session = session
        self.files = {
            name: (session / name).read_bytes() for name in FILES if (session / name).exists()
        }

    def put_back(self) -> None:
        """Write them into the same files, which keep their identity."""
        for name in FILES:
            path = self._session / name
            if name not in self.files:
                path.unlink(missing_ok=True)
                continue
            with path.open("r+b" if path.exists() else "wb") as file:
                file.truncate(len(self.files[name]))
                file.write(self.files[name])

    def flip(self, name: str, bit: int) -> None:
        """Put them back with one bit changed."""
        self.put_back()
        flip(self._session / name, bit)


def flip(path: Path, bit: int) -> None:
    """Change one bit of a file in place."""
    with path.open("r+b") as file:
        file.seek(bit // 8)
        (byte,) = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def new_seed(given: str | None) -> int:
    """Return the seed that is asked for, or a new one."""
    return int(given) if given else random.SystemRandom().randrange(10**9)
