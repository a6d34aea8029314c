"""Webhooks and their deliveries in Supabase, claimed and settled by SQL functions."""

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from supabase import Client

from crm_whatsapp.domain.errors import InvalidInput, StoreRejected
from crm_whatsapp.domain.notices import Notice
from crm_whatsapp.domain.webhooks import (
    Attempt,
    Claim,
    Delivery,
    DeliveryRecord,
    DeliveryState,
    Webhook,
)
from crm_whatsapp.stores.database_errors import translated
from crm_whatsapp.stores.notice_record import write_notice
from crm_whatsapp.stores.supabase_client import DatabaseCalls
from crm_whatsapp.stores.webhook_record import (
    read_delivery,
    read_log_line,
    read_webhook,
    write_attempt,
    write_webhook,
)

_LOG = logging.getLogger(__name__)

_BATCH = 500  # the SQL functions take 1000
_BATCH_BYTES = 1_000_000  # of notices; gateways refuse large bodies

Item = TypeVar("Item")


class SupabaseWebhookStore:
    """The WebhookStore on PostgREST."""

    def __init__(self, client: Client) -> None:
        self._calls = DatabaseCalls(client)

    def list_webhooks(self) -> list[Webhook]:
        """Return every webhook, oldest first; one that this release cannot read is logged."""
        answer = self._calls.repeatable("whatsapp_list_webhooks_v1", {})
        return [*_readable(_rows(answer), read_webhook)]

    def save_webhook(self, webhook: Webhook) -> None:
        """Insert it, or replace the one with the same id; safe to repeat."""

        def save() -> None:
            table = self._calls.client.table("whatsapp_webhooks")
            with translated():
                table.upsert(write_webhook(webhook)).execute()

        self._calls.repeat(save)

    def remove_webhook(self, webhook_id: str) -> bool:
        """Remove it with its deliveries; False when there is none.

        Called once: a repetition would say that there was none.
        """
        return self._calls.once("whatsapp_remove_webhook_v1", {"p_webhook_id": webhook_id}) is True

    def enqueue(self, notices: Sequence[Notice]) -> int:
        """Queue each for every enabled webhook that wants it, in order; safe to repeat.

        One that is not JSON, or that the database cannot read, is left out with an error in the
        log.

        Returns:
            How many deliveries were added.

        Source:
            migrations: whatsapp_enqueue_notices_v1.
        """
        return sum(self._enqueue_batch(batch) for batch in _batches(notices))

    def claim(
        self,
        owner_id: str,
        *,
        lanes: int,
        per_lane: int,
        hold_seconds: float,
        except_webhooks: Sequence[str] = (),
    ) -> Claim:
        """Claim the due heads of up to so many lanes, webhooks taking turns.

        Called once: when the answer is lost the claim may hold, and it is left to lapse.

        Args:
            lanes: 1 to 1000, as per_lane.
            hold_seconds: on the database clock, 0 < hold <= 3600.

        Source:
            migrations: whatsapp_claim_deliveries_v1.
        """
        answer = self._calls.once(
            "whatsapp_claim_deliveries_v1",
            {
                "p_owner": owner_id,
                "p_lanes": lanes,
                "p_per_lane": per_lane,
                "p_hold_seconds": hold_seconds,
                "p_except_webhooks": list(except_webhooks),
            },
        )
        return _claim(answer)

    def settle(self, attempts: Sequence[Attempt]) -> int:
        """Write how attempts ended and let go of their lanes; safe to repeat.

        Returns:
            How many claims held.

        Source:
            migrations: whatsapp_settle_deliveries_v1.
        """
        held = 0
        for start in range(0, len(attempts), _BATCH):
            batch = [write_attempt(attempt) for attempt in attempts[start : start + _BATCH]]
            answer = self._calls.repeatable("whatsapp_settle_deliveries_v1", {"p_attempts": batch})
            held += _count(answer)
        return held

    def deliveries(
        self,
        webhook_id: str,
        *,
        state: DeliveryState | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> list[DeliveryRecord]:
        """Return the delivery log, newest first, up to 200; `before` is an id to go on from."""
        answer = self._calls.repeatable(
            "whatsapp_list_deliveries_v1",
            {
                "p_webhook_id": webhook_id,
                "p_state": None if state is None else state.value,
                "p_before": before,
                "p_limit": limit,
            },
        )
        return [*_readable(_rows(answer), read_log_line)]

    def redeliver(self, webhook_id: str, delivery_ids: Sequence[int] | None) -> int:
        """Queue these again, or all that are parked, at the end of their lanes.

        Called once each: a repetition could deliver once more what was delivered meanwhile.

        Returns:
            How many; those that are pending already are not counted.
        """
        if delivery_ids is None:
            return self._redeliver_parked(webhook_id)
        queued = 0
        for start in range(0, len(delivery_ids), _BATCH):
            queued += self._redeliver(webhook_id, list(delivery_ids[start : start + _BATCH]), 0)[0]
        return queued

    def counts(self) -> Mapping[tuple[str, DeliveryState], int]:
        """Return how many deliveries each webhook has in each state; none where it has none."""
        answer = self._calls.repeatable("whatsapp_count_deliveries_v1", {})
        try:
            return {
                (str(webhook_id), DeliveryState(state)): int(count)
                for webhook_id, state, count in answer
            }
        except (TypeError, ValueError) as exc:
            raise StoreRejected("The database gave unknown counts of deliveries.") from exc

    def _enqueue_batch(self, batch: Sequence[dict[str, Any]]) -> int:
        answer = self._calls.repeatable("whatsapp_enqueue_notices_v1", {"p_notices": batch})
        if not isinstance(answer, dict):
            raise StoreRejected("The database gave an unknown answer about notices.")
        for refusal in _rows(answer.get("invalid")):
            _LOG.error("Notice %s is no delivery: %s.", refusal.get("id"), refusal.get("error"))
        return _count(answer.get("queued"))

    def _redeliver_parked(self, webhook_id: str) -> int:
        total, after = 0, 0
        while True:
            queued, last = self._redeliver(webhook_id, None, after)
            total += queued
            if last is None:
                return total
            after = last

    def _redeliver(
        self, webhook_id: str, delivery_ids: list[int] | None, after: int
    ) -> tuple[int, int | None]:
        answer = self._calls.once(
            "whatsapp_redeliver_v1",
            {"p_webhook_id": webhook_id, "p_delivery_ids": delivery_ids, "p_after": after},
        )
        if not isinstance(answer, dict):
            raise StoreRejected("The database gave an unknown answer about deliveries.")
        last = answer.get("last_id")
        return _count(answer.get("queued")), None if last is None else _count(last)


def _batches(notices: Sequence[Notice]) -> Iterator[list[dict[str, Any]]]:
    """Part the notices into bodies of bounded length, leaving out what is not JSON."""
    batch: list[dict[str, Any]] = []
    size = 0
    for notice in notices:
        try:
            text = write_notice(notice)
        except InvalidInput as exc:
            _LOG.error("Notice %s of kind %s is given up: %s", notice.id, notice.kind, exc.message)
            continue
        if batch and (len(batch) >= _BATCH or size + len(text) > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(json.loads(text))
        size += len(text)
    if batch:
        yield batch


def _claim(answer: Any) -> Claim:
    """Read a claim. A delivery that cannot be read holds up what is behind it in its lane."""
    if not isinstance(answer, dict):
        raise StoreRejected("The database gave an unknown answer about deliveries.")
    found: list[Delivery] = []
    blocked: set[str] = set()
    for row in _rows(answer.get("deliveries")):
        if str(row.get("lane")) in blocked:
            continue
        try:
            found.append(read_delivery(row, str(answer.get("token"))))
        except InvalidInput as exc:
            _LOG.error("Delivery %s holds up its lane: %s", row.get("id"), exc.message)
            blocked.add(str(row.get("lane")))
    return Claim(deliveries=found, next_due_seconds=_seconds(answer.get("next_due_seconds")))


def _readable(
    rows: Sequence[dict[str, Any]], read: Callable[[Mapping[str, Any]], Item]
) -> Iterator[Item]:
    for row in rows:
        try:
            yield read(row)
        except InvalidInput as exc:
            _LOG.warning("Row %s is left out: %s", row.get("id"), exc.message)


def _rows(answer: Any) -> list[dict[str, Any]]:
    if not isinstance(answer, list) or not all(isinstance(row, dict) for row in answer):
        raise StoreRejected("The database gave an unknown answer about webhooks.")
    return answer


def _count(raw: Any) -> int:
    if not isinstance(raw, int):
        raise StoreRejected("The database gave an unknown count of deliveries.")
    return raw


def _seconds(raw: Any) -> float | None:
    if raw is None:
        return None
    seconds = float(raw) if isinstance(raw, int | float) else math.nan
    if not math.isfinite(seconds):
        raise StoreRejected("The database gave an unknown time of the next delivery.")
    return max(0.0, seconds)
