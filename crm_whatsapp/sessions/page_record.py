"""What each page of a store must hold: session-<id>/store.pages.

SQLite has no checksums in store.db: a bit that flips inside a value passes every check of its own.
The record has a hash of every page, as of a position in the write-ahead log. Between records the
log itself tells which pages have changed (page_trail.py).

Format: a line of text, a line of JSON, 16 bytes for each page, and 32 bytes of hash over all of it.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crm_whatsapp.sessions.durable_file import (
    NotAPlainFile,
    read_bounded,
    refused,
    write_durably,
    write_whole,
)
from crm_whatsapp.sessions.write_ahead_log import HASH_BYTES, Position, hash_of

FILE_NAME = "store.pages"
UNKNOWN = bytes(HASH_BYTES)
"""In place of the hash of a page of which nothing is known."""

_TITLE = b"crm_whatsapp pages 1\n"
_SUM_BYTES = 32
_MOST_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRecord:
    """The store as it is with the log up to a position folded in.

    hashes: 16 bytes a page, in order.
    position: None when there was no log.
    closed: no client has had the store since, so without a log the file holds exactly this.
    place: the boot and the file it was written for. In another place what a writer left in memory
        may be missing: after a power cut, or in a copy.
    """

    page_size: int
    hashes: bytes
    position: Position | None
    closed: bool
    place: str

    @property
    def pages(self) -> int:
        """How many pages the store has."""
        return len(self.hashes) // HASH_BYTES

    def hash_of_page(self, number: int) -> bytes:
        """Return the hash of a page, counted from 1."""
        return self.hashes[(number - 1) * HASH_BYTES : number * HASH_BYTES]


def hashes_of(content: bytes, page_size: int) -> bytes:
    """Return the hashes of all pages of a database."""
    return b"".join(map(hash_of, pages_of(content, page_size)))


def pages_of(content: bytes, page_size: int) -> Iterator[memoryview]:
    """Yield the pages of a database."""
    view = memoryview(content)
    return (view[start : start + page_size] for start in range(0, len(view), page_size))


def read_record(session: Path) -> PageRecord | None:
    """Return the record; None when there is none, or none that is whole and of this release.

    Raises:
        OSError: it cannot be read.
    """
    try:
        raw = read_bounded(session / FILE_NAME, _MOST_BYTES)
    except (FileNotFoundError, NotAPlainFile):
        return None
    body = raw[:-_SUM_BYTES]
    if not body.startswith(_TITLE) or raw[-_SUM_BYTES:] != _sum_of(body):
        return None
    header, _, hashes = body[len(_TITLE) :].partition(b"\n")
    try:
        return _parsed(json.loads(header), hashes)
    except (ValueError, KeyError, TypeError):
        return None  # somebody has made it


def _parsed(header: dict[str, Any], hashes: bytes) -> PageRecord:
    position = None
    if (log := header["log"]) is not None:
        first, second = log["checksum"]
        position = Position(
            salts=bytes.fromhex(log["salts"]),
            frame=int(log["frame"]),
            checksum=(int(first), int(second)),
        )
    return PageRecord(
        page_size=int(header["page_size"]),
        hashes=hashes,
        position=position,
        closed=bool(header["closed"]),
        place=str(header["place"]),
    )


def write_record(session: Path, record: PageRecord, *, durably: bool = False) -> None:
    """Replace the record by one rename, mode 0600.

    Args:
        durably: it must be on the disk before the store is changed.
    Raises:
        StorageError: the disk refuses; the earlier record is as it was.
    """
    at = record.position
    log = at and {"salts": at.salts.hex(), "frame": at.frame, "checksum": at.checksum}
    header = {
        "page_size": record.page_size,
        "log": log,
        "closed": record.closed,
        "place": record.place,
    }
    body = b"".join((_TITLE, json.dumps(header).encode(), b"\n", record.hashes))
    write = write_durably if durably else write_whole
    write(session / FILE_NAME, body + _sum_of(body))


def remove_record(session: Path) -> None:
    """Remove the record; no error when there is none.

    Raises:
        StorageError: the disk refuses.
    """
    try:
        (session / FILE_NAME).unlink(missing_ok=True)
    except OSError as exc:
        raise refused("remove", session / FILE_NAME, exc) from exc


def _sum_of(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_SUM_BYTES).digest()
