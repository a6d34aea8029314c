"""How messages and receipts of one client go to the supervisor: written down first, few at a time.

A slow service must not hold up neonize's callback: its channel of 100 would fill with messages that
WhatsApp counts as arrived. So they go to a file at once, and from there no faster than the service
tells them. Only when the file has reached its bound, or cannot be written, is the callback kept
waiting; then neonize's channel fills, whatsmeow stops reading, and WhatsApp keeps the rest.
Neither heartbeats nor other clients notice.
"""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from crm_whatsapp.engine.inbound_spool import InboundSpool

_log = logging.getLogger(__name__)

Fields = dict[str, Any]

_Entry = int | bytes
"""The length of a record in the file, or a record that the disk refused."""


class _Sent(NamedTuple):
    """An entry on its way. void: it could not be read, so nobody will say that it was told."""

    entry: _Entry
    void: bool = False


class InboundFlow:
    """Passes on what one client hears, and knows what of it has been told.

    Args:
        send: takes the name and the fields of an event; must return at once.
        most_events, most_bytes: how much may be on its way to be told. One event always may.
        most_spooled_bytes: how large the file may grow.
    """

    def __init__(
        self,
        spool: InboundSpool,
        send: Callable[[str, Fields], None],
        *,
        most_events: int = 64,
        most_bytes: int = 262_144,
        most_spooled_bytes: int = 32 * 1024 * 1024,
    ) -> None:
        self._spool = spool
        self._send = send
        self._most_events = most_events
        self._most_bytes = most_bytes
        self._most_spooled_bytes = most_spooled_bytes
        self._changed = threading.Condition()
        self._waiting: deque[_Entry] = deque()
        self._sent: deque[_Sent] = deque()
        self._sent_bytes = 0
        self._opened = False
        self._closed = False
        self._refused = False
        self._hearing = 0
        self._heard_at = float("-inf")

    def recover(self) -> None:
        """Pass on what an earlier process was killed over."""
        with self._changed:
            if self._closed:
                return
            try:
                self._waiting.extend(self._spool.recover())
            except OSError as exc:
                self._note_refusal(exc)
            self._pump()

    @contextmanager
    def hearing(self) -> Iterator[None]:
        """Note that an event is being handled."""
        with self._changed:
            self._hearing += 1
        try:
            yield
        finally:
            with self._changed:
                self._hearing -= 1
                self._heard_at = time.monotonic()
                self._changed.notify_all()

    def put(self, name: str, fields: Fields) -> None:
        """Write an event down and pass it on in its turn; waits only when too much is waiting."""
        record = json.dumps([name, fields], separators=(",", ":")).encode() + b"\n"
        with self._changed:
            self._changed.wait_for(lambda: self._opened or self._has_place(len(record)))
            if self._closed:
                self._send(name, fields)
                return
            try:
                self._spool.append(record)
                self._refused = False
            except OSError as exc:
                self._note_refusal(exc)
                self._waiting.append(record)
                self._pump()
                self._changed.wait_for(lambda: self._opened or record not in self._waiting)
                return
            if not self._waiting and self._has_room(len(record)):
                self._spool.skip(len(record))
                self._pass_on(len(record), name, fields)
            else:
                self._waiting.append(len(record))
                self._pump()

    def taken(self, count: int) -> None:
        """Note that the service has told the oldest `count` events."""
        with self._changed:
            for _ in range(0 if self._closed else min(count, len(self._sent))):
                self._settle_oldest()
                self._settle_voids()
            self._pump()
            self._changed.notify_all()

    def drain(self, quiet_seconds: float, limit_seconds: float) -> bool:
        """Wait until no event comes any more and all have been told; False when not in time.

        The client has been disconnected: what is still in neonize's channel, nobody would send
        again. From now on nothing is held back.
        """
        give_up_at = time.monotonic() + limit_seconds
        with self._changed:
            self._opened = True
            self._pump()
            self._changed.notify_all()
        quiet = self._wait_quiet(quiet_seconds, give_up_at)
        with self._changed:
            left = give_up_at - time.monotonic()
            return self._changed.wait_for(lambda: not self._sent, max(0.0, left)) and quiet

    def open(self) -> None:
        """Hold nothing back any more: the client is to end."""
        with self._changed:
            self._opened = True
            self._pump()
            self._changed.notify_all()

    def close(self) -> None:
        """Let go of the file; what has not been told is told by the next client's `recover`."""
        with self._changed:
            self._closed = self._opened = True
            self._changed.notify_all()
            try:
                self._spool.close()
            except OSError as exc:
                self._note_refusal(exc)

    def _wait_quiet(self, quiet_seconds: float, give_up_at: float) -> bool:
        asked_at = time.monotonic()
        with self._changed:
            while (now := time.monotonic()) < give_up_at:
                quiet_for = now - max(self._heard_at, asked_at)
                if not self._hearing and quiet_for >= quiet_seconds:
                    return True
                pause = quiet_seconds if self._hearing else quiet_seconds - quiet_for
                self._changed.wait(min(give_up_at - now, pause))
        return False

    def _pump(self) -> None:
        """Pass on what waits, as far as there is room."""
        while self._waiting:
            entry = self._waiting[0]
            if not self._opened and not self._has_room(_size(entry)):
                return
            self._waiting.popleft()
            try:
                record = self._spool.read(entry) if isinstance(entry, int) else entry
                name, fields = json.loads(record)
            except (OSError, ValueError, TypeError) as exc:
                _log.error("a message on disk could not be read: %s", type(exc).__name__)
                self._note_sent(_Sent(entry, void=True))
                self._settle_voids()
                continue
            self._pass_on(entry, name, fields)

    def _pass_on(self, entry: _Entry, name: str, fields: Fields) -> None:
        self._note_sent(_Sent(entry))
        self._send(name, fields)

    def _note_sent(self, sent: _Sent) -> None:
        self._sent.append(sent)
        self._sent_bytes += _size(sent.entry)

    def _settle_voids(self) -> None:
        while self._sent and self._sent[0].void:
            self._settle_oldest()

    def _settle_oldest(self) -> None:
        entry = self._sent.popleft().entry
        self._sent_bytes -= _size(entry)
        if isinstance(entry, int):
            try:
                self._spool.settle(entry)
            except OSError as exc:
                self._note_refusal(exc)

    def _has_room(self, size: int) -> bool:
        if not self._sent:
            return True
        return self._sent_bytes + size <= self._most_bytes and len(self._sent) < self._most_events

    def _has_place(self, size: int) -> bool:
        return self._spool.size_bytes + size <= self._most_spooled_bytes

    def _note_refusal(self, exc: OSError) -> None:
        if not self._refused:
            _log.error("messages cannot be written down: %s", exc.strerror or type(exc).__name__)
        self._refused = True


def _size(entry: _Entry) -> int:
    return entry if isinstance(entry, int) else len(entry)
