"""From a sighting to a message on each channel, over failures, hangs and restarts."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from crm_whatsapp.domain.alert_book import AlertLedger, AlertRecord, AlertTerms
from crm_whatsapp.domain.alerts import (
    Alert,
    AlertKind,
    AlertMessage,
    AlertSender,
    SendOutcome,
    Sightings,
)
from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.domain.notices import Notice, NoticeKind
from crm_whatsapp.service.alert_courier import AlertCourier, CourierTerms
from crm_whatsapp.service.alert_desk import AlertDesk
from crm_whatsapp.service.alert_health import alert_check
from crm_whatsapp.service.alert_memory import MOST_WAITING, AlertMemory
from tests.unit.service.fakes import DEADLINE_SECONDS, NOON, ManualClock, Signal

COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
GONE = Alert(
    kind=AlertKind.LOGGED_OUT, subject=COMPANY, company_id=COMPANY, label="Bella", since=NOON
)


class FakeLedger(AlertLedger):
    def __init__(self) -> None:
        self.record = AlertRecord()
        self.writes = 0
        self.signal = Signal()
        self.refusal: StorageError | None = None

    def read(self) -> AlertRecord:
        if self.refusal is not None:
            raise self.refusal
        return self.record

    def write(self, record: AlertRecord) -> None:
        if self.refusal is not None:
            raise self.refusal
        with self.signal:
            self.record = record
            self.writes += 1


class FakeSender(AlertSender):
    """Channels that take messages, refuse them, or hang until they are let go."""

    def __init__(self, *channels: str) -> None:
        self.names = channels
        self.taken: list[tuple[str, str]] = []
        self.attempts: list[str] = []
        self.refusing: set[str] = set()
        self.unusable: dict[str, str] = {}
        self.hanging: set[str] = set()
        self.stopped = threading.Event()
        self.signal = Signal()

    @property
    def channels(self) -> Sequence[str]:
        return self.names

    @property
    def problems(self) -> Sequence[str]:
        return ()

    def check(self, channel: str) -> str | None:
        return self.unusable.get(channel)

    def send(self, channel: str, message: AlertMessage) -> SendOutcome:
        with self.signal:
            self.attempts.append(channel)
        if channel in self.hanging:
            self.stopped.wait(DEADLINE_SECONDS)
            return SendOutcome(sent=False, detail="ended", took_seconds=1.0)
        with self.signal:
            if channel in self.refusing:
                return SendOutcome(sent=False, detail="error=503", took_seconds=0.1)
            self.taken.append((channel, message.title))
        return SendOutcome(sent=True, detail="", took_seconds=0.1)

    def stop(self) -> None:
        self.stopped.set()

    def await_taken(self, count: int) -> None:
        self.signal.wait_until(lambda: len(self.taken) >= count, f"{count} messages taken")


class Service:
    """A desk on fakes; what it remembers outlives it."""

    def __init__(self, *channels: str) -> None:
        self.clock = ManualClock()
        self.ledger = FakeLedger()
        self.sender = FakeSender(*channels)
        self.present: dict[str, Alert] = {}
        self.notices: list[Notice] = []
        self.settled = True
        self.retry_seconds = 0.01
        self.give_up_seconds = 86_400.0
        self.running: list[AlertDesk] = []

    def start(self) -> AlertDesk:
        self.memory = AlertMemory(self.ledger)
        self.courier = AlertCourier(
            memory=self.memory,
            sender=self.sender,
            clock=self.clock,
            terms=CourierTerms(
                retry_seconds=self.retry_seconds,
                retry_max_seconds=0.02,
                give_up_seconds=self.give_up_seconds,
            ),
        )
        desk = AlertDesk(
            look=lambda now: Sightings(present=dict(self.present)),
            terms=AlertTerms(group_seconds=10, pause_seconds=20, clear_seconds=30),
            memory=self.memory,
            courier=self.courier,
            post=self.notices.append,
            clock=self.clock,
            source="host-1",
            is_settled=lambda: self.settled,
            quiet_seconds=600,
        )
        desk.start()
        self.running.append(desk)
        return desk

    def see(self, *alerts: Alert) -> None:
        self.present = {alert.key: alert for alert in alerts}

    def checks(self, desk: AlertDesk, count: int = 4, every_seconds: float = 10) -> None:
        for _ in range(count):
            desk.check()
            self.clock.advance(every_seconds)

    def states(self) -> list[tuple[str, str]]:
        return [(notice.data["kind"], notice.data["state"]) for notice in self.notices]


@pytest.fixture
def make() -> Iterator[Callable[..., Service]]:
    made: list[Service] = []

    def service(*channels: str) -> Service:
        made.append(Service(*channels))
        return made[-1]

    yield service
    for item in made:
        for desk in item.running:
            desk.stop(DEADLINE_SECONDS)


def test_an_alert_goes_to_every_channel_and_to_the_notice_board(
    make: Callable[..., Service],
) -> None:
    service = make("slack-1", "mailto-1")
    desk = service.start()
    service.see(GONE)
    service.checks(desk)
    service.sender.await_taken(2)
    assert sorted(service.sender.taken) == [
        ("mailto-1", "WhatsApp: Bella was logged out"),
        ("slack-1", "WhatsApp: Bella was logged out"),
    ]
    (notice,) = service.notices
    assert (notice.kind, notice.company_id) == (NoticeKind.ALERT, COMPANY)
    assert notice.data["state"] == "open"
    service.see()
    service.checks(desk, 8)
    service.sender.await_taken(4)
    assert service.states() == [("session-logged-out", "open"), ("session-logged-out", "resolved")]
    assert desk.open_alerts() == []


def test_nothing_is_told_before_the_start_up_restore_is_over(make: Callable[..., Service]) -> None:
    service = make("slack-1")
    service.settled = False
    desk = service.start()
    service.see(GONE)
    service.checks(desk, 8)
    assert service.notices == []
    service.settled = True
    service.checks(desk)
    service.sender.await_taken(1)


def test_a_start_up_restore_without_end_does_not_silence_for_ever(
    make: Callable[..., Service],
) -> None:
    service = make("slack-1")
    service.settled = False
    desk = service.start()
    service.see(GONE)
    service.clock.advance(601)
    service.checks(desk)
    service.sender.await_taken(1)


def test_a_restart_repeats_nothing_and_tells_what_is_over(make: Callable[..., Service]) -> None:
    service = make("slack-1")
    desk = service.start()
    service.see(GONE)
    service.checks(desk)
    service.sender.await_taken(1)
    desk.stop(DEADLINE_SECONDS)
    service.sender.stopped.clear()

    desk = service.start()
    service.checks(desk, 10)
    assert len(service.notices) == 1
    service.see()
    service.checks(desk, 10)
    service.sender.await_taken(2)
    assert [title for _, title in service.sender.taken] == [
        "WhatsApp: Bella was logged out",
        "WhatsApp, resolved: Bella is linked again, or not wanted any more",
    ]


def test_a_channel_that_hangs_holds_up_no_other_and_no_check(make: Callable[..., Service]) -> None:
    service = make("hangs-1", "works-1")
    service.sender.hanging.add("hangs-1")
    desk = service.start()
    service.see(GONE)
    service.checks(desk)
    service.sender.await_taken(1)
    service.see(GONE, replace(GONE, kind=AlertKind.SNAPSHOT_OLD))
    service.checks(desk, 10)
    service.sender.await_taken(2)
    assert {name for name, _ in service.sender.taken} == {"works-1"}
    assert len(service.memory.record.outbox) == 2


def test_what_a_channel_did_not_take_is_sent_in_order_when_it_does(
    make: Callable[..., Service],
) -> None:
    service = make("slack-1")
    service.sender.refusing.add("slack-1")
    desk = service.start()
    service.see(GONE)
    service.checks(desk)
    service.sender.signal.wait_until(lambda: len(service.sender.attempts) > 3, "attempts")
    service.see()
    service.checks(desk, 8)
    check = alert_check(service.memory, service.courier)
    assert (check.ok, check.detail) == (False, "slack-1: error=503")
    assert check.data["channels"][0]["waiting"] == 2
    assert check.data["channels"][0]["failed"] >= 3
    service.sender.refusing.clear()
    service.sender.await_taken(2)
    titles = [title for _, title in service.sender.taken]
    assert titles[0].startswith("WhatsApp: ")
    assert titles[1].startswith("WhatsApp, resolved: ")
    service.ledger.signal.wait_until(lambda: not service.ledger.record.outbox, "an empty outbox")
    assert alert_check(service.memory, service.courier).ok


def test_what_was_not_sent_is_sent_after_a_restart(make: Callable[..., Service]) -> None:
    service = make("slack-1", "gone-1")
    service.sender.hanging |= {"slack-1", "gone-1"}
    desk = service.start()
    service.see(GONE)
    service.checks(desk)
    desk.stop(DEADLINE_SECONDS)
    assert len(service.ledger.record.outbox) == 2

    service.sender = FakeSender("slack-1")
    service.start()
    service.sender.await_taken(1)
    assert service.memory.record.outbox == (), "a channel that is gone keeps nothing"


def test_a_message_is_given_up_after_a_day(make: Callable[..., Service]) -> None:
    service = make("slack-1")
    service.give_up_seconds = 3600.0
    service.sender.refusing.add("slack-1")
    desk = service.start()
    service.see(GONE)
    service.checks(desk)
    service.clock.advance(7200)
    service.ledger.signal.wait_until(lambda: service.memory.dropped == 1, "the message given up")
    check = alert_check(service.memory, service.courier)
    assert "1 messages were given up" in check.detail


def test_a_full_outbox_drops_the_oldest(make: Callable[..., Service]) -> None:
    service = make("slack-1")
    service.sender.hanging.add("slack-1")
    service.start()
    message = AlertMessage(state="open", severity="warning", title="", body="")  # type: ignore[arg-type]
    for number in range(MOST_WAITING + 5):
        copies = service.courier.copies(str(number), message, service.clock.now())
        service.memory.change(
            lambda record, new=copies: replace(record, outbox=record.outbox + new)
        )  # type: ignore[misc]
    assert service.memory.dropped == 5
    assert service.memory.record.outbox[0].id == "5"


def test_an_address_that_cannot_be_used_is_told_at_the_start(make: Callable[..., Service]) -> None:
    service = make("foo-1")
    service.sender.unusable["foo-1"] = "apprise does not know this URL"
    service.start()

    def told() -> bool:
        return not alert_check(service.memory, service.courier).ok

    with service.courier._changed:
        assert service.courier._changed.wait_for(told, DEADLINE_SECONDS)
    assert "does not know" in alert_check(service.memory, service.courier).detail


def test_a_disk_that_refuses_stops_no_alert(make: Callable[..., Service]) -> None:
    service = make("slack-1")
    desk = service.start()
    service.ledger.refusal = StorageError("no space left")
    service.see(GONE)
    service.checks(desk)
    service.sender.await_taken(1)
    assert "no space left" in alert_check(service.memory, service.courier).detail
    service.ledger.refusal = None
    desk.check()
    assert service.memory.problem is None
    assert GONE.key in service.ledger.record.book.entries


def test_nothing_is_written_while_nothing_changes(make: Callable[..., Service]) -> None:
    service = make("slack-1")
    desk = service.start()
    service.see(GONE)
    service.checks(desk, 6)
    service.sender.await_taken(1)
    service.ledger.signal.wait_until(lambda: not service.ledger.record.outbox, "an empty outbox")
    service.checks(desk, 3)
    writes = service.ledger.writes
    service.checks(desk, 50)
    assert service.ledger.writes == writes


def test_after_the_stop_nothing_is_news(make: Callable[..., Service]) -> None:
    service = make("slack-1")
    desk = service.start()
    desk.stop(DEADLINE_SECONDS)
    service.see(GONE)
    service.checks(desk)
    assert service.notices == []


def test_without_a_channel_alerts_are_told_to_programs(make: Callable[..., Service]) -> None:
    service = make()
    desk = service.start()
    service.see(GONE)
    service.checks(desk)
    assert service.states() == [("session-logged-out", "open")]
    check = alert_check(service.memory, service.courier)
    assert (check.ok, check.detail) == (True, "no channel: ALERT_URLS is not set")
    assert check.data["open"] == {"session-logged-out": 1}
