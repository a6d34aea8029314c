"""One comparison of a store with its page record: begun before SQLite opens it, judged after.

Safe beside a writer: what it changes in the meantime shows in the log, and may be either way.
"""

from collections.abc import Collection
from pathlib import Path

from crm_whatsapp.sessions.page_record import UNKNOWN, PageRecord, hashes_of
from crm_whatsapp.sessions.page_trail import End, Trail, follow
from crm_whatsapp.sessions.store_content import page_size_of
from crm_whatsapp.sessions.write_ahead_log import (
    HASH_BYTES,
    LogDamaged,
    LogMoved,
    WriteAheadLog,
    ends_in_index,
    open_log,
)


class PageCheck:
    """What is known about one store. `damage`: what is wrong, as far as it is known; else None."""

    def __init__(self, store: Path, record: PageRecord, *, place: str) -> None:
        """Look at the log and its index; `store` must not be open in this process.

        Raises:
            OSError: the log cannot be read.
        """
        self.damage: str | None = None
        self.trail: Trail | None = None
        self._store = store
        self._record = self._shown = record
        self._same_place = record.place == place
        self._hashes: bytes | None = None
        noted = ends_in_index(store) if self._same_place else set()
        with open_log(store) as log:
            try:
                # SQLite shows what its writer has noted by now; what is newer it may not show yet.
                until = _earliest(noted) if noted else None
                shown = follow(record, log, same_place=self._same_place, until=until)
                if shown is not None:
                    self._shown = shown.record
                    self.trail = follow(shown.record, log, same_place=self._same_place)
                for end in noted:
                    _require_noted(log, self.trail, end)
            except LogDamaged as exc:
                self.damage = str(exc)
            except LogMoved:
                self.trail = None

    def take(self, content: bytes) -> None:
        """Take note of what SQLite reads from the store."""
        self._hashes = hashes_of(content, page_size_of(content)) if content else b""

    def judge(self) -> str | None:
        """Return what is wrong with the store; None when nothing is, or when nobody can tell.

        Raises:
            OSError: the log cannot be read.
        """
        if self.damage is not None or self.trail is None or self._hashes is None:
            return self.damage
        before = self.trail.record
        if self._hashes == before.hashes:
            return None
        with open_log(self._store) as log:
            try:
                since = follow(before, log, same_place=self._same_place)
                if since is None or self._is_allowed(self._hashes, self.trail, since):
                    return None
                self.damage = self._blame(log)
            except (LogDamaged, LogMoved):
                return None  # a writer is at work
        return self.damage

    def _is_allowed(self, hashes: bytes, first: Trail, since: Trail) -> bool:
        """Tell whether the store was in such a condition at some time during the check.

        Not before: a damaged log that SQLite reads up to the damage alone looks like that.
        """
        total = len(hashes) // HASH_BYTES
        if total not in {self._shown.pages, *first.totals, *since.totals}:
            return False
        for page in range(1, total + 1):
            content = hashes[(page - 1) * HASH_BYTES : page * HASH_BYTES]
            known = self._shown.hash_of_page(page)
            changed = first.changed.get(page, set()) | since.changed.get(page, set())
            if content == known or content in changed:
                continue
            if known != UNKNOWN and (known or changed):
                return False
        return True

    def _blame(self, log: WriteAheadLog) -> str | None:
        header, position = log.header(), self._record.position
        if header is not None and position is not None and not self._same_place:
            same_run = header.start.salts == position.salts
            if same_run and not log.reaches(position):
                return None  # a power cut takes what was not synced
        return "not all of its pages are what was written to them"


def _earliest(ends: Collection[End]) -> set[End]:
    """Return the first of the ends of each run."""
    return {(run, min(frame for other, frame in ends if other == run)) for run, _ in ends}


def _require_noted(log: WriteAheadLog, trail: Trail | None, noted: End) -> None:
    """Refuse a log that ends before the frame that its last writer had committed.

    Raises:
        LogDamaged: it does.
    """
    salts, frame = noted
    end = trail.record.position if trail is not None else None
    if end is not None and end.salts == salts and end.frame >= frame:
        return
    header = log.header()
    if header is None or header.start.salts != salts:
        return
    last = header.start
    for commit in log.commits_after(header.start):
        last = commit.end
    if last.frame < frame and log.header() == header:
        raise LogDamaged("its log is damaged")
