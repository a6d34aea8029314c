"""A write-ahead log, read as SQLite's recovery would read it, also while a client appends to it.

A log begins with a header whose two salts change whenever SQLite starts it over, from the front;
what it overwrites last, at the back, stays readable until then. Each frame is one page and carries
the salts and a checksum over all frames before it. A frame with a page count ends a transaction.

Reading and closing the log in this way is harmless: SQLite locks store.db and its index, `-shm`,
and never the log. The index must not be read while this process has the store open (POSIX locks).

Source:
    https://www.sqlite.org/fileformat2.html#the_write_ahead_log and
    https://www.sqlite.org/walformat.html; walIndexRecover and walRestartHdr in SQLite's wal.c.
"""

import hashlib
import os
import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crm_whatsapp.sessions.durable_file import NotAPlainFile, open_plain, read_bounded

HASH_BYTES = 16

_SUFFIX = "-wal"
_INDEX_SUFFIX = "-shm"
_MAGIC = 0x377F0682  # of checksums over little-endian words; one more: big-endian
_VERSION = 3007000
_HEADER = struct.Struct(">IIII8sII")
_FRAME = struct.Struct(">II8sII")
_HEADER_SUMMED_BYTES = 24
_FRAME_SUMMED_BYTES = 8
_INDEX_HEADER = struct.Struct("=IIIBBHIIII8sII")
_INDEX_SUMMED_BYTES = 40
_MASK = 0xFFFFFFFF
_NO_SALTS = bytes(8)  # until the end of a transaction that writes a frame twice
_READS = 3

Checksum = tuple[int, int]


class LogDamaged(Exception):
    """The log is not what was written; the text says how it shows."""


class LogMoved(Exception):
    """The log was started over while it was read; read it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """The end of a frame in one run of the log; frame 0 is the header.

    salts: of that run, 8 bytes. checksum: over everything up to here.
    """

    salts: bytes
    frame: int
    checksum: Checksum

    def precedes(self, salts: bytes) -> bool:
        """Tell whether a client that starts this run over goes on with such salts."""
        following = (int.from_bytes(self.salts[:4], "big") + 1) & _MASK
        return salts[:4] == following.to_bytes(4, "big")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogHeader:
    """sequence: counts how often its writer, one of several, has started the log over."""

    page_size: int
    sequence: int
    start: Position


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One transaction. pages: number and hash of each page, in order; total: of the database."""

    pages: Sequence[tuple[int, bytes]]
    total: int
    end: Position


class WriteAheadLog:
    """An open log; `open_log` makes one."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._native = True

    def header(self) -> LogHeader | None:
        """Return the header; None without a log, or before anything was written to it.

        Raises:
            LogDamaged: SQLite would take a log with this header for empty.
        """
        if self._descriptor is None:
            return None
        raw = b""
        for _ in range(_READS):  # it may be half written at the moment
            raw = os.pread(self._descriptor, _HEADER.size, 0)
            if len(raw) < _HEADER.size or not any(raw):
                return None
            header = self._parsed(raw)
            if header is not None:
                return header
        raise LogDamaged("the header of its log is damaged")

    def holds(self, position: Position) -> bool:
        """Tell whether this frame is still there, and ended the same content.

        Before the first transaction of a run its header may be written again, with another number.
        """
        if self._descriptor is None:
            return False
        if position.frame == 0:
            header = self.header()
            return header is not None and header.start.salts == position.salts
        offset = self._offset(position.frame, self._present_header().page_size)
        raw = os.pread(self._descriptor, _FRAME.size, offset)
        if len(raw) < _FRAME.size:
            return False
        _, _, salts, *checksum = _FRAME.unpack(raw)
        return (salts, tuple(checksum)) == (position.salts, position.checksum)

    def commits_after(self, position: Position) -> Iterator[Commit]:
        """Yield the whole transactions behind the position, in order; 0.07 ms a frame.

        A frame that does not belong there ends the log: it is torn, older, or damaged.
        """
        header = self._present_header()
        page_size = header.page_size
        if position.frame == 0 and position.salts == header.start.salts:
            position = header.start
        checksum, number = position.checksum, position.frame
        pages: list[tuple[int, bytes]] = []
        while frame := self._frame(number + 1, page_size):
            page, total, salts, *stored = _FRAME.unpack_from(frame)
            if salts != position.salts or page == 0:
                return
            checksum = self._summed(checksum, frame[:_FRAME_SUMMED_BYTES])
            checksum = self._summed(checksum, frame[_FRAME.size :])
            if checksum != tuple(stored):
                return
            number += 1
            pages.append((page, hash_of(frame[_FRAME.size :])))
            if total:
                end = Position(salts=salts, frame=number, checksum=checksum)
                yield Commit(pages=pages, total=total, end=end)
                pages = []

    def is_first_run(self) -> bool:
        """Tell whether the file was never started over: no frame in it is of another run."""
        header = self._present_header()
        if header.sequence != 0 or self._descriptor is None:
            return False
        offset = _HEADER.size
        while len(raw := os.pread(self._descriptor, _FRAME.size, offset)) == _FRAME.size:
            salts = _FRAME.unpack(raw)[2]
            if salts not in (header.start.salts, _NO_SALTS):
                return False
            offset += _FRAME.size + header.page_size
        return True

    def reaches(self, position: Position) -> bool:
        """Tell whether everything from the header to the position is as it was written."""
        header = self.header()
        if header is None or header.start.salts != position.salts:
            return False
        return position.frame == 0 or any(
            commit.end == position for commit in self.commits_after(header.start)
        )

    def _parsed(self, raw: bytes) -> LogHeader | None:
        magic, version, page_size, sequence, salts, *stored = _HEADER.unpack(raw)
        if magic & ~1 != _MAGIC or version != _VERSION:
            return None
        self._native = (magic & 1 == 1) == (sys.byteorder == "big")
        checksum = self._summed((0, 0), raw[:_HEADER_SUMMED_BYTES])
        if checksum != tuple(stored) or not _is_page_size(page_size):
            return None
        start = Position(salts=salts, frame=0, checksum=checksum)
        return LogHeader(page_size=page_size, sequence=sequence, start=start)

    def _present_header(self) -> LogHeader:
        header = self.header()
        if header is None:
            raise LogMoved
        return header

    def _frame(self, number: int, page_size: int) -> bytes | None:
        if self._descriptor is None:
            return None
        size = _FRAME.size + page_size
        raw = os.pread(self._descriptor, size, self._offset(number, page_size))
        return raw if len(raw) == size else None

    def _offset(self, number: int, page_size: int) -> int:
        return _HEADER.size + (number - 1) * (_FRAME.size + page_size)

    def _summed(self, checksum: Checksum, content: bytes) -> Checksum:
        words = array("I", content)
        if not self._native:
            words.byteswap()
        return _add(checksum, words)


@contextmanager
def open_log(store: Path) -> Iterator[WriteAheadLog]:
    """Open the log beside a store.

    Raises:
        LogDamaged: something else than a file has its name.
        OSError: it cannot be read.
    """
    try:
        descriptor = open_plain(store.with_name(store.name + _SUFFIX))
    except FileNotFoundError:
        yield WriteAheadLog(None)
        return
    except NotAPlainFile as exc:
        raise LogDamaged(str(exc)) from exc
    try:
        yield WriteAheadLog(descriptor)
    finally:
        os.close(descriptor)


def ends_in_index(store: Path) -> set[tuple[bytes, int]]:
    """Return salts and number of the last frames that were committed, as their writer noted them.

    The note is in shared memory, which a killed process leaves as it was, and which the next one
    that opens the store makes anew. It is there twice, one written after the other and both after
    the frames, so each copy is true as long as its checksum is right: two ends, when the writer was
    killed in between. Only for a store that this process has not open.
    """
    try:
        raw = read_bounded(store.with_name(store.name + _INDEX_SUFFIX), 2 * _INDEX_HEADER.size)
    except (OSError, NotAPlainFile):
        return set()
    copies = (raw[: _INDEX_HEADER.size], raw[_INDEX_HEADER.size : 2 * _INDEX_HEADER.size])
    return {end for copy in copies if (end := _end_in(copy)) is not None}


def _end_in(copy: bytes) -> tuple[bytes, int] | None:
    if len(copy) < _INDEX_HEADER.size:
        return None
    version, _, _, is_ready, _, _, frame, _, _, _, salts, *stored = _INDEX_HEADER.unpack(copy)
    summed = _add((0, 0), array("I", copy[:_INDEX_SUMMED_BYTES]))
    if version != _VERSION or not is_ready or summed != tuple(stored):
        return None
    return salts, frame


def hash_of(page: bytes | memoryview) -> bytes:
    """Return the hash that stands for the content of a page."""
    return hashlib.blake2b(page, digest_size=HASH_BYTES).digest()


def _add(checksum: Checksum, words: Sequence[int]) -> Checksum:
    """Return SQLite's checksum with more words, of which there are an even number."""
    first, second = checksum
    rest = iter(words[: len(words) % 4])
    for one, two in zip(rest, rest, strict=True):
        first = (first + one + second) & _MASK
        second = (second + two + first) & _MASK
    rest = iter(words[len(words) % 4 :])
    for one, two, three, four in zip(rest, rest, rest, rest, strict=True):
        first += one + second  # Python's numbers hold what the mask takes off below
        second += two + first
        first = (first + three + second) & _MASK
        second = (second + four + first) & _MASK
    return first, second


def _is_page_size(size: int) -> bool:
    return 512 <= size <= 65536 and size & (size - 1) == 0
