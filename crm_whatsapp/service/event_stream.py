"""The event stream: what has just happened, kept for a while, and told to whoever listens.

A client that comes back with the id of the last event it has seen gets exactly what followed. One
that comes for the first time, or whose id is not known any more, gets how things are instead.
Adding an event, and replaying from an id, are atomic against each other.
"""

import secrets
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import structlog

from crm_whatsapp.domain.connection import Connection, Status
from crm_whatsapp.domain.errors import ServiceStopping, TooManyStreams
from crm_whatsapp.domain.notices import Notice, NoticeKind
from crm_whatsapp.domain.ports import Clock
from crm_whatsapp.domain.transitions import FORGOTTEN
from crm_whatsapp.service.event_subscription import Audience, StreamEnd, Subscription
from crm_whatsapp.service.event_text import (
    CODES,
    SNAPSHOT,
    STATUS,
    event_block,
    event_name,
    notice_json,
    position_block,
    present_json,
    snapshot_json,
)
from crm_whatsapp.service.status_notices import status_data

log = structlog.get_logger(__name__)

_SHARE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """What the stream may take up.

    streams: open at the same time; 0 turns them off.
    streams_per_principal: of one limited audience. A company may have many keys: of the last fifth
        of the streams it gets none while it has as many as that.
    buffer_events, buffer_bytes: kept for clients that come back; the smaller one counts.
    client_events: may wait for one client beside what it missed.
    """

    streams: int
    streams_per_principal: int
    buffer_events: int
    buffer_bytes: int
    client_events: int


@dataclass(slots=True, kw_only=True)
class StreamFigures:
    """Counted since the start."""

    opened: int = 0
    refused: int = 0
    resyncs: int = 0
    ended_slow: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    name: str
    company_id: str
    block: bytes = field(repr=False)

    def is_for(self, audience: Audience) -> bool:
        return audience.hears_of(self.company_id) and (
            self.name not in CODES or audience.sees_codes_of(self.company_id)
        )


class EventStream:
    """Takes notices, on any thread and without waiting, and hands them to subscriptions.

    Ids are `<run>-<n>`: the run is new with each start of the service, n rises by one an event.

    Attributes:
        figures: for metrics.
    """

    def __init__(self, limits: StreamLimits, clock: Clock) -> None:
        self.figures = StreamFigures()
        self._limits = limits
        self._clock = clock
        self._run = secrets.token_hex(4)
        self._lock = threading.Lock()
        self._last = 0
        self._kept: deque[_Event] = deque()
        self._kept_bytes = 0
        self._statuses: dict[str, Mapping[str, Any]] = {}
        self._codes: dict[str, Notice] = {}
        self._subscriptions: set[Subscription] = set()
        self._is_stopping = False

    @property
    def open_streams(self) -> int:
        """How many clients listen now."""
        return len(self._subscriptions)

    def begin(self, connections: Iterable[Connection]) -> None:
        """Learn how things were before the first notice."""
        with self._lock:
            for connection in connections:
                self._statuses.setdefault(connection.company_id, status_data(connection))

    def carry(self, notice: Notice) -> None:
        """Pass a notice on; the listener of the notice board."""
        name = event_name(notice)
        company_id = notice.company_id
        if name is None or company_id is None:
            return
        data = notice_json(notice)
        with self._lock:
            self._remember(company_id, notice)
            self._last += 1
            block = event_block(name, data, self._position())
            event = _Event(name=name, company_id=company_id, block=block)
            self._keep(event)
            slow = [
                subscription
                for subscription in self._subscriptions
                if event.is_for(subscription.audience) and not subscription.offer(block)
            ]
            self.figures.ended_slow += len(slow)
        for subscription in slow:
            log.info(
                "an event stream was ended: its client reads too slowly",
                company_id=subscription.audience.only_company,
            )

    def subscribe(
        self,
        audience: Audience,
        *,
        last_event_id: str | None = None,
        snapshot: bool = True,
        unknown: Connection | None = None,
    ) -> Subscription:
        """Begin to listen.

        Args:
            last_event_id: the last event the client has seen, None for a fresh client.
            snapshot: tell a fresh client how things are.
            unknown: how the audience's one company is, should the stream not know.
        Raises:
            TooManyStreams: all places are taken.
            ServiceStopping: try again in a moment.
        """
        with self._lock:
            if self._is_stopping:
                raise ServiceStopping
            self._check_room(audience)
            after = self._find_position(last_event_id)
            subscription = Subscription(
                audience,
                lock=self._lock,
                backlog=[] if after is None else self._since(after, audience),
                most_waiting=self._limits.client_events,
                position=self._position,
                leave=self._subscriptions.discard,
            )
            self._subscriptions.add(subscription)
            self.figures.opened += 1
            if after is not None:
                return subscription
            position = self._position()
            statuses, codes = dict(self._statuses), dict(self._codes)
            is_resync = last_event_id is not None
            self.figures.resyncs += is_resync
        opening = [position_block(position)]
        if is_resync or snapshot:
            if unknown is not None:
                statuses.setdefault(unknown.company_id, status_data(unknown))
            present = self._present(audience, statuses, codes, is_resync=is_resync)
            opening = [*present, *opening]
        subscription.put_first(opening)
        return subscription

    def stop(self) -> None:
        """End every stream now and open no more."""
        with self._lock:
            self._is_stopping = True
            for subscription in self._subscriptions:
                subscription.end(StreamEnd.STOPPING)

    def _remember(self, company_id: str, notice: Notice) -> None:
        """Keep how things are."""
        if notice.kind is NoticeKind.QR:
            self._codes[company_id] = notice
        elif notice.kind is NoticeKind.STATUS:
            if notice.data["status"] != Status.AWAITING_SCAN:
                self._codes.pop(company_id, None)
            if notice.data.get("event") == FORGOTTEN:
                self._statuses.pop(company_id, None)
            else:
                self._statuses[company_id] = notice.data

    def _keep(self, event: _Event) -> None:
        """Keep the event, and the oldest ones no longer than there is room for them."""
        self._kept.append(event)
        self._kept_bytes += len(event.block)
        while self._kept and (
            len(self._kept) > self._limits.buffer_events
            or self._kept_bytes > self._limits.buffer_bytes
        ):
            self._kept_bytes -= len(self._kept.popleft().block)

    def _check_room(self, audience: Audience) -> None:
        if len(self._subscriptions) >= self._limits.streams:
            self.figures.refused += 1
            raise TooManyStreams(limit=self._limits.streams)
        if not audience.is_limited:
            return
        own = Counter(item.audience.principal_id for item in self._subscriptions)
        if own[audience.principal_id] >= self._limits.streams_per_principal:
            self.figures.refused += 1
            raise TooManyStreams(
                "This key has as many event streams open as one key may have.",
                limit=self._limits.streams_per_principal,
            )
        kept_free = self._limits.streams // _SHARE
        if self._limits.streams - len(self._subscriptions) > kept_free:
            return
        crowd = Counter(
            company_id
            for item in self._subscriptions
            if item.audience.is_limited
            for company_id in item.audience.companies or ()
        )
        if kept_free and any(crowd[item] >= kept_free for item in audience.companies or ()):
            self.figures.refused += 1
            raise TooManyStreams(
                "Few event streams are left, and those are for companies that have fewer open.",
                limit=kept_free,
            )

    def _position(self) -> str:
        return f"{self._run}-{self._last}"

    def _find_position(self, event_id: str | None) -> int | None:
        """Return the number of the event, if everything after it is still here."""
        run, _, digits = (event_id or "").partition("-")
        if run != self._run or not (digits.isascii() and digits.isdigit() and len(digits) < 20):
            return None
        number = int(digits)
        return number if self._last - len(self._kept) <= number <= self._last else None

    def _since(self, number: int, audience: Audience) -> Iterator[bytes]:
        """Yield what followed an event, for this audience."""
        first = self._last - len(self._kept) + 1
        followed = islice(self._kept, number + 1 - first, None)
        return (event.block for event in followed if event.is_for(audience))

    def _present(
        self,
        audience: Audience,
        statuses: Mapping[str, Mapping[str, Any]],
        codes: Mapping[str, Notice],
        *,
        is_resync: bool,
    ) -> Iterator[bytes]:
        """Yield how things are, in front of it how many companies there are."""
        now = self._clock.now()
        reached = {
            company_id: statuses[company_id]
            for company_id in (statuses if audience.companies is None else audience.companies)
            if company_id in statuses
        }
        head = snapshot_json(audience.only_company, len(reached), now, is_resync=is_resync)
        yield event_block(SNAPSHOT, head)
        for company_id, status in reached.items():
            data = present_json(company_id, status, now, is_resync=is_resync)
            yield event_block(STATUS, data)
            code = codes.get(company_id) if audience.sees_codes_of(company_id) else None
            if code is not None:
                yield event_block(event_name(code) or "", notice_json(code))
