"""Messages and receipts on their way to the notice board."""

import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from crm_whatsapp.domain.inbound import (
    InboundEvent,
    MessageArrived,
    MessageType,
    ReceiptArrived,
    ReceiptType,
)
from crm_whatsapp.domain.notices import Notice, NoticeKind
from crm_whatsapp.service.inbox import Inbox
from crm_whatsapp.service.notice_board import NoticeBoard
from tests.unit.service.fakes import ManualClock
from tests.unit.service.pod import COMPANY, OTHER, Pod

ANNA = "5511988887777@s.whatsapp.net"
SENT_AT = datetime(2026, 11, 21, 9, 30, 15, 250_000, tzinfo=UTC)

MESSAGE = MessageArrived(
    company_id=COMPANY,
    generation=1,
    chat=ANNA,
    sender=ANNA,
    sender_lid="360755973120501@lid",
    is_group=False,
    from_me=False,
    sent_at_ms=int(SENT_AT.timestamp() * 1000),
    message_id="3EB0AAAA",
    message_type=MessageType.TEXT,
    push_name="Anna",
    text="Is it ready?",
)
RECEIPT = ReceiptArrived(
    company_id=COMPANY,
    generation=1,
    chat=ANNA,
    sender=ANNA,
    is_group=False,
    from_me=False,
    sent_at_ms=int(SENT_AT.timestamp() * 1000),
    message_ids=("3EB0BBBB", "3EB0CCCC"),
    receipt_type=ReceiptType.READ,
)


class Outside:
    """An inbox and what came out of it."""

    def __init__(self, most_remembered: int = 500) -> None:
        self.notices: list[Notice] = []
        self.taken: list[tuple[str, int]] = []
        self.clock = ManualClock()
        board = NoticeBoard()
        board.listen(self.notices.append)
        self.inbox = Inbox(
            notices=board,
            clock=self.clock,
            taken=lambda company_id, generation: self.taken.append((company_id, generation)),
            most_remembered=most_remembered,
        )

    def take(self, event: InboundEvent) -> Notice | None:
        told = len(self.notices)
        self.inbox.take(event)
        return self.notices[-1] if len(self.notices) > told else None

    def tell(self, event: InboundEvent) -> Notice:
        notice = self.take(event)
        assert notice is not None
        return notice


@pytest.fixture
def outside() -> Outside:
    return Outside()


def test_a_message(outside: Outside) -> None:
    notice = outside.tell(MESSAGE)
    assert (notice.kind, notice.company_id) == (NoticeKind.MESSAGE, COMPANY)
    assert notice.occurred_at == outside.clock.now()
    assert notice.data == {
        "message_id": "3EB0AAAA",
        "chat": ANNA,
        "from": ANNA,
        "from_number": "+5511988887777",
        "from_lid": "360755973120501@lid",
        "from_name": "Anna",
        "is_group": False,
        "from_me": False,
        "timestamp": "2026-11-21T09:30:15.250000Z",
        "type": "text",
        "unknown_type": None,
        "text": "Is it ready?",
        "media": None,
        "reply_to": None,
    }
    assert outside.taken == [(COMPANY, 1)]


def test_media_without_its_bytes(outside: Outside) -> None:
    document = replace(
        MESSAGE,
        message_type=MessageType.DOCUMENT,
        mimetype="application/pdf",
        filename="offer.pdf",
        size_bytes=48,
    )
    assert outside.tell(document).data["media"] == {
        "mimetype": "application/pdf",
        "filename": "offer.pdf",
        "size_bytes": 48,
    }


def test_a_hidden_sender_has_no_number(outside: Outside) -> None:
    hidden = replace(MESSAGE, sender="360755973120501@lid", chat="360755973120501@lid")
    data = outside.tell(hidden).data
    assert (data["from"], data["from_number"]) == ("360755973120501@lid", None)


@pytest.mark.parametrize("sent_at_ms", [0, -5, 2**62])
def test_without_a_time_of_its_own_it_has_the_time_it_came(
    outside: Outside, sent_at_ms: int
) -> None:
    data = outside.tell(replace(MESSAGE, sent_at_ms=sent_at_ms)).data
    assert data["timestamp"] == outside.clock.now().isoformat().replace("+00:00", "Z")


def test_a_receipt(outside: Outside) -> None:
    notice = outside.tell(RECEIPT)
    assert notice.kind is NoticeKind.RECEIPT
    assert notice.data == {
        "message_ids": ["3EB0BBBB", "3EB0CCCC"],
        "chat": ANNA,
        "from": ANNA,
        "from_number": "+5511988887777",
        "from_lid": None,
        "status": "read",
        "timestamp": "2026-11-21T09:30:15.250000Z",
    }


@pytest.mark.parametrize("event", [MESSAGE, RECEIPT])
def test_what_comes_again_is_told_once_and_counted_as_taken(
    outside: Outside, event: InboundEvent
) -> None:
    outside.tell(event)
    assert outside.take(replace(event, generation=2)) is None
    assert outside.taken == [(COMPANY, 1), (COMPANY, 2)]


@pytest.mark.parametrize("event", [MESSAGE, RECEIPT])
def test_another_process_gives_it_the_same_id(event: InboundEvent) -> None:
    first, second = Outside().tell(event), Outside().tell(replace(event, generation=7))
    assert first.id == second.id
    assert str(uuid.UUID(first.id)) == first.id


def test_the_id_of_a_message_is_the_same_for_ever() -> None:
    assert Outside().tell(MESSAGE).id == "520dee4e-e16f-5fb5-be87-9debf396dd84"


@pytest.mark.parametrize(
    "other",
    [
        replace(MESSAGE, message_id="3EB0AAAB"),
        replace(MESSAGE, chat="120363000000000001@g.us"),
        replace(MESSAGE, sender="5511977776666@s.whatsapp.net"),
        replace(MESSAGE, company_id=OTHER),
        RECEIPT,
        replace(RECEIPT, message_ids=("3EB0AAAA",)),
    ],
)
def test_what_differs_has_another_id(outside: Outside, other: InboundEvent) -> None:
    assert outside.tell(MESSAGE).id != outside.tell(other).id


def test_the_steps_of_a_message_are_told_one_by_one(outside: Outside) -> None:
    kinds = (ReceiptType.DELIVERED, ReceiptType.READ, ReceiptType.PLAYED)
    ids = {outside.tell(replace(RECEIPT, receipt_type=kind)).id for kind in kinds}
    assert len(ids) == 3


def test_only_the_latest_are_remembered() -> None:
    outside = Outside(most_remembered=3)
    for number in range(4):
        outside.tell(replace(MESSAGE, message_id=f"{number}"))
    assert outside.take(replace(MESSAGE, message_id="3")) is None
    assert outside.take(replace(MESSAGE, message_id="1")) is None
    assert outside.take(replace(MESSAGE, message_id="0")) is not None


def test_a_deleted_company_is_forgotten(outside: Outside) -> None:
    outside.tell(MESSAGE)
    outside.inbox.forget(COMPANY)
    outside.tell(MESSAGE)


# --- through the manager -------------------------------------------------------------------------


@pytest.fixture
def pod() -> Iterator[Pod]:
    pod = Pod().start(restores=False, writes=False)
    yield pod
    pod.end()


def listen(pod: Pod) -> list[str]:
    texts: list[str] = []
    pod.notices.listen(
        lambda notice: (
            texts.append(notice.data["text"]) if notice.kind is NoticeKind.MESSAGE else None
        )
    )
    return texts


def write(pod: Pod, text: str, company_id: str = COMPANY, generation: int = 1) -> None:
    message = replace(
        MESSAGE, company_id=company_id, generation=generation, message_id=text, text=text
    )
    pod.manager.post_engine_event(message)


def test_messages_are_told_in_order_whichever_client_they_came_by(pod: Pod) -> None:
    texts = listen(pod)
    pod.connect_saved()
    before = pod.settle()
    for number in range(50):
        write(pod, f"{number}", generation=1 + number % 3)
    assert pod.settle() == before
    assert texts == [f"{number}" for number in range(50)]
    taken = [order for order in pod.fleet.orders if order[0] == "taken"]
    assert len(taken) == 50


def test_each_company_waits_for_its_own_alone(pod: Pod) -> None:
    texts = listen(pod)
    pod.connect_saved(COMPANY)
    pod.connect_saved(OTHER)
    go_on = threading.Event()
    pod.manager.then(COMPANY, lambda connection: go_on.wait(20) and None)
    write(pod, "waits")
    write(pod, "does not", OTHER)
    pod.settle(OTHER)
    assert texts == ["does not"]
    go_on.set()
    pod.settle()
    assert texts == ["does not", "waits"]


def test_a_message_of_a_company_that_is_not_known_is_dropped(pod: Pod) -> None:
    texts = listen(pod)
    write(pod, "to nobody", OTHER)
    assert pod.manager.find(OTHER) is None
    pod.connect_saved()
    runtime = pod.delete()
    write(pod, "too late")
    pod.drain(runtime)
    assert texts == []
    assert pod.manager.find(COMPANY) is None
    assert len([order for order in pod.fleet.orders if order[0] == "taken"]) == 2
