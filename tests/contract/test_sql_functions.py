"""What each SQL function promises, through the real PostgREST and under contention."""

from __future__ import annotations

import json
import random
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest

from local_supabase import LocalSupabase
from tests.contract.conftest import Rest

pytestmark = pytest.mark.contract

Database = psycopg.Connection[dict[str, Any]]
Eventually = Callable[[Callable[[], object], str], None]

CLAIMERS = 24
LEASES = 40
TTL_SECONDS = 60


def new_id() -> str:
    return str(uuid.uuid4())


def claim(rest: Rest, owner: str, companies: list[str], ttl: float = TTL_SECONDS) -> Any:
    return rest.rpc(
        "whatsapp_claim_leases_v1", p_owner=owner, p_company_ids=companies, p_ttl_seconds=ttl
    )


def renew(rest: Rest, owner: str, terms: list[dict[str, Any]]) -> Any:
    return rest.rpc(
        "whatsapp_renew_leases_v1", p_owner=owner, p_leases=terms, p_ttl_seconds=TTL_SECONDS
    )


def tick(rest: Rest, instance_id: str, terms: list[dict[str, Any]] | None, **load: Any) -> Any:
    instance = {
        "instance_id": instance_id,
        "started_at": "2026-03-01T10:00:00+00:00",
        "capacity": 100,
        "session_count": 7,
        "draining": False,
    }
    return rest.rpc(
        "whatsapp_tick_v1",
        p_instance=instance | load,
        p_leases=terms,
        p_ttl_seconds=TTL_SECONDS,
    )


def term(company_id: str, epoch: int) -> dict[str, Any]:
    return {"company_id": company_id, "epoch": epoch}


def expire(database: Database, company_id: str) -> None:
    database.execute(
        "update public.whatsapp_leases set expires_at = clock_timestamp() where company_id = %s",
        [company_id],
    )


def lease(database: Database, company_id: str) -> dict[str, Any]:
    row = database.execute(
        "select *, expires_at > clock_timestamp() as live, owner_id::text as owner "
        "from public.whatsapp_leases where company_id = %s",
        [company_id],
    ).fetchone()
    assert row is not None
    return row


def transition(company_id: Any, version: Any, **changes: Any) -> dict[str, Any]:
    """Make an element of a batch; `row` changes single columns of its row."""
    row = {
        "desired_state": "run",
        "status": "connected",
        "reason": "online",
        "message": f"Connected, version {version}.",
        "user_action": "none",
        "degraded": False,
        "restore_attempts": 0,
        "phone_number": "5511900000001",
        "last_connected_at": "2026-03-01T10:00:00+00:00",
    }
    return {
        "id": new_id(),
        "company_id": company_id,
        "version": version,
        "occurred_at": "2026-03-01T10:00:00+00:00",
        "event": "connected",
        "from_status": "connecting",
        "owner_id": new_id(),
        "sets_desired_state": False,
        **changes,
        "row": row | changes.get("row", {}),
    }


def record(rest: Rest, *elements: Any) -> Any:
    return rest.rpc("whatsapp_record_transitions_v1", p_transitions=list(elements))


def outcomes(receipts: list[dict[str, Any]]) -> list[str]:
    return [receipt["outcome"] for receipt in receipts]


def forget(rest: Rest, company_id: str, version: int) -> Any:
    return rest.rpc("whatsapp_forget_company_v1", p_company_id=company_id, p_version=version)


def connection(database: Database, company_id: str) -> dict[str, Any] | None:
    return database.execute(
        "select * from public.whatsapp_connections where company_id = %s", [company_id]
    ).fetchone()


def history(database: Database, company_id: str) -> list[int]:
    rows = database.execute(
        "select version from public.whatsapp_status_events where company_id = %s order by version",
        [company_id],
    )
    return [row["version"] for row in rows]


@pytest.fixture
def rests(stack: LocalSupabase, make_rest: Callable[..., Rest]) -> list[Rest]:
    """As many clients as there are contenders."""
    return [make_rest(stack.service_key) for _ in range(CLAIMERS)]


class TestClaim:
    def test_grants_a_lease_nobody_holds(
        self, service: Rest, owner_id: str, company_id: str
    ) -> None:
        [row] = claim(service, owner_id, [company_id])

        assert (row["company_id"], row["owner_id"]) == (company_id, owner_id)
        assert (row["granted"], row["epoch"], row["last_version"]) == (True, 1, 0)
        assert row["expires_in_seconds"] == TTL_SECONDS

    def test_leaves_a_live_lease_to_its_owner(
        self, service: Rest, database: Database, owner_id: str, company_id: str
    ) -> None:
        claim(service, owner_id, [company_id])
        before = lease(database, company_id)

        [row] = claim(service, new_id(), [company_id])

        assert (row["granted"], row["owner_id"], row["epoch"]) == (False, owner_id, 1)
        assert 0 < row["expires_in_seconds"] <= TTL_SECONDS
        assert lease(database, company_id) == before

    def test_raises_the_epoch_of_an_own_lease(
        self, service: Rest, owner_id: str, company_id: str
    ) -> None:
        epochs = [claim(service, owner_id, [company_id])[0]["epoch"] for _ in range(4)]

        assert epochs == [1, 2, 3, 4]

    def test_takes_an_expired_lease_under_a_higher_epoch(
        self, service: Rest, database: Database, owner_id: str, company_id: str
    ) -> None:
        claim(service, new_id(), [company_id])
        expire(database, company_id)

        [row] = claim(service, owner_id, [company_id])

        assert (row["granted"], row["owner_id"], row["epoch"]) == (True, owner_id, 2)

    def test_answers_once_for_each_company(self, service: Rest, owner_id: str) -> None:
        first, second = sorted([new_id(), new_id()])

        rows = claim(service, owner_id, [second, first, second, first])

        assert [(row["company_id"], row["epoch"]) for row in rows] == [(first, 1), (second, 1)]

    def test_of_nothing_is_nothing(self, service: Rest, owner_id: str) -> None:
        assert claim(service, owner_id, []) == []

    def test_tells_from_which_version_to_go_on(
        self, service: Rest, owner_id: str, company_id: str
    ) -> None:
        record(service, transition(company_id, 41))

        assert claim(service, owner_id, [company_id])[0]["last_version"] == 41

    @pytest.mark.parametrize("ttl", [0, -1, 300.01, "NaN", "Infinity", None])
    def test_refuses_a_term_out_of_range(
        self, service: Rest, owner_id: str, company_id: str, ttl: Any
    ) -> None:
        response = service.try_rpc(
            "whatsapp_claim_leases_v1",
            p_owner=owner_id,
            p_company_ids=[company_id],
            p_ttl_seconds=ttl,
        )

        assert (response.status_code, response.json()["code"]) == (400, "22023")

    def test_by_contenders_at_once_grants_each_lease_once(
        self, rests: list[Rest], database: Database
    ) -> None:
        companies = [new_id() for _ in range(LEASES)]

        def contend(rest: Rest) -> list[tuple[str, str]]:
            owner = new_id()
            wanted = random.sample(companies, len(companies))
            return [
                (row["company_id"], owner) for row in claim(rest, owner, wanted) if row["granted"]
            ]

        for round_number in (1, 2, 3):
            with ThreadPoolExecutor(CLAIMERS) as pool:
                granted = [grant for grants in pool.map(contend, rests) for grant in grants]

            assert sorted(company for company, _ in granted) == sorted(companies)
            for company, owner in granted:
                row = lease(database, company)
                assert (row["owner"], row["epoch"]) == (owner, round_number)
                expire(database, company)

    def test_by_contenders_for_overlapping_parts_never_deadlocks(self, rests: list[Rest]) -> None:
        companies = [new_id() for _ in range(LEASES)]
        holders: Counter[str] = Counter()

        def contend(rest: Rest) -> list[str]:
            owner = new_id()
            granted = []
            for _ in range(4):
                rows = claim(rest, owner, random.sample(companies, LEASES // 2))
                granted += [row["company_id"] for row in rows if row["granted"]]
            return list(set(granted))

        with ThreadPoolExecutor(CLAIMERS) as pool:
            for granted in pool.map(contend, rests):
                holders.update(granted)

        assert set(holders.values()) == {1}

    def test_that_waited_judges_by_the_time_it_got_the_row(
        self,
        service: Rest,
        stack: LocalSupabase,
        database: Database,
        eventually: Eventually,
        owner_id: str,
        company_id: str,
    ) -> None:
        claim(service, new_id(), [company_id], ttl=2)

        with ThreadPoolExecutor(1) as pool, psycopg.connect(stack.db_url) as holder:
            holder.execute(
                "select 1 from public.whatsapp_leases where company_id = %s for update",
                [company_id],
            )
            assert lease(database, company_id)["live"]
            waiting = pool.submit(claim, service, owner_id, [company_id])
            eventually(
                lambda: database.execute(
                    "select 1 from pg_stat_activity where %s = any (pg_blocking_pids(pid))",
                    [holder.info.backend_pid],
                ).fetchone(),
                "the claim waits for the row",
            )
            assert lease(database, company_id)["live"]
            eventually(lambda: not lease(database, company_id)["live"], "the lease expires")
            holder.commit()
            [row] = waiting.result()

        assert (row["granted"], row["epoch"]) == (True, 2)


class TestRenew:
    def test_extends_exactly_the_own_live_terms(
        self, service: Rest, database: Database, owner_id: str
    ) -> None:
        kept, expired, superseded, foreign, unknown = (new_id() for _ in range(5))
        claim(service, owner_id, [kept, expired, superseded])
        claim(service, owner_id, [superseded])
        claim(service, new_id(), [foreign])
        expire(database, expired)
        before = lease(database, kept)["expires_at"]

        rows = renew(
            service,
            owner_id,
            [term(company, 1) for company in (kept, expired, superseded, foreign, unknown)],
        )

        assert [(row["company_id"], row["epoch"]) for row in rows] == [(kept, 1)]
        assert rows[0]["expires_in_seconds"] == TTL_SECONDS
        assert lease(database, kept)["expires_at"] > before

    def test_never_revives_a_term_that_somebody_else_took_over(
        self, service: Rest, database: Database, owner_id: str, company_id: str
    ) -> None:
        claim(service, owner_id, [company_id])
        expire(database, company_id)
        claim(service, new_id(), [company_id])

        assert renew(service, owner_id, [term(company_id, 1)]) == []
        assert renew(service, owner_id, [term(company_id, 2)]) == []

    def test_of_shared_companies_in_any_order_never_deadlocks(self, rests: list[Rest]) -> None:
        owner = new_id()
        companies = [new_id() for _ in range(LEASES)]
        claim(rests[0], owner, companies)

        def contend(rest: Rest) -> list[int]:
            counts = []
            for _ in range(5):
                terms = [term(company, 1) for company in random.sample(companies, LEASES)]
                counts.append(len(renew(rest, owner, terms)))
            return counts

        with ThreadPoolExecutor(CLAIMERS) as pool:
            counts = [count for result in pool.map(contend, rests) for count in result]

        assert set(counts) == {LEASES}


class TestRelease:
    def test_frees_the_own_term_at_once(
        self, service: Rest, owner_id: str, company_id: str
    ) -> None:
        claim(service, owner_id, [company_id])

        released = service.rpc(
            "whatsapp_release_leases_v1", p_owner=owner_id, p_leases=[term(company_id, 1)]
        )
        [row] = claim(service, new_id(), [company_id])

        assert released == 1
        assert (row["granted"], row["epoch"]) == (True, 2)

    def test_does_nothing_for_a_lost_term(
        self, service: Rest, database: Database, owner_id: str, company_id: str
    ) -> None:
        claim(service, owner_id, [company_id])
        expire(database, company_id)
        successor = new_id()
        claim(service, successor, [company_id])

        released = service.rpc(
            "whatsapp_release_leases_v1",
            p_owner=owner_id,
            p_leases=[term(company_id, 1), term(company_id, 2)],
        )

        assert released == 0
        assert lease(database, company_id)["live"]


class TestTick:
    def test_records_the_heartbeat_and_renews_in_one_call(
        self, service: Rest, database: Database, owner_id: str
    ) -> None:
        kept, lost = sorted([new_id(), new_id()])
        claim(service, owner_id, [kept, lost])
        expire(database, lost)

        answer = tick(service, owner_id, [term(kept, 1), term(lost, 1)], session_count=2)

        assert [(row["company_id"], row["epoch"]) for row in answer["renewed"]] == [(kept, 1)]
        assert answer["lost"] == [lost]
        assert answer["now"] < answer["renewed"][0]["expires_at"]
        row = database.execute(
            "select *, clock_timestamp() - heartbeat_at < interval '1 minute' as fresh "
            "from public.whatsapp_instances where instance_id = %s",
            [owner_id],
        ).fetchone()
        assert row is not None
        assert (row["capacity"], row["session_count"], row["draining"]) == (100, 2, False)
        assert row["fresh"]

    def test_updates_the_instance_it_knows(
        self, service: Rest, database: Database, owner_id: str
    ) -> None:
        tick(service, owner_id, None, session_count=1)
        answer = tick(service, owner_id, [], session_count=3, draining=True)

        rows = database.execute(
            "select session_count, draining from public.whatsapp_instances where instance_id = %s",
            [owner_id],
        ).fetchall()
        assert rows == [{"session_count": 3, "draining": True}]
        assert (answer["renewed"], answer["lost"]) == ([], [])

    def test_without_an_instance_is_refused(self, service: Rest) -> None:
        response = service.try_rpc(
            "whatsapp_tick_v1", p_instance={}, p_leases=[], p_ttl_seconds=TTL_SECONDS
        )

        assert (response.status_code, response.json()["code"]) == (400, "23502")


class TestRecordTransitions:
    def test_writes_the_row_and_the_history(
        self, service: Rest, database: Database, company_id: str
    ) -> None:
        element = transition(company_id, 3, row={"push_name": "Ana", "user_id": "u-1"})

        receipts = record(service, element)

        assert receipts == [
            {"index": 0, "id": element["id"], "outcome": "applied", "row_version": 3}
        ]
        row = connection(database, company_id)
        assert row is not None
        for column, value in element["row"].items():
            if column != "last_connected_at":
                assert row[column] == value
        assert row["last_connected_at"].isoformat() == element["row"]["last_connected_at"]
        event = database.execute(
            "select * from public.whatsapp_status_events where id = %s", [element["id"]]
        ).fetchone()
        assert event is not None
        assert (event["from_status"], event["to_status"]) == ("connecting", "connected")
        assert (event["event"], str(event["owner_id"])) == ("connected", element["owner_id"])
        assert (event["reason"], event["version"]) == ("online", 3)

    def test_replaces_the_whole_row_and_keeps_its_birth(
        self, service: Rest, database: Database, company_id: str
    ) -> None:
        record(service, transition(company_id, 1, row={"retry_at": "2026-03-01T10:00:00Z"}))
        before = connection(database, company_id)
        record(service, transition(company_id, 2, row={"status": "connecting"}))

        after = connection(database, company_id)
        assert before is not None
        assert after is not None
        assert (before["retry_at"] is None, after["retry_at"]) == (False, None)
        assert (after["status"], after["version"]) == ("connecting", 2)
        assert after["created_at"] == before["created_at"]
        assert after["updated_at"] > before["updated_at"]

    def test_knows_what_it_already_has(
        self, service: Rest, database: Database, company_id: str
    ) -> None:
        first, second = transition(company_id, 1), transition(company_id, 2)

        assert outcomes(record(service, first, first, second)) == [
            "applied",
            "duplicate",
            "applied",
        ]
        repeated = record(service, first, second)

        assert outcomes(repeated) == ["duplicate", "duplicate"]
        assert [receipt["row_version"] for receipt in repeated] == [2, 2]
        assert history(database, company_id) == [1, 2]

    def test_keeps_a_newer_row_but_writes_the_late_history(
        self, service: Rest, database: Database, company_id: str
    ) -> None:
        record(service, transition(company_id, 5))

        receipts = record(service, transition(company_id, 4), transition(company_id, 5))

        assert outcomes(receipts) == ["stale", "stale"]
        assert [receipt["row_version"] for receipt in receipts] == [5, 5]
        row = connection(database, company_id)
        assert row is not None
        assert row["message"] == "Connected, version 5."
        assert history(database, company_id) == [4, 5, 5]

    def test_applies_in_array_order(
        self, service: Rest, database: Database, company_id: str
    ) -> None:
        receipts = record(service, *(transition(company_id, version) for version in (1, 3, 2, 4)))

        assert outcomes(receipts) == ["applied", "applied", "stale", "applied"]

    @pytest.mark.parametrize(
        "broken",
        [
            None,
            7,
            "text",
            [],
            {},
            {"row": "text"},
            {"id": "no-uuid"},
            {"id": None},
            {"company_id": "no-uuid"},
            {"company_id": None},
            {"version": "many"},
            {"version": None},
            {"version": 1.5},
            {"occurred_at": "yesterday evening"},
            {"from_status": "asleep"},
            {"owner_id": "no-uuid"},
            {"event": None},
            {"sets_desired_state": "perhaps"},
            {"row": {"status": "asleep"}},
            {"row": {"status": None}},
            {"row": {"desired_state": "walk"}},
            {"row": {"restore_attempts": -1}},
            {"row": {"retry_at": "soon"}},
            {"row": {"degraded": 12}},
        ],
        ids=json.dumps,
    )
    def test_reports_a_bad_element_and_records_the_others(
        self, service: Rest, database: Database, company_id: str, broken: Any
    ) -> None:
        other = new_id()
        if isinstance(broken, dict) and broken and broken != {"row": "text"}:
            broken = transition(**{"company_id": other, "version": 1} | broken)

        receipts = record(service, transition(company_id, 1), broken, transition(company_id, 2))

        assert outcomes(receipts) == ["applied", "invalid", "applied"]
        assert [receipt["index"] for receipt in receipts] == [0, 1, 2]
        assert receipts[1]["error"]
        assert history(database, company_id) == [1, 2]
        assert (connection(database, other), history(database, other)) == (None, [])

    def test_ignores_columns_it_does_not_know(
        self, service: Rest, database: Database, company_id: str
    ) -> None:
        row = {"colour": "green", "created_at": "1999-01-01T00:00:00Z", "version": 99}

        assert outcomes(record(service, transition(company_id, 1, row=row))) == ["applied"]

        stored = connection(database, company_id)
        assert stored is not None
        assert (stored["version"], stored["created_at"].year > 1999) == (1, True)

    def test_of_nothing_is_nothing(self, service: Rest) -> None:
        assert record(service) == []

    def test_refuses_a_batch_without_bounds(self, service: Rest, company_id: str) -> None:
        response = service.try_rpc("whatsapp_record_transitions_v1", p_transitions=[{}] * 1001)

        assert response.json()["code"] == "54000"

    def test_keeps_what_the_crm_wrote_into_desired_state(
        self, service: Rest, database: Database, company_id: str
    ) -> None:
        record(service, transition(company_id, 1, sets_desired_state=True))
        service.client.patch(
            "/whatsapp_connections",
            params={"company_id": f"eq.{company_id}"},
            json={"desired_state": "stop"},
        ).raise_for_status()

        record(service, transition(company_id, 2))
        untouched = connection(database, company_id)
        record(service, transition(company_id, 3, sets_desired_state=True))
        changed = connection(database, company_id)

        assert untouched is not None
        assert changed is not None
        assert (untouched["desired_state"], untouched["version"]) == ("stop", 2)
        assert (changed["desired_state"], changed["version"]) == ("run", 3)

    def test_takes_over_a_row_that_the_crm_made(
        self, service: Rest, database: Database, company_id: str
    ) -> None:
        service.client.post(
            "/whatsapp_connections", json={"company_id": company_id, "desired_state": "run"}
        ).raise_for_status()

        assert outcomes(record(service, transition(company_id, 1))) == ["applied"]

    def test_of_overlapping_batches_never_deadlocks(
        self, rests: list[Rest], database: Database
    ) -> None:
        companies = [new_id() for _ in range(LEASES)]

        def contend(rest: Rest) -> list[str]:
            batch = [
                transition(company, version)
                for version in (1, 2)
                for company in random.sample(companies, LEASES)
            ]
            return outcomes(record(rest, *batch))

        with ThreadPoolExecutor(CLAIMERS) as pool:
            counted = Counter(word for words in pool.map(contend, rests) for word in words)

        assert counted["applied"] == 2 * LEASES
        assert counted["stale"] == 2 * LEASES * (CLAIMERS - 1)
        for company in companies:
            row = connection(database, company)
            assert row is not None
            assert row["version"] == 2


class TestForgetCompany:
    def test_removes_the_row_and_keeps_the_history(
        self, service: Rest, database: Database, owner_id: str, company_id: str
    ) -> None:
        record(service, transition(company_id, 1), transition(company_id, 2))
        claim(service, owner_id, [company_id])

        answer = forget(service, company_id, 3)

        assert answer == {"outcome": "forgotten", "row_version": 3, "epoch": 2}
        assert connection(database, company_id) is None
        assert history(database, company_id) == [1, 2]
        row = lease(database, company_id)
        assert (row["owner"], row["epoch"], row["live"]) == (None, 2, False)
        assert renew(service, owner_id, [term(company_id, 1), term(company_id, 2)]) == []

    def test_is_final_for_late_writes(
        self, service: Rest, database: Database, company_id: str
    ) -> None:
        record(service, transition(company_id, 1))
        forget(service, company_id, 4)

        late = record(service, transition(company_id, 3), transition(company_id, 4))

        assert outcomes(late) == ["stale", "stale"]
        assert [receipt["row_version"] for receipt in late] == [4, 4]
        assert connection(database, company_id) is None

    def test_lets_the_company_begin_anew(
        self, service: Rest, database: Database, owner_id: str, company_id: str
    ) -> None:
        record(service, transition(company_id, 8))
        forget(service, company_id, 9)

        [row] = claim(service, owner_id, [company_id])
        assert (row["granted"], row["last_version"]) == (True, 9)
        assert outcomes(record(service, transition(company_id, 10))) == ["applied"]
        assert connection(database, company_id) is not None

    def test_may_be_repeated(
        self, service: Rest, database: Database, owner_id: str, company_id: str
    ) -> None:
        record(service, transition(company_id, 1))
        forget(service, company_id, 2)
        claim(service, owner_id, [company_id])

        answer = forget(service, company_id, 2)

        assert (answer["outcome"], answer["row_version"]) == ("duplicate", 2)
        assert lease(database, company_id)["owner"] == owner_id

    def test_that_comes_late_spares_a_newer_row(
        self, service: Rest, database: Database, owner_id: str, company_id: str
    ) -> None:
        claim(service, owner_id, [company_id])
        record(service, transition(company_id, 7))

        answer = forget(service, company_id, 6)

        assert answer == {"outcome": "stale", "row_version": 7, "epoch": 1}
        assert connection(database, company_id) is not None
        assert lease(database, company_id)["live"]

    def test_of_an_unknown_company_still_stops_late_writes(
        self, service: Rest, database: Database, company_id: str
    ) -> None:
        assert forget(service, company_id, 2)["outcome"] == "forgotten"
        assert outcomes(record(service, transition(company_id, 1))) == ["stale"]
        assert connection(database, company_id) is None

    @pytest.mark.parametrize("version", [None, -1])
    def test_needs_a_version(self, service: Rest, company_id: str, version: Any) -> None:
        response = service.try_rpc(
            "whatsapp_forget_company_v1", p_company_id=company_id, p_version=version
        )

        assert (response.status_code, response.json()["code"]) == (400, "22023")

    def test_beside_late_writes_always_wins(self, rests: list[Rest], database: Database) -> None:
        companies = [new_id() for _ in range(CLAIMERS // 2)]

        def write(rest: Rest) -> None:
            for version in range(1, 6):
                record(rest, *(transition(company, version) for company in companies))

        def delete(rest: Rest) -> None:
            for company in companies:
                forget(rest, company, 5)

        with ThreadPoolExecutor(CLAIMERS) as pool:
            running = [pool.submit(write, rest) for rest in rests[:8]]
            running += [pool.submit(delete, rest) for rest in rests[8:12]]
            for future in running:
                future.result()

        assert [connection(database, company) for company in companies] == [None] * len(companies)


class TestAccess:
    def test_the_service_cannot_rewrite_history(self, service: Rest, company_id: str) -> None:
        record(service, transition(company_id, 1))
        match = {"company_id": f"eq.{company_id}"}

        for attempt in (
            service.client.delete("/whatsapp_status_events", params=match),
            service.client.patch("/whatsapp_status_events", params=match, json={"reason": "x"}),
            service.client.delete("/whatsapp_leases", params=match),
        ):
            assert (attempt.status_code, attempt.json()["code"]) == (403, "42501")

    def test_both_kinds_of_service_key_are_the_service(
        self, stack: LocalSupabase, make_rest: Callable[..., Rest]
    ) -> None:
        versions = {
            make_rest(key).rpc("whatsapp_schema_version_v1")
            for key in (stack.service_key, stack.secret_key)
        }

        assert len(versions) == 1

    @pytest.mark.parametrize("key", ["", "sb_secret_of_another_project", "x.y.z"])
    def test_a_foreign_key_is_refused_at_the_gateway(
        self, stack: LocalSupabase, make_rest: Callable[..., Rest], key: str
    ) -> None:
        response = make_rest(key, stack.service_key).try_rpc("whatsapp_schema_version_v1")

        assert response.status_code == httpx.codes.UNAUTHORIZED
