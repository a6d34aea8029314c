"""The WebhookStore in memory, held to the same suite as the real one."""

import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from threading import RLock

from crm_whatsapp.domain.errors import StoreUnavailable
from crm_whatsapp.domain.notices import Notice
from crm_whatsapp.domain.webhooks import (
    Attempt,
    Claim,
    Delivery,
    DeliveryRecord,
    DeliveryState,
    Webhook,
    WebhookStore,
)

LaneKey = tuple[str, str | None]

_EVER = datetime.min.replace(tzinfo=UTC)
_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(slots=True)
class FakeDelivery:
    """One row. place: what orders the lane. settled_under: the token of its last settling."""

    record: DeliveryRecord
    notice: Notice
    place: int
    settled_under: str | None = None


@dataclass(slots=True)
class FakeLane:
    """One lane. token: of the claim that holds it until held_until, or until it is taken over."""

    number: int
    token: str | None = None
    held_until: datetime = _EVER
    taken: frozenset[int] = frozenset()


@dataclass(slots=True)
class FakeWebhookStore(WebhookStore):
    """WebhookStore in memory.

    Attributes:
        now: the database clock.
        reachable: False simulates an outage.
        calls: how many there were.
    """

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    reachable: bool = True
    calls: int = 0
    webhooks: dict[str, Webhook] = field(default_factory=dict)
    rows: dict[int, FakeDelivery] = field(default_factory=dict)
    lanes: dict[LaneKey, FakeLane] = field(default_factory=dict)
    _places: int = 0
    _lock: RLock = field(default_factory=RLock)

    def list_webhooks(self) -> list[Webhook]:
        with self._call():
            return sorted(self.webhooks.values(), key=lambda it: (it.created_at, it.id))

    def save_webhook(self, webhook: Webhook) -> None:
        with self._call():
            self.webhooks[webhook.id] = webhook

    def remove_webhook(self, webhook_id: str) -> bool:
        with self._call():
            for number in [
                n for n, row in self.rows.items() if row.record.webhook_id == webhook_id
            ]:
                del self.rows[number]
            for key in [key for key in self.lanes if key[0] == webhook_id]:
                del self.lanes[key]
            return self.webhooks.pop(webhook_id, None) is not None

    def enqueue(self, notices: Sequence[Notice]) -> int:
        with self._call():
            return sum(
                self._queue(notice, webhook)
                for notice in notices
                for webhook in sorted(self.webhooks.values(), key=lambda it: it.id)
                if _wants(webhook, notice)
            )

    def claim(
        self,
        owner_id: str,
        *,
        lanes: int,
        per_lane: int,
        hold_seconds: float,
        except_webhooks: Sequence[str] = (),
    ) -> Claim:
        with self._call():
            now, token = self.now(), str(uuid.uuid4())
            usable = {key for key, it in self.webhooks.items() if it.enabled} - {*except_webhooks}
            due = [key for key in self.lanes if key[0] in usable and self._due(key, now) <= now]
            turns: Counter[str] = Counter()
            order = []
            for key in sorted(due, key=lambda it: self._due(it, now)):
                turns[key[0]] += 1
                order.append((turns[key[0]], self._due(key, now), key))
            taken: list[Delivery] = []
            for _, _, key in sorted(order, key=lambda it: it[:2])[:lanes]:
                heads = self._due_heads(key, now, per_lane)
                lane = self.lanes[key]
                lane.token, lane.held_until = token, now + timedelta(seconds=hold_seconds)
                lane.taken = frozenset(row.record.id for row in heads)
                taken += [self._delivery(row, lane) for row in heads]
            waits = [self._due(key, now) for key in self.lanes if key[0] in usable]
            ahead = [wait for wait in waits if wait < _NEVER]
            seconds = (min(ahead) - now).total_seconds() if ahead else None
            return Claim(
                deliveries=taken,
                next_due_seconds=None if seconds is None else max(0.0, seconds),
            )

    def settle(self, attempts: Sequence[Attempt]) -> int:
        with self._call():
            held, let_go = 0, set()
            for attempt in attempts:
                row = self.rows.get(attempt.delivery_id)
                if row is None:
                    continue
                lane = self.lanes[_lane_key(row)]
                if row.settled_under == attempt.token:
                    held += 1
                elif lane.token == attempt.token and row.record.id in lane.taken:
                    held += 1
                    self._write(row, attempt)
                    let_go.add(_lane_key(row))
            for key in let_go:
                self._let_go(self.lanes[key])
            return held

    def deliveries(
        self,
        webhook_id: str,
        *,
        state: DeliveryState | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> list[DeliveryRecord]:
        with self._call():
            found = [
                row.record
                for number, row in sorted(self.rows.items(), reverse=True)
                if row.record.webhook_id == webhook_id
                and state in (None, row.record.state)
                and (before is None or number < before)
            ]
            return found[: min(max(limit, 1), 200)]

    def redeliver(self, webhook_id: str, delivery_ids: Sequence[int] | None) -> int:
        with self._call():
            queued = 0
            for number, row in sorted(self.rows.items()):
                state = row.record.state
                if row.record.webhook_id != webhook_id or state is DeliveryState.PENDING:
                    continue
                if delivery_ids is None and state is not DeliveryState.PARKED:
                    continue
                if delivery_ids is not None and number not in delivery_ids:
                    continue
                queued += 1
                self._places += 1
                row.place, row.settled_under = self._places, None
                row.record = replace(
                    row.record,
                    state=DeliveryState.PENDING,
                    attempts=0,
                    queued_at=self.now(),
                    next_attempt_at=self.now(),
                    settled_at=None,
                )
            return queued

    def counts(self) -> Mapping[tuple[str, DeliveryState], int]:
        with self._call():
            return Counter((it.record.webhook_id, it.record.state) for it in self.rows.values())

    @contextmanager
    def _call(self) -> Iterator[None]:
        """Let a call happen at once, as one SQL function does."""
        with self._lock:
            self.calls += 1
            if not self.reachable:
                raise StoreUnavailable("The database cannot be reached.")
            yield

    def _queue(self, notice: Notice, webhook: Webhook) -> int:
        if any(
            (row.record.webhook_id, row.record.notice_id) == (webhook.id, notice.id)
            for row in self.rows.values()
        ):
            return 0
        now = self.now()
        self._places += 1
        number = self._places
        record = DeliveryRecord(
            id=number,
            webhook_id=webhook.id,
            notice_id=notice.id,
            kind=notice.kind,
            company_id=notice.company_id,
            state=DeliveryState.PENDING,
            attempts=0,
            status_code=None,
            error=None,
            queued_at=now,
            last_attempt_at=None,
            next_attempt_at=now,
            settled_at=None,
        )
        self.rows[number] = FakeDelivery(record=record, notice=notice, place=number)
        self.lanes.setdefault((webhook.id, notice.company_id), FakeLane(len(self.lanes) + 1))
        return 1

    def _waiting(self, key: LaneKey) -> list[FakeDelivery]:
        rows = [
            row
            for row in self.rows.values()
            if _lane_key(row) == key and row.record.state is DeliveryState.PENDING
        ]
        return sorted(rows, key=lambda row: row.place)

    def _due(self, key: LaneKey, now: datetime) -> datetime:
        """Return when the lane is worth claiming."""
        lane, waiting = self.lanes[key], self._waiting(key)
        if lane.token is not None:
            return lane.held_until
        return (waiting[0].record.next_attempt_at or now) if waiting else _NEVER

    def _due_heads(self, key: LaneKey, now: datetime, most: int) -> list[FakeDelivery]:
        heads: list[FakeDelivery] = []
        for row in self._waiting(key)[:most]:
            if (row.record.next_attempt_at or now) > now:
                break
            heads.append(row)
        return heads

    def _delivery(self, row: FakeDelivery, lane: FakeLane) -> Delivery:
        return Delivery(
            id=row.record.id,
            webhook_id=row.record.webhook_id,
            lane=str(lane.number),
            notice=row.notice,
            attempt=row.record.attempts + 1,
            queued_at=row.record.queued_at,
            token=lane.token or "",
        )

    def _write(self, row: FakeDelivery, attempt: Attempt) -> None:
        now, pending = self.now(), attempt.state is DeliveryState.PENDING
        wait = timedelta(seconds=max(0.0, attempt.retry_in_seconds))
        row.settled_under = attempt.token
        row.record = replace(
            row.record,
            state=attempt.state,
            next_attempt_at=now + wait if pending else None,
            settled_at=None if pending else now,
        )
        if not pending or attempt.status_code is not None or attempt.error is not None:
            row.record = replace(
                row.record,
                attempts=row.record.attempts + 1,
                status_code=attempt.status_code,
                error=attempt.error,
                last_attempt_at=now,
            )

    def _let_go(self, lane: FakeLane) -> None:
        left = [
            self.rows[number]
            for number in lane.taken
            if self.rows[number].record.state is DeliveryState.PENDING
        ]
        given_back = [row for row in left if row.settled_under == lane.token]
        if given_back or not left:
            lane.token, lane.taken = None, frozenset()


def _wants(webhook: Webhook, notice: Notice) -> bool:
    return (
        webhook.enabled
        and (not webhook.kinds or notice.kind in webhook.kinds)
        and webhook.company_id in (None, notice.company_id)
    )


def _lane_key(row: FakeDelivery) -> LaneKey:
    return row.record.webhook_id, row.record.company_id
