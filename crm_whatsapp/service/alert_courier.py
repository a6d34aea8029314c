"""Carries messages to the operator's channels: one thread a channel, in order, until taken."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from crm_whatsapp.domain.alert_book import AlertRecord
from crm_whatsapp.domain.alerts import AlertMessage, AlertSender, Outgoing, SendOutcome
from crm_whatsapp.domain.decisions import backoff_seconds
from crm_whatsapp.domain.ports import Clock
from crm_whatsapp.service.alert_memory import AlertMemory

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CourierTerms:
    """How long it tries, in seconds. retry_seconds: the first pause; doubles up to the longest."""

    retry_seconds: float = 5.0
    retry_max_seconds: float = 900.0
    give_up_seconds: float = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelFigures:
    """How a channel fares since the start. problem: why the last attempt failed, None after one
    that did not."""

    name: str
    sent: int = 0
    failed: int = 0
    failures_in_a_row: int = 0
    waiting: int = 0
    problem: str | None = None
    last_sent_at: datetime | None = None


class AlertCourier:
    """A channel that hangs or fails holds up nobody but itself."""

    def __init__(
        self, *, memory: AlertMemory, sender: AlertSender, clock: Clock, terms: CourierTerms
    ) -> None:
        self._memory = memory
        self._sender = sender
        self._clock = clock
        self._terms = terms
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._figures = {name: ChannelFigures(name=name) for name in sender.channels}
        self._threads = [
            threading.Thread(target=self._work, args=(name,), name=f"alerts-{name}", daemon=True)
            for name in sender.channels
        ]

    @property
    def channels(self) -> Sequence[str]:
        """The names of the channels."""
        return self._sender.channels

    @property
    def problems(self) -> Sequence[str]:
        """What is wrong with the configuration of the channels."""
        return self._sender.problems

    def start(self) -> None:
        """Begin with what an earlier process could not send."""
        wanted = set(self._figures)
        self._memory.change(
            lambda record: replace(
                record, outbox=tuple(item for item in record.outbox if item.channel in wanted)
            )
        )
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Send nothing more; what was not taken is sent after the next start."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        self._sender.stop()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout_seconds / len(self._threads))

    def copies(self, message_id: str, message: AlertMessage, now: datetime) -> tuple[Outgoing, ...]:
        """Return the copies of a message, one a channel, to be put into the record."""
        return tuple(
            Outgoing(id=message_id, channel=name, message=message, written_at=now)
            for name in self.channels
        )

    def wake(self) -> None:
        """Say that there may be something to send."""
        with self._changed:
            self._changed.notify_all()

    def figures(self) -> list[ChannelFigures]:
        """Return how each channel fares."""
        waiting = [item.channel for item in self._memory.record.outbox]
        with self._changed:
            return [
                replace(item, waiting=waiting.count(item.name)) for item in self._figures.values()
            ]

    def _work(self, channel: str) -> None:
        problem = self._sender.check(channel)
        if problem is not None and not self._stopping.is_set():
            log.error("an alert channel cannot be used", channel=channel, detail=problem)
            self._note(channel, SendOutcome(sent=False, detail=problem, took_seconds=0.0))
        while not self._stopping.is_set():
            try:
                pause = self._step(channel)
            except Exception:  # the next message has to be carried
                log.exception("an alert was not sent", channel=channel)
                pause = self._terms.retry_max_seconds
            self._stopping.wait(pause)

    def _step(self, channel: str) -> float:
        """Send the oldest message of the channel; return how long to wait before the next step."""
        item = self._next(channel)
        if item is None:
            return 0.0
        if (self._clock.now() - item.written_at).total_seconds() > self._terms.give_up_seconds:
            log.error(
                "an alert is given up: the channel took nothing for too long", channel=channel
            )
            self._memory.note_dropped()
            self._remove(item)
            return 0.0
        outcome = self._sender.send(channel, item.message)
        if self._stopping.is_set() and not outcome.sent:
            return 0.0
        self._note(channel, outcome)
        if outcome.sent:
            self._remove(item)
            log.info("an alert was sent", channel=channel, title=item.message.title)
            return 0.0
        failures = self._figures[channel].failures_in_a_row
        pause = backoff_seconds(
            channel,
            failures,
            base_seconds=self._terms.retry_seconds,
            cap_seconds=self._terms.retry_max_seconds,
        )
        log.warning(
            "an alert could not be sent and is tried again",
            channel=channel,
            detail=outcome.detail,
            attempts=failures,
            again_in_seconds=round(pause, 1),
        )
        return pause

    def _next(self, channel: str) -> Outgoing | None:
        """Wait for a message of the channel; None when the courier stops."""
        found: list[Outgoing] = []

        def there() -> bool:
            found[:] = [item for item in self._memory.record.outbox if item.channel == channel][:1]
            return bool(found) or self._stopping.is_set()

        with self._changed:
            self._changed.wait_for(there)
        return None if self._stopping.is_set() else found[0]

    def _note(self, channel: str, outcome: SendOutcome) -> None:
        now = self._clock.now()
        with self._changed:
            was = self._figures[channel]
            if outcome.sent:
                changed = replace(
                    was, sent=was.sent + 1, failures_in_a_row=0, problem=None, last_sent_at=now
                )
            else:
                changed = replace(
                    was,
                    failed=was.failed + 1,
                    failures_in_a_row=was.failures_in_a_row + 1,
                    problem=outcome.detail,
                )
            self._figures[channel] = changed
            self._changed.notify_all()

    def _remove(self, item: Outgoing) -> None:
        def without(record: AlertRecord) -> AlertRecord:
            kept = tuple(
                other
                for other in record.outbox
                if (other.id, other.channel) != (item.id, item.channel)
            )
            return replace(record, outbox=kept)

        self._memory.change(without)
