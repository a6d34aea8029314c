"""What the SQL functions of webhooks promise, under contention and towards strangers."""

from __future__ import annotations

import json
import random
import threading
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any

import httpx
import psycopg
import pytest

from local_supabase import LocalSupabase
from tests.contract.conftest import Rest

pytestmark = pytest.mark.contract

Database = psycopg.Connection[dict[str, Any]]
Eventually = Callable[[Callable[[], object], str], None]

CLAIMERS = 16
LANES = 60
HOLD_SECONDS = 600
NOON = "2026-03-01T12:00:00+00:00"
KINDS = ["session.status", "session.qr", "message.received", "message.status", "session.alert"]
TABLES = ["whatsapp_webhooks", "whatsapp_webhook_lanes", "whatsapp_webhook_deliveries"]


def new_id() -> str:
    return str(uuid.uuid4())


@pytest.fixture(autouse=True)
def empty(database: Database) -> Iterator[None]:
    """No webhooks before and after: one that hears of everything would hear of other tests."""
    truncate = f"truncate {', '.join(f'public.{table}' for table in TABLES)}".encode()
    database.execute(truncate)
    yield
    database.execute(truncate)


@pytest.fixture
def rests(stack: LocalSupabase, make_rest: Callable[..., Rest]) -> list[Rest]:
    """As many clients as there are contenders."""
    return [make_rest(stack.service_key) for _ in range(CLAIMERS)]


def webhook(rest: Rest, **changes: Any) -> str:
    """Register one that wants everything; return its id."""
    row = {"id": new_id(), "url": "https://crm.example.com/", "secret_value": "whsec_x"} | changes
    response = rest.client.post(
        "/whatsapp_webhooks", json=row, headers={"Prefer": "resolution=merge-duplicates"}
    )
    assert response.is_success, response.text
    return str(row["id"])


def notice(company_id: str | None, **changes: Any) -> dict[str, Any]:
    return {
        "id": new_id(),
        "kind": "message.received",
        "company_id": company_id,
        "occurred_at": NOON,
        "data": {"text": "hello"},
        **changes,
    }


def enqueue(rest: Rest, *notices: Any) -> Any:
    return rest.rpc("whatsapp_enqueue_notices_v1", p_notices=list(notices))


def claim(rest: Rest, lanes: int = 100, per_lane: int = 100, **changes: Any) -> Any:
    wanted = {"p_owner": new_id(), "p_hold_seconds": HOLD_SECONDS} | changes
    return rest.rpc("whatsapp_claim_deliveries_v1", p_lanes=lanes, p_per_lane=per_lane, **wanted)


def attempt(claimed: Any, delivery: Any, state: str = "delivered", **how: Any) -> dict[str, Any]:
    code = {} if state == "pending" else {"status_code": 200}
    return {"delivery_id": delivery["id"], "token": claimed["token"], "state": state, **code, **how}


def settle(rest: Rest, *attempts: dict[str, Any]) -> Any:
    return rest.rpc("whatsapp_settle_deliveries_v1", p_attempts=list(attempts))


def transition(company_id: str, version: int, **changes: Any) -> dict[str, Any]:
    """Make an element of a batch; `row` changes single columns of its row."""
    row = {
        "desired_state": "run",
        "status": "connected",
        "reason": "online",
        "message": "Connected.",
        "user_action": "none",
        "degraded": False,
        "restore_attempts": 0,
    }
    return {
        "id": new_id(),
        "company_id": company_id,
        "version": version,
        "occurred_at": NOON,
        "event": "connected",
        "from_status": "connecting",
        "owner_id": new_id(),
        **changes,
        "row": row | changes.get("row", {}),
    }


def record(rest: Rest, *elements: Any) -> list[str]:
    receipts = rest.rpc("whatsapp_record_transitions_v1", p_transitions=list(elements))
    return [receipt["outcome"] for receipt in receipts]


def deliveries(database: Database, webhook_id: str | None = None) -> list[dict[str, Any]]:
    """Return the rows, of one webhook where told, in the order of their places."""
    return database.execute(
        "select *, notice_id::text as notice, webhook_id::text as webhook "
        "from public.whatsapp_webhook_deliveries "
        "where webhook_id = coalesce(%s, webhook_id) order by place",
        (webhook_id,),
    ).fetchall()


def lanes(database: Database) -> list[dict[str, Any]]:
    return database.execute("select * from public.whatsapp_webhook_lanes order by id").fetchall()


def deadlocks(database: Database) -> int:
    row = database.execute(
        "select deadlocks from pg_stat_database where datname = current_database()"
    ).fetchone()
    assert row is not None
    return int(row["deadlocks"])


class TestEnqueue:
    @pytest.mark.parametrize(
        "broken",
        [
            None,
            7,
            "text",
            [],
            {},
            {"id": "no-uuid"},
            {"id": None},
            {"kind": "session.danced"},
            {"kind": None},
            {"company_id": "no-uuid"},
            {"occurred_at": "yesterday evening"},
            {"occurred_at": "infinity"},
            {"occurred_at": "10000-01-01T00:00:00Z"},
            {"occurred_at": None},
            {"data": None},
            {"data": "text"},
            {"data": []},
        ],
        ids=json.dumps,
    )
    def test_reports_a_bad_element_and_queues_the_others(
        self, service: Rest, database: Database, company_id: str, broken: Any
    ) -> None:
        webhook(service)
        if isinstance(broken, dict) and broken:
            broken = notice(company_id) | broken
        first, last = notice(company_id), notice(company_id)

        answer = enqueue(service, first, broken, last)

        assert answer["queued"] == 2
        [refusal] = answer["invalid"]
        assert refusal["index"] == 1
        assert refusal["error"]
        assert [row["notice"] for row in deliveries(database)] == [first["id"], last["id"]]

    def test_gives_rising_places_in_array_order(
        self, service: Rest, database: Database, company_id: str
    ) -> None:
        for _ in range(3):
            webhook(service)
        queued = [notice(random.choice([company_id, None])) for _ in range(50)]  # noqa: S311

        assert enqueue(service, *queued)["queued"] == 150

        rows = deliveries(database)
        assert [it["notice"] for it in rows[::3]] == [it["id"] for it in queued]
        assert [it["id"] for it in rows] == sorted(it["id"] for it in rows)

    def test_refuses_a_batch_without_bounds(self, service: Rest) -> None:
        response = service.try_rpc("whatsapp_enqueue_notices_v1", p_notices=[{}] * 1001)

        assert response.json()["code"] == "54000"

    def test_of_one_company_is_in_the_order_of_commits(
        self,
        service: Rest,
        stack: LocalSupabase,
        database: Database,
        eventually: Eventually,
        company_id: str,
    ) -> None:
        """Else the later place could be seen, and sent, before the earlier one exists."""
        webhook(service)
        first, second = notice(company_id), notice(company_id)

        with ThreadPoolExecutor(1) as pool, psycopg.connect(stack.db_url) as slow:
            slow.execute(
                "select public.whatsapp_enqueue_notices_v1(%s::jsonb)", (json.dumps([first]),)
            )
            waiting = pool.submit(enqueue, service, second)
            eventually(
                lambda: database.execute(
                    "select 1 from pg_stat_activity where %s = any (pg_blocking_pids(pid))",
                    (slow.info.backend_pid,),
                ).fetchone(),
                "the second call waits for the first",
            )
            assert claim(service)["deliveries"] == []
            slow.commit()
            waiting.result()

        assert [it["notice"] for it in deliveries(database)] == [first["id"], second["id"]]

    def test_without_webhooks_touches_nothing(
        self, service: Rest, database: Database, company_id: str
    ) -> None:
        webhook(service, enabled=False)

        assert enqueue(service, notice(company_id)) == {"queued": 0, "invalid": []}
        assert (lanes(database), deliveries(database)) == ([], [])

    def test_leaves_a_waiting_or_claimed_lane_as_it_is(
        self, service: Rest, database: Database, company_id: str
    ) -> None:
        webhook(service)
        enqueue(service, notice(company_id))
        claimed = claim(service)
        before = lanes(database)
        enqueue(service, notice(company_id))
        assert lanes(database) == before

        settle(
            service,
            attempt(claimed, claimed["deliveries"][0], "pending", error="x", retry_in_seconds=60),
        )
        before = lanes(database)
        enqueue(service, notice(company_id))
        assert lanes(database) == before


class TestClaim:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"p_owner": None},
            {"lanes": 0},
            {"lanes": 1001},
            {"lanes": None},
            {"per_lane": 0},
            {"per_lane": 1001},
            {"p_hold_seconds": 0},
            {"p_hold_seconds": 3601},
            {"p_hold_seconds": "NaN"},
            {"p_hold_seconds": None},
        ],
        ids=json.dumps,
    )
    def test_refuses_what_is_out_of_range(self, service: Rest, wrong: dict[str, Any]) -> None:
        arguments = {
            "p_owner": new_id(),
            "p_lanes": wrong.pop("lanes", 1) if "lanes" in wrong else 1,
            "p_per_lane": wrong.pop("per_lane", 1) if "per_lane" in wrong else 1,
            "p_hold_seconds": 1,
        } | wrong
        response = service.try_rpc("whatsapp_claim_deliveries_v1", **arguments)

        assert (response.status_code, response.json()["code"]) == (400, "22023")

    def test_by_contenders_at_once_gives_each_lane_to_one(
        self, service: Rest, rests: list[Rest]
    ) -> None:
        webhook(service)
        enqueue(service, *(notice(new_id()) for _ in range(LANES)))

        def contend(rest: Rest) -> list[int]:
            mine: list[int] = []
            while True:
                claimed = claim(rest, lanes=random.randint(1, 9))  # noqa: S311
                mine += [it["lane"] for it in claimed["deliveries"]]
                if not claimed["deliveries"] and claimed["next_due_seconds"] > 1:
                    return mine

        with ThreadPoolExecutor(CLAIMERS) as pool:
            taken = [lane for mine in pool.map(contend, rests) for lane in mine]

        assert len(taken) == len(set(taken)) == LANES

    def test_waits_for_nobody(
        self, service: Rest, stack: LocalSupabase, database: Database
    ) -> None:
        webhook(service)
        enqueue(service, notice(new_id()), notice(new_id()))
        busy, free = lanes(database)

        with psycopg.connect(stack.db_url) as holder:
            holder.execute(
                "select 1 from public.whatsapp_webhook_lanes where id = %s for update",
                (busy["id"],),
            )
            first, second = claim(service), claim(service)

        assert [it["lane"] for it in first["deliveries"]] == [free["id"]]
        # Somebody is at the other lane: it is due, and not worth asking for at once.
        assert (second["deliveries"], second["next_due_seconds"]) == ([], 0.05)
        assert [it["lane"] for it in claim(service)["deliveries"]] == [busy["id"]]

    def test_sees_what_was_queued_until_it_got_the_lane(
        self, service: Rest, database: Database, company_id: str
    ) -> None:
        """A lane that became due for a repeated notice has nothing: it is put to rest."""
        webhook(service)
        again = notice(company_id)
        enqueue(service, again)
        claimed = claim(service)
        settle(service, attempt(claimed, claimed["deliveries"][0]))
        enqueue(service, again)
        assert lanes(database)[0]["due_at"] is not None

        empty = claim(service)

        assert (empty["deliveries"], empty["next_due_seconds"]) == ([], None)
        assert lanes(database)[0]["due_at"] is None

    def test_stops_before_what_is_not_due(
        self, service: Rest, database: Database, company_id: str
    ) -> None:
        webhook(service)
        enqueue(service, *(notice(company_id) for _ in range(3)))
        claimed = claim(service)
        first, second, _ = claimed["deliveries"]
        settle(
            service,
            attempt(claimed, first, "pending"),
            attempt(claimed, second, "pending", error="x", retry_in_seconds=3600),
        )

        again = claim(service)
        assert [it["id"] for it in again["deliveries"]] == [first["id"]]
        settle(service, attempt(again, first))

        waiting = claim(service)
        assert waiting["deliveries"] == []
        assert waiting["next_due_seconds"] == pytest.approx(3600, abs=60)

    def test_reads_by_index_alone_whatever_lies_behind(
        self, service: Rest, stack: LocalSupabase, database: Database
    ) -> None:
        """The counters of one transaction: no table is read through, nothing settled is read."""
        fill(database, webhook(service), settled=20_000)
        enqueue(service, *(notice(new_id()) for _ in range(100)))
        database.execute("analyze public.whatsapp_webhook_deliveries")
        read = (
            "select relname, seq_scan, coalesce(idx_tup_fetch, 0) as fetched "
            "from pg_stat_xact_user_tables where relname ~ 'deliveries'"
        )

        with psycopg.connect(stack.db_url) as one:
            answer = one.execute(
                "select public.whatsapp_claim_deliveries_v1(%s, 100, 10, 60)", (new_id(),)
            ).fetchone()
            cost = one.execute(read.encode()).fetchone()
            assert answer is not None
            ends = [attempt(answer[0], it) for it in answer[0]["deliveries"]]
            one.commit()
            one.execute(
                "select public.whatsapp_settle_deliveries_v1(%s::jsonb)", [json.dumps(ends)]
            )
            settling = one.execute(read.encode()).fetchone()

        assert len(ends) == 100
        assert cost is not None
        assert cost[1] == 0, "claiming read the table through"
        assert cost[2] < 500
        assert settling is not None
        assert settling[1] == 0, "settling read the table through"
        assert settling[2] < 3000


def fill(database: Database, webhook_id: str, *, settled: int) -> None:
    """Put delivered and parked rows behind, in one lane for each of 100 companies."""
    database.execute(
        "with company as ("
        "  insert into public.whatsapp_webhook_lanes (webhook_id, company_id)"
        "  select %(webhook)s, gen_random_uuid() from generate_series(1, 100)"
        "  returning id, company_id)"
        "insert into public.whatsapp_webhook_deliveries (webhook_id, lane_id, company_id,"
        "  notice_id, kind, occurred_at, data, state, attempts, last_attempt_at, settled_at) "
        "select %(webhook)s, c.id, c.company_id, gen_random_uuid(), 'message.received', now(),"
        "  '{\"text\": \"hello\"}', case when n %% 50 = 0 then 'parked' else 'delivered' end, 1,"
        "  now(), now() - n * interval '1 minute' "
        "from generate_series(1, %(settled)s) as n "
        "join (select *, row_number() over () - 1 as m from company) as c on c.m = n %% 100",
        {"webhook": webhook_id, "settled": settled},
    )


class TestSettle:
    def test_takes_one_end_of_a_delivery_that_is_named_twice(
        self, service: Rest, database: Database, company_id: str
    ) -> None:
        webhook(service)
        enqueue(service, notice(company_id))
        claimed = claim(service)
        end = attempt(claimed, claimed["deliveries"][0])

        assert settle(service, end, end) == 1

        [row] = deliveries(database)
        assert (row["state"], row["attempts"]) == ("delivered", 1)

    @pytest.mark.parametrize(
        ("asked", "seconds"),
        [(-5, 0), (None, 0), (30, 30), (10**12, 604_800), ("NaN", 604_800), ("Infinity", 604_800)],
    )
    def test_bounds_the_wait(
        self, service: Rest, database: Database, company_id: str, asked: Any, seconds: float
    ) -> None:
        webhook(service)
        enqueue(service, notice(company_id))
        claimed = claim(service)
        settle(
            service,
            attempt(
                claimed, claimed["deliveries"][0], "pending", error="x", retry_in_seconds=asked
            ),
        )

        [row] = deliveries(database)
        waits = row["next_attempt_at"] - row["last_attempt_at"]
        assert waits.total_seconds() == seconds
        assert lanes(database)[0]["due_at"] == row["next_attempt_at"]

    def test_refuses_a_batch_without_bounds_and_an_unknown_state(
        self, service: Rest, database: Database, company_id: str
    ) -> None:
        webhook(service)
        enqueue(service, notice(company_id))
        claimed = claim(service)
        end = attempt(claimed, claimed["deliveries"][0], "lost")

        many = service.try_rpc("whatsapp_settle_deliveries_v1", p_attempts=[{}] * 1001)
        unknown = service.try_rpc("whatsapp_settle_deliveries_v1", p_attempts=[end])

        assert (many.json()["code"], unknown.json()["code"]) == ("54000", "23514")
        assert deliveries(database)[0]["state"] == "pending"


class TestTransitions:
    @pytest.mark.parametrize(
        "shown",
        [
            {"status": "connecting"},
            {"reason": "network-lost"},
            {"message": "Other."},
            {"user_action": "wait"},
            {"phone_number": "+5511999999999"},
            {"push_name": "Ana"},
            {"last_connected_at": NOON},
            {"retry_at": NOON},
            {"qr_expires_at": NOON},
        ],
        ids=json.dumps,
    )
    def test_that_change_what_is_shown_are_queued(
        self, service: Rest, database: Database, company_id: str, shown: dict[str, Any]
    ) -> None:
        record(service, transition(company_id, 1))
        webhook(service)
        change = transition(company_id, 2, row=shown)

        assert record(service, change) == ["applied"]

        [row] = deliveries(database)
        assert (row["notice"], row["kind"]) == (change["id"], "session.status")
        assert row["occurred_at"].isoformat() == NOON
        assert (row["data"]["previous_status"], row["data"]["event"]) == ("connecting", "connected")

    @pytest.mark.parametrize(
        "hidden",
        [
            {},
            {"desired_state": "stop"},
            {"degraded": True},
            {"jid": "5511999999999:3@s.whatsapp.net"},
            {"last_event_at": NOON},
            {"last_disconnected_at": NOON},
            {"status_deadline_at": NOON},
            {"restore_attempts": 2},
        ],
        ids=json.dumps,
    )
    def test_that_change_nothing_shown_are_not(
        self, service: Rest, database: Database, company_id: str, hidden: dict[str, Any]
    ) -> None:
        record(service, transition(company_id, 1))
        webhook(service)

        change = transition(company_id, 2, sets_desired_state=True, row=hidden)

        assert record(service, change) == ["applied"]
        assert deliveries(database) == []

    def test_are_queued_once_however_often_they_are_sent(
        self, service: Rest, database: Database, company_id: str
    ) -> None:
        webhook(service)
        batch = [
            transition(company_id, version, row={"message": f"{version}"}) for version in (1, 3, 5)
        ]
        record(service, *batch)

        late = [transition(company_id, 2), transition(company_id, 5)]
        broken = transition(company_id, 6, row={"status": "asleep"})
        outcomes = record(service, *batch, *late, broken, batch[0])

        assert outcomes == [*["duplicate"] * 3, "stale", "stale", "invalid", "duplicate"]
        assert [it["notice"] for it in deliveries(database)] == [it["id"] for it in batch]

    def test_reach_those_who_want_them(
        self, service: Rest, database: Database, company_id: str
    ) -> None:
        wanting = {
            webhook(service),
            webhook(service, company_id=company_id, kinds=["session.status", "session.qr"]),
        }
        webhook(service, company_id=new_id())
        webhook(service, kinds=["message.received"])
        webhook(service, enabled=False)

        record(service, transition(company_id, 1))

        assert {it["webhook"] for it in deliveries(database)} == wanting

    def test_of_a_forgotten_company_are_still_delivered(
        self, service: Rest, company_id: str
    ) -> None:
        webhook(service)
        record(service, transition(company_id, 1))
        service.rpc("whatsapp_forget_company_v1", p_company_id=company_id, p_version=2)

        claimed = claim(service)
        [first] = claimed["deliveries"]
        assert settle(service, attempt(claimed, first)) == 1

        # Connected anew: there is no row before, so even the same state is news.
        assert record(service, transition(company_id, 3)) == ["applied"]
        assert len(claim(service)["deliveries"]) == 1

    def test_that_cannot_be_queued_are_not_lost(
        self, service: Rest, database: Database, company_id: str
    ) -> None:
        """The call fails and can be repeated; "invalid" would have them dropped."""
        webhook(service)
        batch = [transition(company_id, 1), transition(new_id(), 1)]
        table = "alter table public.whatsapp_webhook_deliveries"
        database.execute(f"{table} add constraint broken check (false) not valid".encode())
        try:
            response = service.try_rpc("whatsapp_record_transitions_v1", p_transitions=batch)
        finally:
            database.execute(f"{table} drop constraint broken".encode())

        assert (response.status_code, response.json()["code"]) == (500, "XX000")
        assert "could not be queued" in response.json()["message"]
        assert record(service, *batch) == ["applied", "applied"]
        assert len(deliveries(database)) == 2

    def test_without_webhooks_look_once_and_queue_nothing(
        self, service: Rest, stack: LocalSupabase, database: Database, company_id: str
    ) -> None:
        with psycopg.connect(stack.db_url) as one:
            one.execute(
                "select public.whatsapp_record_transitions_v1(%s::jsonb)",
                (json.dumps([transition(company_id, 1)]),),
            )
            touched = one.execute(
                "select relname from pg_stat_xact_user_tables "
                "where relname ~ 'webhook' and seq_scan + coalesce(idx_scan, 0) > 0"
            ).fetchall()

        assert touched == [("whatsapp_webhooks",)]


class Storm:
    """Everybody at once, at random: pods that record, queue, claim, settle; people who meddle.

    Claims are held for long, so a lane belongs to whoever got it until it is let go.
    """

    ROUNDS = 25

    def __init__(self, make: Callable[[], Rest], seed: int) -> None:
        self.make = make
        self.seed = seed
        self.companies = [new_id() for _ in range(8)]
        rest = make()
        self.steady = webhook(rest)
        self.disturbed = [
            webhook(rest),
            webhook(rest, company_id=self.companies[0]),
            webhook(rest, kinds=["message.received", "session.status"]),
        ]
        self.lasting = {self.steady, *self.disturbed}
        self.lock = threading.Lock()
        self.versions: Counter[str] = Counter()
        self.wanted: set[str] = set()
        self.held: dict[int, str] = {}
        self.done: dict[int, list[int]] = defaultdict(list)
        self.producing = threading.Event()

    def record(self, name: str) -> None:
        rest, chance = self.make(), random.Random(f"{self.seed} {name}")  # noqa: S311
        batch: list[dict[str, Any]] = []
        for _ in range(self.ROUNDS):
            if chance.random() < 0.7:
                batch = [self.transition(it) for it in chance.choices(self.companies, k=10)]
            outcomes = record(rest, *batch)
            applied = {
                it["id"] for it, how in zip(batch, outcomes, strict=True) if how == "applied"
            }
            with self.lock:
                self.wanted |= applied

    def transition(self, company_id: str) -> dict[str, Any]:
        with self.lock:
            self.versions[company_id] += 1
            version = self.versions[company_id]
        return transition(company_id, version, row={"message": f"Version {version}."})

    def queue(self, name: str) -> None:
        rest, chance = self.make(), random.Random(f"{self.seed} {name}")  # noqa: S311
        batch: list[dict[str, Any]] = []
        for _ in range(self.ROUNDS):
            if chance.random() < 0.7:
                of = chance.choices([*self.companies, None], k=10)
                batch = [notice(it, kind=chance.choice(KINDS)) for it in of]
            assert enqueue(rest, *batch)["invalid"] == []
            with self.lock:
                self.wanted |= {it["id"] for it in batch}

    def meddle(self, name: str) -> None:
        rest, chance = self.make(), random.Random(f"{self.seed} {name}")  # noqa: S311
        passing = webhook(rest)
        while self.producing.is_set():
            one = chance.choice([self.steady, *self.disturbed])
            rest.rpc("whatsapp_redeliver_v1", p_webhook_id=one)
            switched = chance.choice(self.disturbed)
            rest.client.patch(
                "/whatsapp_webhooks",
                params={"id": f"eq.{switched}"},
                json={"enabled": chance.random() < 0.7},
            ).raise_for_status()
            assert rest.rpc("whatsapp_remove_webhook_v1", p_webhook_id=passing) is True
            passing = webhook(rest)
        assert rest.rpc("whatsapp_remove_webhook_v1", p_webhook_id=passing) is True

    def dispatch(self, name: str) -> None:
        rest, chance = self.make(), random.Random(f"{self.seed} {name}")  # noqa: S311
        pause = threading.Event()
        while self.producing.is_set():
            claimed = claim(rest, chance.randint(1, 8), chance.randint(1, 5))
            if not claimed["deliveries"]:
                pause.wait(0.01)
            self.finish(rest, chance, name, claimed)

    def finish(self, rest: Rest, chance: random.Random, name: str, claimed: Any) -> None:
        first: list[dict[str, Any]] = []
        last: list[dict[str, Any]] = []
        for lane, items in groupby(claimed["deliveries"], key=lambda it: it["lane"]):
            self.hold(lane, name)
            found = list(items)
            for number, item in enumerate(found, start=1):
                state = chance.choices(["delivered", "parked", "pending"], [80, 8, 12])[0]
                end = attempt(claimed, item, state)
                if state == "pending" and chance.random() < 0.5:
                    end["error"] = "it failed"
                elif state != "pending":
                    self.done[lane].append(item["id"])
                is_last = state == "pending" or number == len(found)
                (last if is_last else first).append(end)
                if is_last:
                    break
        if chance.random() < 0.5:
            first, last = [], [*first, *last]
        lasting = {it["id"] for it in claimed["deliveries"] if it["webhook_id"] in self.lasting}
        held = settle(rest, *first)
        self.let_go(name)
        held += settle(rest, *last)
        settled = {it["delivery_id"] for it in (*first, *last)}
        assert held >= len(settled & lasting), f"a claim was lost, seed {self.seed}"

    def hold(self, lane: int, name: str) -> None:
        with self.lock:
            assert lane not in self.held, f"lane {lane} claimed twice, seed {self.seed}"
            self.held[lane] = name

    def let_go(self, name: str) -> None:
        with self.lock:
            self.held = {lane: who for lane, who in self.held.items() if who != name}

    def drain(self) -> None:
        rest = self.make()
        for one in self.disturbed:
            webhook(rest, id=one, enabled=True)
        while (claimed := claim(rest, per_lane=20))["next_due_seconds"] is not None:
            for item in claimed["deliveries"]:
                self.done[item["lane"]].append(item["id"])
            settle(rest, *(attempt(claimed, item) for item in claimed["deliveries"]))


@pytest.mark.parametrize("number", [1, 2])
def test_in_a_storm_nothing_is_lost_doubled_disordered_or_deadlocked(
    stack: LocalSupabase, make_rest: Callable[..., Rest], database: Database, number: int
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it when the test fails
    storm = Storm(lambda: make_rest(stack.service_key), seed)
    before = deadlocks(database)
    storm.producing.set()

    with ThreadPoolExecutor(12) as pool:
        others = [pool.submit(storm.dispatch, f"dispatcher {it}") for it in range(4)]
        others.append(pool.submit(storm.meddle, "meddler"))
        producers = [pool.submit(storm.record, f"pod {it}") for it in range(3)]
        producers += [pool.submit(storm.queue, f"queue {it}") for it in range(3)]
        try:
            for worker in producers:
                worker.result(timeout=120)
        finally:
            storm.producing.clear()
        for worker in others:
            worker.result(timeout=120)
    storm.drain()

    rows = deliveries(database, webhook_id=storm.steady)
    assert {it["notice"] for it in rows} == storm.wanted, f"seed {seed}"
    assert len(rows) == len(storm.wanted) > 100
    left = Counter(it["state"] for it in deliveries(database))
    assert left["pending"] == 0, f"seed {seed}"
    for lane, ended in storm.done.items():
        once = list(dict.fromkeys(ended))
        assert once == sorted(once), f"lane {lane} was disordered, seed {seed}"
    assert deadlocks(database) == before
    assert [it for it in lanes(database) if it["due_at"] or it["token"]] == []


class TestUpkeep:
    def test_what_was_settled_long_ago_is_found_by_index(
        self, service: Rest, database: Database
    ) -> None:
        fill(database, webhook(service), settled=20_000)
        database.execute("analyze public.whatsapp_webhook_deliveries")

        for state in ("delivered", "parked"):
            plan = database.execute(
                "explain (format json) delete from public.whatsapp_webhook_deliveries "
                "where state = %s and settled_at < now() - interval '13 days'",
                (state,),
            ).fetchone()
            assert "whatsapp_webhook_deliveries_settled_idx" in json.dumps(plan)

    def test_a_removed_webhook_takes_everything_along(
        self, service: Rest, database: Database
    ) -> None:
        one, other = webhook(service), webhook(service)
        fill(database, one, settled=2000)
        enqueue(service, notice(new_id()))

        assert service.rpc("whatsapp_remove_webhook_v1", p_webhook_id=one) is True

        assert {it["webhook"] for it in deliveries(database)} == {other}
        assert len(lanes(database)) == 1

    @pytest.mark.parametrize(
        "wrong",
        [
            {"url": ""},
            {"url": None},
            {"kinds": ["session.danced"]},
            {"kinds": None},
            {"secret_value": None},
            {"secret_value": ""},
            {"origin": "elsewhere"},
            {"enabled": None},
        ],
        ids=json.dumps,
    )
    def test_a_webhook_that_is_none_is_refused(self, service: Rest, wrong: dict[str, Any]) -> None:
        row = {"id": new_id(), "url": "https://crm.example.com/", "secret_value": "whsec_x"}

        response = service.client.post("/whatsapp_webhooks", json=row | wrong)

        assert response.json()["code"] in {"23514", "23502"}


class TestAccess:
    @pytest.fixture(params=["anon key", "publishable key", "user token"])
    def stranger(
        self,
        request: pytest.FixtureRequest,
        stack: LocalSupabase,
        make_rest: Callable[..., Rest],
    ) -> Rest:
        """Everybody who is not the service."""
        user_token = stack.token("authenticated", sub=new_id(), aud="authenticated")
        made: dict[str, Callable[[], Rest]] = {
            "anon key": lambda: make_rest(stack.anon_key),
            "publishable key": lambda: make_rest(stack.publishable_key),
            "user token": lambda: make_rest(stack.anon_key, user_token),
        }
        return made[request.param]()

    @pytest.mark.parametrize("table", TABLES)
    def test_strangers_reach_no_table(
        self, stranger: Rest, service: Rest, database: Database, company_id: str, table: str
    ) -> None:
        webhook(service)
        enqueue(service, notice(company_id))
        match = {"id": "not.is.null"}

        for answer in (
            stranger.client.get(f"/{table}"),
            stranger.client.get(f"/{table}", params={"select": "id"}),
            stranger.client.post(f"/{table}", json={"company_id": company_id}),
            stranger.client.patch(f"/{table}", params=match, json={"company_id": None}),
            stranger.client.delete(f"/{table}", params=match),
        ):
            assert answer.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}
            assert answer.json()["code"] == "42501"
        assert len(deliveries(database)) == 1

    def test_strangers_call_no_function(
        self, stranger: Rest, database: Database, company_id: str
    ) -> None:
        row = {"company_id": company_id}
        calls: dict[str, dict[str, Any]] = {
            "whatsapp_list_webhooks_v1": {},
            "whatsapp_remove_webhook_v1": {"p_webhook_id": new_id()},
            "whatsapp_lock_companies_v1": {"p_company_ids": [company_id]},
            "whatsapp_queue_notice_v1": {
                "p_notice_id": new_id(),
                "p_kind": "session.qr",
                "p_company_id": company_id,
                "p_occurred_at": NOON,
                "p_data": {},
            },
            "whatsapp_read_notice_v1": {"p_notice": {}},
            "whatsapp_enqueue_notices_v1": {"p_notices": []},
            "whatsapp_claim_deliveries_v1": {
                "p_owner": new_id(),
                "p_lanes": 1,
                "p_per_lane": 1,
                "p_hold_seconds": 1,
            },
            "whatsapp_settle_deliveries_v1": {"p_attempts": []},
            "whatsapp_redeliver_v1": {"p_webhook_id": new_id()},
            "whatsapp_list_deliveries_v1": {"p_webhook_id": new_id()},
            "whatsapp_count_deliveries_v1": {},
            "whatsapp_time_text_v1": {"p_time": NOON},
            "whatsapp_status_data_v1": {"p_row": row},
            "whatsapp_queue_status_v1": {"p_transition": {}, "p_before": row, "p_after": row},
            "whatsapp_apply_transition_v1": {"p_transition": {}},
        }

        for function, arguments in calls.items():
            response = stranger.try_rpc(function, **arguments)
            assert response.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}
            assert (function, response.json()["code"]) == (function, "42501")
        of_the_migration = database.execute(
            "select proname, has_function_privilege('anon', oid, 'execute') "
            "or has_function_privilege('authenticated', oid, 'execute') as is_open "
            "from pg_proc where proname = any (%s)",
            ([*calls],),
        ).fetchall()
        assert {it["proname"]: it["is_open"] for it in of_the_migration} == dict.fromkeys(
            calls, False
        )

    @pytest.mark.parametrize("role", ["anon", "authenticated"])
    def test_no_right_was_given_to_any_role_of_strangers(
        self, database: Database, role: str
    ) -> None:
        rights = database.execute(
            "select relname from pg_class where relname like 'whatsapp\\_webhook%%' "
            "and relkind in ('r', 'S') and case relkind when 'S' "
            "then has_sequence_privilege(%(role)s, oid, 'usage, select, update') "
            "else has_table_privilege(%(role)s, oid, 'select, insert, update, delete, "
            "truncate, references, trigger') or has_any_column_privilege(%(role)s, oid, "
            "'select, insert, update, references') end",
            {"role": role},
        ).fetchall()
        unguarded = database.execute(
            "select relname from pg_class where relname = any (%s) and not relrowsecurity",
            (TABLES,),
        ).fetchall()

        assert (rights, unguarded) == ([], [])
