"""Who is sent next, and who has to leave threads to others."""

from collections import deque

from crm_whatsapp.domain.webhooks import Delivery
from crm_whatsapp.service.webhook_lanes import Lane, Share, WebhookLanes, lanes_of
from tests.unit.service.fakes import NOON
from tests.unit.service.webhook_world import notice


def delivery(number: int, *, webhook: str = "a", lane: str = "1") -> Delivery:
    return Delivery(
        id=number,
        webhook_id=webhook,
        lane=lane,
        notice=notice(),
        attempt=1,
        queued_at=NOON,
        token="t",
    )


def lane(webhook: str) -> Lane:
    return Lane(webhook, deque([delivery(1, webhook=webhook)]), until=60.0)


def started(lanes: WebhookLanes) -> list[Lane]:
    found = []
    while (item := lanes.start_next()) is not None:
        found.append(item)
    return found


def make(threads: int = 8, per_target: int = 3, **allowances: int) -> WebhookLanes:
    return WebhookLanes(
        Share(threads=threads, per_target=per_target, waiting_per_target=4), allowances.get
    )


def test_deliveries_of_a_lane_stay_together_and_in_order() -> None:
    claimed = [
        delivery(1, lane="x"),
        delivery(2, lane="y", webhook="b"),
        delivery(3, lane="x"),
    ]
    first, second = lanes_of(claimed, until=9.0)
    assert ([it.id for it in first.deliveries], first.webhook_id) == ([1, 3], "a")
    assert ([it.id for it in second.deliveries], second.webhook_id) == ([2], "b")
    assert first.until == 9.0


def test_one_target_gets_its_share_and_no_more() -> None:
    lanes = make()
    lanes.add([lane("a") for _ in range(5)])
    assert len(started(lanes)) == 3
    assert (lanes.running, lanes.waiting) == (3, 2)


def test_targets_with_the_fewest_requests_come_first() -> None:
    lanes = make()
    lanes.add([lane("a") for _ in range(5)])
    lanes.start_next()
    lanes.add([lane("b")])
    following = lanes.start_next()
    assert following is not None
    assert following.webhook_id == "b"


def test_the_last_threads_are_for_those_who_have_none() -> None:
    lanes = make(threads=8, per_target=6)
    for slow in ("a", "b"):
        lanes.add([lane(slow) for _ in range(10)])
    assert len(started(lanes)) == 6, "two slow targets leave a quarter"
    lanes.add([lane("c"), lane("c")])
    lanes.add([lane("d")])
    assert [item.webhook_id for item in started(lanes)] == ["c", "d"]
    lanes.add([lane("e")])
    assert started(lanes) == [], "no thread is left at all"


def test_breakers_are_obeyed() -> None:
    lanes = make(shut=0, trying=1)
    lanes.add([lane("shut"), lane("trying"), lane("trying"), lane("a")])
    assert sorted(item.webhook_id for item in started(lanes)) == ["a", "trying"]
    assert len(lanes.withdraw("shut")) == 1
    assert lanes.withdraw("shut") == []


def test_a_finished_lane_makes_room() -> None:
    lanes = make(per_target=1)
    lanes.add([lane("a"), lane("a")])
    first = lanes.start_next()
    assert first is not None
    assert lanes.start_next() is None
    lanes.finish(first)
    assert lanes.start_next() is not None
    assert lanes.running == 1


def test_enough_waiting_lanes_are_enough() -> None:
    lanes = make()
    lanes.add([lane("a") for _ in range(4)])
    lanes.add([lane("b") for _ in range(3)])
    assert lanes.saturated_ids() == ["a"]
    assert len(lanes.withdraw_all()) == 7
    assert lanes.waiting == 0
