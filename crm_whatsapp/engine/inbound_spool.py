"""Messages and receipts on disk, from the moment neonize hands them over until they are told.

WhatsApp has been told by then that they arrived and sends none of them again, so they must outlive
the kill of this process and of the service. Nothing is synced: a power cut may take them.
"""

import os
from pathlib import Path

FILE_NAME = "inbound.jsonl"

_HEADER_BYTES = 21
_CHUNK_BYTES = 1024 * 1024


class InboundSpool:
    """Records of one client in a file, first in, first out. There is no file without records.

    The first line says where the first record begins that has not been told: 20 digits.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._end = 0
        self._read_at = _HEADER_BYTES
        self._told_until = _HEADER_BYTES

    @property
    def size_bytes(self) -> int:
        """What the file holds, told or not."""
        return self._end

    def recover(self) -> list[int]:
        """Open what an earlier process left; return the lengths of the records not told.

        Raises:
            OSError: the disk refuses.
        """
        try:
            self._open(os.O_RDWR)
        except FileNotFoundError:
            return []
        header = os.pread(self._opened(), _HEADER_BYTES, 0)
        if len(header) < _HEADER_BYTES or not header[:-1].isdigit():
            self.close()
            self._path.unlink(missing_ok=True)
            return []
        self._end = self._read_at = self._told_until = max(int(header), _HEADER_BYTES)
        lengths: list[int] = []
        rest = 0
        while chunk := os.pread(self._opened(), _CHUNK_BYTES, self._end + rest):
            lines = chunk.split(b"\n")
            for line in lines[:-1]:
                lengths.append(rest + len(line) + 1)
                self._end += lengths[-1]
                rest = 0
            rest += len(lines[-1])
        os.ftruncate(self._opened(), self._end)  # a record that a kill has cut off
        if not lengths:
            self.settle(0)
        return lengths

    def append(self, record: bytes) -> None:
        """Write a record, which ends with its only line break.

        Raises:
            OSError: the disk refuses; the file is as it was.
        """
        if self._descriptor is None:
            self._open(os.O_RDWR | os.O_CREAT)
        data = record if self._end else _header(_HEADER_BYTES) + record
        written = os.pwrite(self._opened(), data, self._end)
        if written < len(data):
            os.ftruncate(self._opened(), self._end)
            raise OSError(f"{self._path.name}: {written} of {len(data)} bytes written")
        self._end += written

    def read(self, length: int) -> bytes:
        """Return the next record.

        Raises:
            OSError: the disk refuses; the record is passed over.
        """
        at, self._read_at = self._read_at, self._read_at + length
        return os.pread(self._opened(), length, at)

    def skip(self, length: int) -> None:
        """Pass over the next record: it is in memory still."""
        self._read_at += length

    def settle(self, length: int) -> None:
        """Note that the oldest record has been told; with the last one the file goes.

        Raises:
            OSError: the disk refuses.
        """
        self._told_until += length
        if self._told_until < self._end:
            os.pwrite(self._opened(), _header(self._told_until), 0)
            return
        self._end = 0
        self._read_at = self._told_until = _HEADER_BYTES
        self.close()
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file; what it holds is for the next `recover`."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _open(self, flags: int) -> None:
        flags |= os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self._path, flags, 0o600)

    def _opened(self) -> int:
        if self._descriptor is None:
            raise OSError(f"{self._path.name} is not open")
        return self._descriptor


def _header(offset: int) -> bytes:
    return b"%020d\n" % offset
