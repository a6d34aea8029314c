"""What the SQL functions of snapshots promise, under contention and towards strangers."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Callable, Iterator
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

WRITERS = 12
HASH = "ab" * 32


def new_id() -> str:
    return str(uuid.uuid4())


def claim(rest: Rest, owner: str, companies: list[str]) -> list[dict[str, Any]]:
    answer: list[dict[str, Any]] = rest.rpc(
        "whatsapp_claim_leases_v2", p_owner=owner, p_company_ids=companies, p_ttl_seconds=60
    )
    return answer


def parameters(owner: str, company: str, epoch: int, seq: int, **changes: Any) -> dict[str, Any]:
    payload = changes.pop("payload", f"content {company} {epoch} {seq}".encode())
    return {
        "p_owner": owner,
        "p_company_id": company,
        "p_epoch": epoch,
        "p_seq": seq,
        "p_key_id": "k1",
        "p_wrapped_key": base64.b64encode(b"wrapped").decode(),
        "p_sha256": hashlib.sha256(payload).hexdigest(),
        "p_size_bytes": len(payload),
        "p_clean": False,
        "p_payload": base64.b64encode(payload).decode(),
        **changes,
    }


def write(rest: Rest, *position: Any, **changes: Any) -> Any:
    return rest.rpc("whatsapp_write_snapshot_v1", **parameters(*position, **changes))


def expire(database: Database, company: str) -> None:
    database.execute(
        "update public.whatsapp_leases set expires_at = clock_timestamp() where company_id = %s",
        [company],
    )


def rows(database: Database, company: str) -> list[tuple[int, int]]:
    found = database.execute(
        "select epoch, seq from public.whatsapp_session_snapshots where company_id = %s "
        "order by epoch desc, seq desc",
        [company],
    )
    return [(row["epoch"], row["seq"]) for row in found]


@pytest.fixture
def held(service: Rest, owner_id: str, company_id: str) -> int:
    """The epoch under which owner_id holds company_id."""
    [answer] = claim(service, owner_id, [company_id])
    return int(answer["epoch"])


@pytest.fixture
def wait_behind(database: Database, eventually: Eventually) -> Callable[[Any], None]:
    """Wait until somebody waits for the row that a connection holds."""

    def wait(holder: psycopg.Connection[Any]) -> None:
        eventually(
            lambda: database.execute(
                "select 1 from pg_stat_activity where %s = any (pg_blocking_pids(pid))",
                [holder.info.backend_pid],
            ).fetchone(),
            "the call waits for the lease row",
        )

    return wait


def is_live(database: Database, company: str) -> bool:
    row = database.execute(
        "select expires_at > clock_timestamp() as live from public.whatsapp_leases "
        "where company_id = %s",
        [company],
    ).fetchone()
    return row is not None and bool(row["live"])


class TestFence:
    def test_a_write_that_waited_judges_by_the_lease_it_finds(
        self,
        service: Rest,
        stack: LocalSupabase,
        database: Database,
        owner_id: str,
        company_id: str,
        held: int,
        wait_behind: Callable[[Any], None],
    ) -> None:
        """The lease changes hands in a transaction that commits while the write waits for it."""
        with psycopg.connect(stack.db_url) as other, ThreadPoolExecutor(1) as pool:
            other.execute(
                "update public.whatsapp_leases set owner_id = %s, epoch = epoch + 1 "
                "where company_id = %s",
                [new_id(), company_id],
            )
            writing = pool.submit(write, service, owner_id, company_id, held, 1)
            wait_behind(other)
            other.commit()

            assert writing.result(20) == {"outcome": "fenced", "lease_epoch": held + 1}
        assert rows(database, company_id) == []

    def test_a_write_that_waited_judges_by_the_time_it_got_the_lease(
        self,
        service: Rest,
        stack: LocalSupabase,
        database: Database,
        owner_id: str,
        company_id: str,
        held: int,
        wait_behind: Callable[[Any], None],
        eventually: Eventually,
    ) -> None:
        """The row does not change while the write waits; its term runs out."""
        with psycopg.connect(stack.db_url) as other, ThreadPoolExecutor(1) as pool:
            database.execute(
                "update public.whatsapp_leases set expires_at = clock_timestamp() "
                "+ interval '2 s' where company_id = %s",
                [company_id],
            )
            other.execute(
                "select 1 from public.whatsapp_leases where company_id = %s for update",
                [company_id],
            )
            writing = pool.submit(write, service, owner_id, company_id, held, 1)
            wait_behind(other)
            assert is_live(database, company_id)
            eventually(lambda: not is_live(database, company_id), "the lease expires")
            other.commit()

            assert writing.result(20)["outcome"] == "fenced"
        assert rows(database, company_id) == []

    def test_a_claim_that_waited_tells_of_the_write_before_it(
        self,
        service: Rest,
        stack: LocalSupabase,
        database: Database,
        owner_id: str,
        company_id: str,
        held: int,
        wait_behind: Callable[[Any], None],
    ) -> None:
        with psycopg.connect(stack.db_url) as other, ThreadPoolExecutor(1) as pool:
            names = parameters(owner_id, company_id, held, 5)
            arguments = ", ".join(f"{name} => %({name})s" for name in names)
            other.execute(f"select public.whatsapp_write_snapshot_v1({arguments})", names)
            other.execute(
                "update public.whatsapp_leases set expires_at = clock_timestamp() "
                "where company_id = %s",
                [company_id],
            )
            claiming = pool.submit(claim, service, new_id(), [company_id])
            wait_behind(other)
            other.commit()

            [answer] = claiming.result(20)
        assert answer["granted"]
        assert (answer["snapshot_epoch"], answer["snapshot_seq"]) == (held, 5)

    def test_a_forgotten_company_takes_no_late_snapshot(
        self, service: Rest, database: Database, owner_id: str, company_id: str, held: int
    ) -> None:
        write(service, owner_id, company_id, held, 1)
        service.rpc("whatsapp_forget_company_v1", p_company_id=company_id, p_version=1)
        service.rpc("whatsapp_delete_snapshots_v1", p_company_id=company_id)

        assert write(service, owner_id, company_id, held, 2)["outcome"] == "fenced"
        assert rows(database, company_id) == []

    @pytest.mark.parametrize("missing", ["p_owner", "p_company_id", "p_epoch"])
    def test_nothing_is_written_for_nobody(
        self,
        service: Rest,
        database: Database,
        owner_id: str,
        company_id: str,
        held: int,
        missing: str,
    ) -> None:
        answer = write(service, owner_id, company_id, held, 1, **{missing: None})

        assert answer["outcome"] == "fenced"
        assert rows(database, company_id) == []


class TestContention:
    def test_writers_of_one_term_at_once_leave_exactly_three(
        self,
        stack: LocalSupabase,
        make_rest: Callable[..., Rest],
        database: Database,
        owner_id: str,
        company_id: str,
        held: int,
    ) -> None:
        rests = [make_rest(stack.service_key) for _ in range(WRITERS)]
        with ThreadPoolExecutor(WRITERS) as pool:
            outcomes = list(
                pool.map(
                    lambda place: write(rests[place], owner_id, company_id, held, place + 1),
                    range(WRITERS),
                )
            )

        assert {answer["outcome"] for answer in outcomes} <= {"written", "stale"}
        assert rows(database, company_id)[0] == (held, WRITERS)
        assert len(rows(database, company_id)) <= 3

    def test_the_same_write_at_once_is_kept_once(
        self,
        stack: LocalSupabase,
        make_rest: Callable[..., Rest],
        database: Database,
        owner_id: str,
        company_id: str,
        held: int,
    ) -> None:
        rests = [make_rest(stack.service_key) for _ in range(WRITERS)]
        with ThreadPoolExecutor(WRITERS) as pool:
            outcomes = list(
                pool.map(lambda rest: write(rest, owner_id, company_id, held, 1), rests)
            )

        kinds = sorted(answer["outcome"] for answer in outcomes)
        assert kinds == ["duplicate"] * (WRITERS - 1) + ["written"]
        assert rows(database, company_id) == [(held, 1)]

    def test_everything_at_once_never_deadlocks(
        self,
        stack: LocalSupabase,
        make_rest: Callable[..., Rest],
        database: Database,
        owner_id: str,
    ) -> None:
        companies = sorted(new_id() for _ in range(6))
        epochs = {
            row["company_id"]: row["epoch"]
            for row in claim(make_rest(stack.service_key), owner_id, companies)
        }
        terms = [{"company_id": company, "epoch": epoch} for company, epoch in epochs.items()]

        def write_all(rest: Rest) -> None:
            for seq in range(1, 8):
                for company in companies:
                    write(rest, owner_id, company, epochs[company], seq)

        def renew_all(rest: Rest) -> None:
            for _ in range(20):
                rest.rpc(
                    "whatsapp_renew_leases_v1",
                    p_owner=owner_id,
                    p_leases=terms[::-1],
                    p_ttl_seconds=60,
                )

        def tidy(rest: Rest) -> None:
            for turn in range(8):
                rest.rpc("whatsapp_prune_snapshots_v1", p_company_id=None, p_keep=1)
                rest.rpc("whatsapp_expire_snapshots_v1", p_older_than_seconds=0.01)
                company = companies[-turn % len(companies)]
                rest.rpc("whatsapp_tombstone_snapshots_v1", p_company_id=company)
                rest.rpc("whatsapp_delete_snapshots_v1", p_company_id=company)

        jobs = [write_all, write_all, renew_all, renew_all, tidy, tidy, tidy]
        with ThreadPoolExecutor(len(jobs)) as pool:
            running = [pool.submit(job, make_rest(stack.service_key)) for job in jobs]
            for future in running:
                future.result(60)  # an error answer, a deadlock among them, fails the call

        assert all(len(rows(database, company)) <= 3 for company in companies)


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"p_payload": None}, "23514"),  # neither here nor in S3
            ({"p_object_key": "key"}, "23514"),  # both
            ({"p_object_key": "", "p_payload": None}, "23514"),
            ({"p_sha256": HASH}, "22000"),
            ({"p_sha256": None}, "22000"),
            ({"p_size_bytes": 7}, "23514"),
            ({"p_key_id": ""}, "23514"),
            ({"p_key_id": None}, "23502"),
            ({"p_seq": -1}, "23514"),
            ({"p_seq": None}, "23502"),
            ({"p_wrapped_key": ""}, "23514"),
            ({"p_wrapped_key": None}, "23502"),
            ({"p_payload": "no base64!"}, "22023"),
            ({"p_keep": 0}, "22023"),
        ],
    )
    def test_a_malformed_snapshot_is_refused_whole(
        self,
        service: Rest,
        database: Database,
        owner_id: str,
        company_id: str,
        held: int,
        changes: dict[str, Any],
        code: str,
    ) -> None:
        arguments = parameters(owner_id, company_id, held, 1) | changes
        response = service.try_rpc("whatsapp_write_snapshot_v1", **arguments)

        assert (response.status_code, response.json()["code"]) == (400, code)
        assert rows(database, company_id) == []

    def test_more_than_the_limit_is_refused(
        self, service: Rest, database: Database, owner_id: str, company_id: str, held: int
    ) -> None:
        arguments = parameters(owner_id, company_id, held, 1, payload=bytes(33_554_433))
        response = service.try_rpc("whatsapp_write_snapshot_v1", **arguments)

        assert (response.status_code, response.json()["code"]) == (400, "23514")
        assert rows(database, company_id) == []

    def test_the_refused_content_is_not_repeated_in_the_answer(
        self, service: Rest, owner_id: str, company_id: str, held: int
    ) -> None:
        arguments = parameters(owner_id, company_id, held, 1, p_key_id="")
        response = service.try_rpc("whatsapp_write_snapshot_v1", **arguments)

        assert len(json.dumps(response.json())) < 2000


class TestAccess:
    @pytest.fixture(params=["anon key", "publishable key", "user token"])
    def stranger(
        self,
        request: pytest.FixtureRequest,
        stack: LocalSupabase,
        make_rest: Callable[..., Rest],
    ) -> Iterator[Rest]:
        """Everybody who is not the service."""
        user_token = stack.token("authenticated", sub=new_id(), aud="authenticated")
        yield {
            "anon key": lambda: make_rest(stack.anon_key),
            "publishable key": lambda: make_rest(stack.publishable_key),
            "user token": lambda: make_rest(stack.anon_key, user_token),
        }[request.param]()

    def test_strangers_reach_no_snapshot(
        self,
        stranger: Rest,
        service: Rest,
        database: Database,
        owner_id: str,
        company_id: str,
        held: int,
    ) -> None:
        write(service, owner_id, company_id, held, 1)
        table, match = "/whatsapp_session_snapshots", {"company_id": f"eq.{company_id}"}

        for attempt in (
            stranger.client.get(table),
            stranger.client.get(table, params={"select": "payload"}),
            stranger.client.post(table, json={"company_id": company_id, "epoch": 1, "seq": 1}),
            stranger.client.patch(table, params=match, json={"clean": True}),
            stranger.client.delete(table, params=match),
        ):
            assert attempt.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}
            assert attempt.json()["code"] == "42501"
        assert rows(database, company_id) == [(held, 1)]

    def test_strangers_call_no_function(
        self,
        stranger: Rest,
        database: Database,
        owner_id: str,
        company_id: str,
        held: int,
    ) -> None:
        position = {"p_company_id": company_id, "p_epoch": held, "p_seq": 1}
        key = {"p_old_key_id": "k1", "p_new_key_id": "k2", "p_wrapped_key": "AA=="}
        calls: dict[str, dict[str, Any]] = {
            "whatsapp_lock_lease_v1": {"p_company_id": company_id},
            "whatsapp_write_snapshot_v1": parameters(owner_id, company_id, held, 1),
            "whatsapp_list_snapshots_v1": {"p_company_id": company_id},
            "whatsapp_read_snapshot_v1": position,
            "whatsapp_snapshot_companies_v1": {},
            "whatsapp_tombstone_snapshots_v1": {"p_company_id": company_id},
            "whatsapp_expire_snapshots_v1": {},
            "whatsapp_delete_snapshots_v1": {"p_company_id": company_id},
            "whatsapp_prune_snapshots_v1": {"p_company_id": None, "p_keep": 1},
            "whatsapp_rewrap_snapshot_v1": {**position, "p_sha256": HASH, **key},
            "whatsapp_orphaned_objects_v1": {"p_objects": []},
            "whatsapp_claim_leases_v2": {
                "p_owner": owner_id,
                "p_company_ids": [company_id],
                "p_ttl_seconds": 1,
            },
        }
        of_the_migration = database.execute(
            "select proname, has_function_privilege('anon', oid, 'execute') "
            "or has_function_privilege('authenticated', oid, 'execute') as is_open "
            "from pg_proc where pronamespace = 'public'::regnamespace "
            "and (proname ~ 'snapshot|object|lock_lease' or proname ~ '^whatsapp_claim.*_v2$')"
        ).fetchall()
        # Without the right to call, not merely without rights on what is called.
        assert {row["proname"]: row["is_open"] for row in of_the_migration} == dict.fromkeys(
            calls, False
        )

        for function, arguments in calls.items():
            response = stranger.try_rpc(function, **arguments)
            assert response.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}
            assert (function, response.json()["code"]) == (function, "42501")

    @pytest.mark.parametrize("role", ["anon", "authenticated"])
    def test_no_right_was_given_to_any_role_of_strangers(
        self, database: Database, role: str
    ) -> None:
        rights = database.execute(
            "select has_table_privilege(%(role)s, oid, 'select, insert, update, delete, "
            "truncate, references, trigger') or has_any_column_privilege(%(role)s, oid, "
            "'select, insert, update, references') as any_right from pg_class "
            "where oid = 'public.whatsapp_session_snapshots'::regclass",
            {"role": role},
        ).fetchone()
        guarded = database.execute(
            "select relrowsecurity from pg_class "
            "where oid = 'public.whatsapp_session_snapshots'::regclass"
        ).fetchone()

        assert rights == {"any_right": False}
        assert guarded == {"relrowsecurity": True}
