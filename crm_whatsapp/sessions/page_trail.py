"""From a record of a store's pages to the present store, by what the write-ahead log says.

While a client runs, store.db changes by one thing alone: SQLite copies pages out of the log. So a
page holds what the record says, or what a later frame of the log says. When everything is copied
SQLite starts the log over; then the rest of the last run, behind what was overwritten, still says
what was copied since the record. It takes a whole run (1,000 frames, 4 MB) within the time between
two looks at the log to lose the trail.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from crm_whatsapp.sessions.page_record import UNKNOWN, PageRecord
from crm_whatsapp.sessions.write_ahead_log import (
    HASH_BYTES,
    Commit,
    LogDamaged,
    LogHeader,
    LogMoved,
    Position,
    WriteAheadLog,
)

_ATTEMPTS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """What has happened since a record.

    record: as it is now. changed: every content that a page was given since. totals: every number
    of pages the store has had since.
    """

    record: PageRecord
    changed: Mapping[int, set[bytes]]
    totals: set[int]


End = tuple[bytes, int]
"""Salts of a run of the log, and a frame in it."""


def follow(
    record: PageRecord,
    log: WriteAheadLog,
    *,
    same_place: bool,
    until: Collection[End] | None = None,
) -> Trail | None:
    """Return what has happened since the record; None when that cannot be told.

    Args:
        same_place: nothing that was written can be missing; see PageRecord.place.
        until: the present run of the log is followed up to its end here, not at all without one;
            by default as far as it goes.
    Raises:
        LogDamaged: the log does not hold any more what the record saw in it.
        LogMoved: it is started over all the time.
    """
    for _ in range(_ATTEMPTS):
        header = log.header()
        try:
            found = _follow(record, log, header, same_place, until)
        except LogMoved:
            continue
        except LogDamaged:
            if log.header() == header:
                raise
            continue
        if log.header() == header:
            return found
    raise LogMoved


def _follow(
    record: PageRecord,
    log: WriteAheadLog,
    header: LogHeader | None,
    same_place: bool,
    until: Collection[End] | None,
) -> Trail | None:
    pages = _Pages(record=record, hashes=bytearray(record.hashes))
    if header is None:
        return pages.trail() if record.closed else None
    last = None if until is None else dict(until).get(header.start.salts, 0)
    if header.page_size != record.page_size:
        return None
    position = record.position
    if position is not None and position.salts == header.start.salts:
        if not log.holds(position):
            if same_place:
                raise LogDamaged("its log does not hold what was committed to it")
            return None
        pages.add_all(log.commits_after(position), last)
    elif record.closed and log.is_first_run():
        pages.add_all(log.commits_after(header.start), last)
    elif position is not None and same_place and position.precedes(header.start.salts):
        if position.frame == 0 or not log.holds(position):
            return None
        pages.add_all(log.commits_after(position))
        if not log.holds(position):
            return None  # overwritten meanwhile, and with it what came after
        pages.end = header.start
        pages.add_all(log.commits_after(header.start), last)
    else:
        return None
    return pages.trail()


@dataclass(slots=True, kw_only=True)
class _Pages:
    """The hashes of a store to which transactions are added."""

    record: PageRecord
    hashes: bytearray
    end: Position | None = None
    changed: dict[int, set[bytes]] = field(default_factory=dict)
    totals: set[int] = field(default_factory=set)

    def add_all(self, commits: Iterator[Commit], last: int | None = None) -> None:
        for commit in commits:
            if last is not None and commit.end.frame > last:
                return
            self._add(commit)

    def _add(self, commit: Commit) -> None:
        # A transaction may write pages that it cuts off again.
        most = max(commit.total, *(page for page, _ in commit.pages))
        self.hashes += UNKNOWN * (most - len(self.hashes) // HASH_BYTES)
        for page, content in commit.pages:
            self.hashes[(page - 1) * HASH_BYTES : page * HASH_BYTES] = content
            self.changed.setdefault(page, set()).add(content)
        del self.hashes[commit.total * HASH_BYTES :]
        self.totals.add(commit.total)
        self.end = commit.end

    def trail(self) -> Trail:
        record = self.record
        if self.end is not None:
            record = replace(record, hashes=bytes(self.hashes), position=self.end, closed=False)
        return Trail(record=record, changed=self.changed, totals=self.totals)
