"""Nothing twice, nothing missing, nobody slowed down, and never something old believed."""

import json
import random
import select
import threading
import uuid
from dataclasses import replace
from typing import Any

import pytest

from crm_whatsapp.domain.connection import Connection, PairingMethod, Reason, Status
from crm_whatsapp.domain.errors import ServiceStopping, TooManyStreams
from crm_whatsapp.domain.events import QrIssued
from crm_whatsapp.domain.notices import Notice, NoticeKind
from crm_whatsapp.domain.transitions import Transition
from crm_whatsapp.service.company_runtime import ScanCode
from crm_whatsapp.service.event_stream import EventStream, StreamLimits
from crm_whatsapp.service.event_subscription import Audience, StreamEnd, Subscription
from crm_whatsapp.service.scan_code_notices import scan_code_notice
from crm_whatsapp.service.status_notices import forgotten_notice, status_notice
from tests.unit.service.fakes import DEADLINE_SECONDS, ManualClock
from tests.unit.service.pod import COMPANY, OTHER, THIRD, Pod, online

LIMITS = StreamLimits(
    streams=4, streams_per_principal=2, buffer_events=50, buffer_bytes=1_000_000, client_events=10
)
EVERYBODY = Audience(principal_id="service", codes_of=None)
ONE = Audience(
    principal_id="one",
    companies=frozenset({COMPANY}),
    codes_of=frozenset({COMPANY}),
    is_limited=True,
)

CLOCK = ManualClock()


@pytest.fixture
def stream() -> EventStream:
    return EventStream(LIMITS, CLOCK)


def status(company_id: str = COMPANY, **changes: Any) -> Notice:
    """Return the notice of a transition to `connected`, or to what is said."""
    connection = replace(online(company_id), **changes)
    return status_notice(
        Transition(
            id=str(uuid.uuid4()),
            connection=connection,
            event="ClientConnected",
            from_status=Status.CONNECTING,
            occurred_at=CLOCK.now(),
        )
    )


def awaiting_scan(company_id: str = COMPANY) -> Notice:
    return status(company_id, status=Status.AWAITING_SCAN, reason=Reason.PAIRING)


def code(company_id: str = COMPANY, method: PairingMethod = PairingMethod.QR) -> Notice:
    value = ScanCode(method=method, value="2@secret", expires_at=CLOCK.now())
    return scan_code_notice(company_id, value, CLOCK.now())


def message(company_id: str, text: str) -> Notice:
    return Notice(
        id=str(uuid.uuid4()),
        kind=NoticeKind.MESSAGE,
        company_id=company_id,
        occurred_at=CLOCK.now(),
        data={"text": text},
    )


class Heard:
    """What a client makes of the blocks it was sent, as the standard says."""

    def __init__(self, last_event_id: str | None = None) -> None:
        self.last_event_id = last_event_id
        self.events: list[tuple[str, dict[str, Any]]] = []

    def take(self, subscription: Subscription) -> "Heard":
        for block in b"".join(subscription.take().blocks).decode().split("\n\n")[:-1]:
            fields = dict(line.split(": ", 1) for line in block.split("\n"))
            self.last_event_id = fields.get("id", self.last_event_id)
            if "data" in fields:
                self.events.append((fields["event"], json.loads(fields["data"])))
        return self

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.events]

    @property
    def ids(self) -> list[str]:
        return [data["notice_id"] for name, data in self.events if name != "snapshot"]


def hear(subscription: Subscription) -> Heard:
    return Heard().take(subscription)


def is_signalled(subscription: Subscription) -> bool:
    poll = select.poll()
    poll.register(subscription, select.POLLIN)
    return bool(poll.poll(0))


def test_a_status_is_told_with_all_that_a_poll_tells(stream: EventStream) -> None:
    subscription = stream.subscribe(EVERYBODY, snapshot=False)
    notice = status()
    stream.carry(notice)

    ((name, data),) = hear(subscription).events

    assert name == "status"
    assert data.pop("company_id") == COMPANY
    assert data.pop("timestamp") == CLOCK.now().isoformat().replace("+00:00", "Z")
    assert data.pop("notice_id") == notice.id
    assert data.pop("previous_status") == "connecting"
    assert data.pop("event") == "ClientConnected"
    assert data["status"] == "connected"
    assert {"company_id": COMPANY, **data} == {
        name: value
        for name, value in notice.data.items()
        if name not in ("previous_status", "event")
    }


def test_a_fresh_client_is_told_how_things_are(stream: EventStream) -> None:
    stream.begin([online(COMPANY), online(OTHER)])
    stream.carry(status(OTHER, status=Status.CONNECTING, reason=Reason.NETWORK_LOST))
    heard = hear(stream.subscribe(EVERYBODY))

    (first, head), *rest = heard.events

    assert (first, head["companies"], head["resync"]) == ("snapshot", 2, False)
    assert {(data["company_id"], data["status"]) for _, data in rest} == {
        (COMPANY, "connected"),
        (OTHER, "connecting"),
    }
    assert all(data["event"] is data["previous_status"] is None for _, data in rest)
    assert "resync" not in rest[0][1]
    assert heard.last_event_id is not None


def test_who_is_cut_off_within_the_snapshot_gets_all_of_it_again(stream: EventStream) -> None:
    stream.begin([online(COMPANY), online(OTHER)])
    blocks = stream.subscribe(EVERYBODY).take().blocks

    assert [b"\nid: " in b"\n" + block for block in blocks] == [False, False, False, True]


def test_what_was_not_known_at_the_start_is_what_the_caller_knows(stream: EventStream) -> None:
    restoring = Connection(company_id=COMPANY, status=Status.CONNECTING)
    heard = hear(stream.subscribe(ONE, unknown=restoring))

    assert [data["status"] for name, data in heard.events if name == "status"] == ["connecting"]

    stream.carry(status(COMPANY))
    heard = hear(stream.subscribe(ONE, unknown=restoring))
    assert [data["status"] for name, data in heard.events if name == "status"] == ["connected"]


def test_from_a_known_id_on_exactly_what_followed(stream: EventStream) -> None:
    first = stream.subscribe(EVERYBODY, snapshot=False)
    notices = [status(company_id) for company_id in (COMPANY, OTHER) * 5]
    for notice in notices[:4]:
        stream.carry(notice)
    heard = hear(first)
    first.close()
    for notice in notices[4:]:
        stream.carry(notice)

    again = stream.subscribe(EVERYBODY, last_event_id=heard.last_event_id)

    assert heard.take(again).ids == [notice.id for notice in notices]


def test_the_newest_id_is_known_too(stream: EventStream) -> None:
    stream.carry(status())
    position = stream.subscribe(EVERYBODY).take().position
    again = stream.subscribe(EVERYBODY, last_event_id=position)

    assert hear(again).events == []
    assert not is_signalled(again)
    stream.carry(status())
    assert is_signalled(again)
    assert hear(again).names == ["status"]


def test_an_id_of_another_audience_is_as_good(stream: EventStream) -> None:
    position = stream.subscribe(ONE).take().position
    for company_id in (OTHER, COMPANY, OTHER):
        stream.carry(status(company_id))

    narrow = hear(stream.subscribe(ONE, last_event_id=position))
    wide = hear(stream.subscribe(EVERYBODY, last_event_id=position))

    assert [data["company_id"] for _, data in narrow.events] == [COMPANY]
    assert [data["company_id"] for _, data in wide.events] == [OTHER, COMPANY, OTHER]


UNKNOWN_IDS = ["", "garbage", "00000000-1", "{run}-", "{run}-x", "{run}--1", "{run}-٣"]
UNKNOWN_IDS += ["{run}-999", "{run}-0", "{run}-" + "9" * 40]


@pytest.mark.parametrize("unknown_id", UNKNOWN_IDS)
def test_an_unknown_id_leads_to_how_things_are(stream: EventStream, unknown_id: str) -> None:
    for _ in range(LIMITS.buffer_events + 1):  # so that what followed 0 is no longer complete
        stream.carry(status())
    run = stream.subscribe(EVERYBODY).take().position.split("-")[0]

    heard = hear(stream.subscribe(EVERYBODY, last_event_id=unknown_id.replace("{run}", run)))

    assert heard.names == ["snapshot", "status"]
    assert [data["resync"] for _, data in heard.events] == [True, True]


def test_the_oldest_that_is_kept_is_known(stream: EventStream) -> None:
    for _ in range(LIMITS.buffer_events + 1):
        stream.carry(status())
    run = stream.subscribe(EVERYBODY).take().position.split("-")[0]

    heard = hear(stream.subscribe(EVERYBODY, last_event_id=f"{run}-1"))

    assert len(heard.ids) == LIMITS.buffer_events


def test_a_resync_is_told_even_to_who_wants_no_snapshot(stream: EventStream) -> None:
    stream.begin([online(COMPANY)])
    heard = hear(stream.subscribe(EVERYBODY, last_event_id="lost-1", snapshot=False))

    assert heard.names == ["snapshot", "status"]


def test_ids_of_an_earlier_run_are_not_known(stream: EventStream) -> None:
    stream.carry(status())
    position = stream.subscribe(EVERYBODY).take().position
    restarted = EventStream(LIMITS, CLOCK)
    restarted.carry(status())

    assert hear(restarted.subscribe(EVERYBODY, last_event_id=position)).names[0] == "snapshot"


def test_what_is_kept_is_bounded_in_bytes() -> None:
    stream = EventStream(replace(LIMITS, buffer_bytes=4_000, streams=8), CLOCK)
    listener = stream.subscribe(EVERYBODY, snapshot=False)
    run, position = listener.take().position.split("-")
    assert position == "0"
    for text in ("a", "b" * 2_500, "c" * 2_500):
        stream.carry(message(COMPANY, text))

    assert [data["text"][0] for _, data in hear(listener).events] == ["a", "b", "c"]
    followed = hear(stream.subscribe(EVERYBODY, last_event_id=f"{run}-2"))
    assert [data["text"][0] for _, data in followed.events] == ["c"]
    assert hear(stream.subscribe(EVERYBODY, last_event_id=f"{run}-1")).names[0] == "snapshot"

    stream.carry(message(COMPANY, "d" * 9_000))  # larger than all that may be kept
    assert [data["text"][0] for _, data in hear(listener).events] == ["d"]
    assert hear(stream.subscribe(EVERYBODY, last_event_id=f"{run}-3")).names[0] == "snapshot"
    assert hear(stream.subscribe(EVERYBODY, last_event_id=f"{run}-4")).events == []


def test_codes_are_told_to_those_who_may_see_them(stream: EventStream) -> None:
    reader = stream.subscribe(replace(EVERYBODY, codes_of=frozenset()), snapshot=False)
    manager = stream.subscribe(EVERYBODY, snapshot=False)
    stream.carry(awaiting_scan())
    stream.carry(code())
    stream.carry(code(OTHER, PairingMethod.PAIRING_CODE))

    assert hear(manager).names == ["status", "qr", "pairing_code"]
    assert hear(reader).names == ["status"]
    for audience, names in ((EVERYBODY, ["qr"]), (replace(EVERYBODY, codes_of=frozenset()), [])):
        late = stream.subscribe(audience)
        assert [name for name in hear(late).names if name in ("qr", "pairing_code")] == names
        late.close()


def test_the_code_of_a_qr_event_is_what_the_qr_call_returns(stream: EventStream) -> None:
    subscription = stream.subscribe(EVERYBODY, snapshot=False)
    stream.carry(code())
    stream.carry(code(method=PairingMethod.PAIRING_CODE))

    (_, qr), (_, typed) = hear(subscription).events

    assert (qr["value"], qr["company_id"]) == ("2@secret", COMPANY)
    assert (typed["code"], "value" in typed) == ("2@secret", False)
    assert qr["expires_at"].endswith("Z")


def test_a_code_is_gone_with_the_pairing(stream: EventStream) -> None:
    stream.carry(awaiting_scan())
    stream.carry(code())
    stream.carry(status())

    assert hear(stream.subscribe(ONE)).names == ["snapshot", "status"]


def test_a_forgotten_company_is_told_as_never_connected_and_then_no_more(
    stream: EventStream,
) -> None:
    stream.begin([online(COMPANY), online(OTHER)])
    subscription = stream.subscribe(EVERYBODY, snapshot=False)
    stream.carry(forgotten_notice(online(COMPANY), CLOCK.now()))

    ((_, data),) = hear(subscription).events
    assert (data["status"], data["reason"]) == ("disconnected", "never-connected")
    heard = hear(stream.subscribe(EVERYBODY))
    assert [item["company_id"] for name, item in heard.events if name == "status"] == [OTHER]


def test_alerts_and_notices_without_a_company_are_not_carried(stream: EventStream) -> None:
    subscription = stream.subscribe(EVERYBODY, snapshot=False)
    stream.carry(replace(message(COMPANY, "x"), kind=NoticeKind.ALERT))
    stream.carry(replace(message(COMPANY, "x"), company_id=None))
    stream.carry(replace(message(COMPANY, "é\u2028\n"), kind=NoticeKind.RECEIPT))

    ((name, data),) = hear(subscription).events
    assert (name, data["text"]) == ("receipt", "é\u2028\n")


def test_a_slow_client_is_ended_slows_nobody_and_goes_on_later(stream: EventStream) -> None:
    slow, quick = (stream.subscribe(EVERYBODY, snapshot=False) for _ in range(2))
    heard, late = Heard().take(quick), Heard().take(slow)
    for _ in range(LIMITS.client_events + 5):
        stream.carry(status())
        heard.take(quick)

    assert slow.has_ended() and not quick.has_ended()
    assert slow.take().end is StreamEnd.TOO_SLOW
    assert stream.figures.ended_slow == 1
    slow.close()
    again = stream.subscribe(EVERYBODY, last_event_id=late.last_event_id)
    assert late.take(again).ids == heard.ids


def test_what_a_client_missed_does_not_make_it_slow(stream: EventStream) -> None:
    position = stream.subscribe(EVERYBODY).take().position
    for _ in range(30):
        stream.carry(status())
    back = stream.subscribe(EVERYBODY, last_event_id=position)
    for _ in range(LIMITS.client_events):
        stream.carry(status())

    assert len(hear(back).ids) == 30 + LIMITS.client_events


def test_places_are_limited_and_given_back(stream: EventStream) -> None:
    mine = [stream.subscribe(ONE) for _ in range(2)]
    with pytest.raises(TooManyStreams, match="one key"):
        stream.subscribe(ONE)
    others = [stream.subscribe(EVERYBODY) for _ in range(2)]
    with pytest.raises(TooManyStreams) as refusal:
        stream.subscribe(EVERYBODY)
    assert refusal.value.details == {"limit": 4}
    assert (stream.open_streams, stream.figures.refused) == (4, 2)

    mine[0].close()
    mine[0].close()
    assert stream.open_streams == 3
    stream.subscribe(ONE)
    for subscription in [*mine, *others]:
        subscription.close()
    assert stream.open_streams == 1


def test_a_company_with_many_keys_leaves_some_streams_to_others() -> None:
    stream = EventStream(replace(LIMITS, streams=20), CLOCK)
    own = [stream.subscribe(replace(ONE, principal_id=f"key {number}")) for number in range(16)]
    with pytest.raises(TooManyStreams, match="companies that have fewer") as refusal:
        stream.subscribe(replace(ONE, principal_id="key 17"))
    assert refusal.value.details == {"limit": 4}
    both = replace(ONE, principal_id="both", companies=frozenset({COMPANY, OTHER}))
    with pytest.raises(TooManyStreams):
        stream.subscribe(both)

    other = Audience(
        principal_id="other", companies=frozenset({OTHER}), codes_of=frozenset(), is_limited=True
    )
    stream.subscribe(other)
    stream.subscribe(EVERYBODY)  # the operator's own is not counted
    for subscription in own[:3]:
        subscription.close()
    stream.subscribe(ONE)  # there is room again


def test_none_are_opened_when_they_are_off() -> None:
    with pytest.raises(TooManyStreams):
        EventStream(replace(LIMITS, streams=0), CLOCK).subscribe(EVERYBODY)


def test_a_stop_ends_all_and_refuses_more(stream: EventStream) -> None:
    subscription = stream.subscribe(EVERYBODY, snapshot=False)
    hear(subscription)
    stream.carry(status())
    stream.stop()

    assert is_signalled(subscription)
    taken = subscription.take()
    assert (len(taken.blocks), taken.end) == (1, StreamEnd.STOPPING)
    with pytest.raises(ServiceStopping):
        stream.subscribe(EVERYBODY)
    stream.carry(status())
    assert subscription.take().blocks == []


def test_a_closed_subscription_is_left_alone(stream: EventStream) -> None:
    subscription = stream.subscribe(EVERYBODY)
    subscription.close()
    stream.carry(status())
    stream.stop()

    assert subscription.take().blocks == []


STORM = StreamLimits(
    streams=16,
    streams_per_principal=1,
    buffer_events=100_000,
    buffer_bytes=100_000_000,
    client_events=40,
)
COMPANIES = (COMPANY, OTHER, THIRD, "11111111-60e5-4e93-a0df-f55dd5c3d40c")


def come_and_go(
    stream: EventStream, number: int, only: str | None, over: threading.Event, heard: Heard
) -> None:
    """Listen, leave at random moments and come back, until all was posted and heard."""
    dice = random.Random(number)  # noqa: S311
    audience = Audience(
        principal_id=str(number), companies=None if only is None else frozenset({only})
    )
    is_last = False
    while not is_last:
        is_last = over.is_set()
        subscription = stream.subscribe(audience, last_event_id=heard.last_event_id)
        poll = select.poll()
        poll.register(subscription, select.POLLIN)
        for _ in range(dice.randrange(1, 8)):
            poll.poll(5)
            heard.take(subscription)
        subscription.close()


def test_storm_with_reconnects_loses_and_doubles_nothing() -> None:
    stream = EventStream(STORM, CLOCK)
    posted: dict[str, list[str]] = {company_id: [] for company_id in COMPANIES}

    def post(company_id: str) -> None:
        for _ in range(500):
            notice = status(company_id)
            posted[company_id].append(notice.id)
            stream.carry(notice)

    start = stream.subscribe(EVERYBODY).take().position
    reach = [*COMPANIES, None, None, None, None]
    clients = [(Heard(start), only) for only in reach]
    over = threading.Event()
    posters = [threading.Thread(target=post, args=(company_id,)) for company_id in COMPANIES]
    listeners = [
        threading.Thread(target=come_and_go, args=(stream, number, only, over, heard))
        for number, (heard, only) in enumerate(clients)
    ]
    for thread in [*listeners, *posters]:
        thread.start()
    for thread in posters:
        thread.join(DEADLINE_SECONDS * 10)
    over.set()
    for thread in listeners:
        thread.join(DEADLINE_SECONDS * 10)

    assert not any(thread.is_alive() for thread in [*listeners, *posters])
    for heard, only in clients:
        for company_id in [only] if only else COMPANIES:
            ids = [
                data["notice_id"] for _, data in heard.events if data["company_id"] == company_id
            ]
            assert ids == posted[company_id]
    assert len({tuple(heard.ids) for heard, only in clients if only is None}) == 1, "one order"


def test_the_session_manager_tells_of_codes_and_of_rows_it_takes_over() -> None:
    pod = Pod()
    stream = EventStream(LIMITS, pod.clock)
    pod.notices.listen(stream.carry)
    pod.recorder.listen(lambda transition: pod.notices.post(status_notice(transition)))
    subscription = stream.subscribe(EVERYBODY, snapshot=False)
    hear(subscription)
    pod.start(restores=False)
    try:
        pod.manager.connect(COMPANY, method=PairingMethod.QR)
        pairing = pod.settle()
        pod.manager.post_engine_event(
            QrIssued(
                company_id=COMPANY,
                generation=pairing.generation,
                value="2@secret",
                expires_in_seconds=60.0,
            )
        )
        pod.await_status(Status.AWAITING_SCAN)
        pod.manager.rows.adopt(online(OTHER))
        pod.manager.rows.adopt(online(OTHER, version=2))  # nothing that shows is different
        pod.settle(COMPANY)
        pod.settle(OTHER)
        heard = hear(subscription)
    finally:
        pod.end()

    told = [name for name, data in heard.events if data["company_id"] == COMPANY]
    assert told[-2:] == ["status", "qr"]
    assert [data["value"] for name, data in heard.events if name == "qr"] == ["2@secret"]
    adopted = [data for _, data in heard.events if data["company_id"] == OTHER]
    assert [(data["status"], data["event"]) for data in adopted] == [("connected", "row-adopted")]
