"""Memberships: the CRM's function on real Postgres, the store that asks it, and the row policy."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from crm_whatsapp.domain.errors import StoreRejected, StoreUnavailable
from crm_whatsapp.domain.memberships import MembershipSource, MembershipStore, read_memberships
from crm_whatsapp.stores.membership_store import SupabaseMembershipStore
from crm_whatsapp.stores.supabase_client import close_client, make_client
from local_supabase import LocalSupabase
from membership_table import FUNCTION, MembershipTable
from tests.contract.conftest import Rest
from tests.contract.membership_fakes import FakeMembershipStore
from tests.contract.test_sql_functions import record, transition

pytestmark = pytest.mark.contract

GUIDE = Path(__file__).parents[2] / "docs" / "integration.md"
Database = psycopg.Connection[dict[str, Any]]


@pytest.fixture
def crm(stack: LocalSupabase) -> Iterator[MembershipTable]:
    """The function replaced, for one test: all tests share the database."""
    with MembershipTable(stack.db_url) as table:
        yield table


@pytest.fixture
def real(stack: LocalSupabase) -> Iterator[SupabaseMembershipStore]:
    client = make_client(stack.url, stack.service_key, 20)
    yield SupabaseMembershipStore(client)
    close_client(client)


@pytest.fixture(params=["fake", "real"])
def town(request: pytest.FixtureRequest) -> tuple[MembershipStore, Any]:
    """A store, and the table behind it."""
    if request.param == "fake":
        fake = FakeMembershipStore()
        return fake, fake
    return request.getfixturevalue("real"), request.getfixturevalue("crm")


def new_id() -> str:
    return str(uuid.uuid4())


def test_a_user_has_the_companies_and_roles_of_the_table(
    town: tuple[MembershipStore, Any],
) -> None:
    store, table = town
    user, other, acme, bolt = (new_id() for _ in range(4))
    table.add(user, acme, "admin")
    table.add(user, bolt, "")
    table.add(other, acme, "viewer")

    answer = store.read(user)

    assert answer.source is MembershipSource.OWN
    assert answer.roles == {acme: {"admin"}, bolt: {""}}
    assert store.read(other).roles == {acme: {"viewer"}}
    assert store.read(new_id()).roles == {}
    table.remove(user, acme)
    assert store.read(user).roles == {bolt: {""}}
    assert store.read(None).source is MembershipSource.OWN


def test_the_function_of_the_guide_is_the_one_that_is_tested() -> None:
    assert f"```sql\n{FUNCTION}" in GUIDE.read_text()


class TestTheFunction:
    def test_what_is_shipped_knows_nobody_and_says_so(self, real: SupabaseMembershipStore) -> None:
        answer = real.read(new_id())
        assert answer.source is MembershipSource.SHIPPED
        assert answer.roles == {}
        assert not answer.source.decides

    def test_rows_add_up_no_role_is_a_role_and_no_company_is_none(
        self, crm: MembershipTable, database: Database, real: SupabaseMembershipStore
    ) -> None:
        user, acme, bolt = (new_id() for _ in range(3))
        database.execute(
            b"alter table crm.company_members drop constraint company_members_pkey, "
            b"alter company_id drop not null"
        )
        for company_id, role in ((acme, None), (bolt, "agent"), (bolt, "viewer"), (None, "admin")):
            database.execute(
                "insert into crm.company_members values (%s, %s, %s)", (user, company_id, role)
            )
        assert real.read(user).roles == {acme: {""}, bolt: {"agent", "viewer"}}

    def test_more_rows_than_the_api_shows_all_arrive(
        self, crm: MembershipTable, real: SupabaseMembershipStore
    ) -> None:
        user = new_id()
        for _ in range(1_100):
            crm.add(user, new_id())
        assert len(real.read(user).roles) == 1_100

    def test_a_function_that_is_gone_is_missing(
        self, crm: MembershipTable, database: Database, real: SupabaseMembershipStore
    ) -> None:
        database.execute(b"drop function public.whatsapp_companies_of_user_v1(uuid)")
        answer = real.read(new_id())
        assert (answer.source, answer.roles) == (MembershipSource.MISSING, {})

    @pytest.mark.parametrize("role", ["public", "anon", "authenticated"])
    def test_a_function_that_users_may_call_is_told(
        self, crm: MembershipTable, database: Database, real: SupabaseMembershipStore, role: str
    ) -> None:
        name = "public.whatsapp_companies_of_user_v1(uuid)"
        database.execute(f"grant execute on function {name} to {role}".encode())
        assert real.read(None).source is MembershipSource.OPEN

    def test_a_function_that_fails_is_an_error_and_no_answer(
        self, crm: MembershipTable, database: Database, real: SupabaseMembershipStore
    ) -> None:
        database.execute(b"alter table crm.company_members rename to others")
        with pytest.raises((StoreRejected, StoreUnavailable)):
            real.read(new_id())

    @pytest.mark.parametrize("name", ["anon key", "user"])
    @pytest.mark.parametrize(
        "function", ["whatsapp_companies_of_user_v1", "whatsapp_memberships_v1"]
    )
    def test_nobody_but_the_service_may_ask(
        self,
        crm: MembershipTable,
        stack: LocalSupabase,
        make_rest: Callable[..., Rest],
        name: str,
        function: str,
    ) -> None:
        user = new_id()
        crm.add(user, new_id())
        token = None if name == "anon key" else stack.token("authenticated", sub=user)
        answer = make_rest(stack.anon_key, token).try_rpc(function, p_user_id=user)
        assert answer.status_code in (401, 403), answer.text


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {},
        {"source": "own"},
        {"source": "mine", "companies": []},
        {"source": "own", "companies": None},
        {"source": "own", "companies": [["x", "admin"]]},
        {"source": "own", "companies": [[new_id(), None]]},
        {"source": "own", "companies": [[new_id()]]},
        {"source": "own", "companies": [[new_id(), "admin", "more"]]},
        {"source": "own", "companies": {new_id(): "admin"}},
        {"source": "own", "companies": [[new_id(), ""] for _ in range(5_001)]},
    ],
)
def test_an_answer_of_another_form_is_refused(answer: Any) -> None:
    with pytest.raises(StoreRejected):
        read_memberships(answer)


class TestRows:
    """What a signed-in user reads in the database, by PostgREST and as Realtime asks."""

    @pytest.fixture
    def companies(self, service: Rest) -> list[str]:
        made = [new_id() for _ in range(3)]
        record(service, *(transition(company_id, 1) for company_id in made))
        return made

    def seen(self, rest: Rest) -> set[str]:
        answer = rest.client.get("/whatsapp_connections", params={"select": "company_id"})
        assert answer.is_success, answer.text
        return {row["company_id"] for row in answer.json()}

    def user(
        self, stack: LocalSupabase, make_rest: Callable[..., Rest], sub: str, **claims: Any
    ) -> Rest:
        token = stack.token("authenticated", sub=sub, aud="authenticated", **claims)
        return make_rest(stack.anon_key, token)

    def test_a_user_reads_the_rows_of_all_their_companies_and_the_claim_says_nothing(
        self,
        crm: MembershipTable,
        stack: LocalSupabase,
        make_rest: Callable[..., Rest],
        companies: list[str],
    ) -> None:
        member, stranger = new_id(), new_id()
        crm.add(member, companies[0], "admin")
        crm.add(member, companies[1], "viewer")
        claim = {"app_metadata": {"company_id": companies[2]}}

        assert self.seen(self.user(stack, make_rest, member)) == set(companies[:2])
        assert self.seen(self.user(stack, make_rest, member, **claim)) == set(companies[:2])
        assert self.seen(self.user(stack, make_rest, stranger, **claim)) == set()
        assert self.seen(self.user(stack, make_rest, "nobody", **claim)) == set()
        crm.remove(member, companies[0])
        crm.remove(member, companies[1])
        assert self.seen(self.user(stack, make_rest, member, **claim)) == set()

    def test_as_long_as_nobody_replaced_it_the_claim_decides(
        self, stack: LocalSupabase, make_rest: Callable[..., Rest], companies: list[str]
    ) -> None:
        claim = {"app_metadata": {"company_id": companies[2]}}
        assert self.seen(self.user(stack, make_rest, new_id(), **claim)) == {companies[2]}

    def test_a_function_that_is_gone_shows_nothing(
        self,
        crm: MembershipTable,
        database: Database,
        stack: LocalSupabase,
        make_rest: Callable[..., Rest],
        companies: list[str],
    ) -> None:
        database.execute(b"drop function public.whatsapp_companies_of_user_v1(uuid)")
        claim = {"app_metadata": {"company_id": companies[0]}}
        assert self.seen(self.user(stack, make_rest, new_id(), **claim)) == set()

    @pytest.mark.parametrize("claims", ["", "[", "{}", '{"sub": 7}', '{"sub": null}'])
    def test_claims_that_name_nobody_show_nothing(
        self, crm: MembershipTable, stack: LocalSupabase, companies: list[str], claims: str
    ) -> None:
        assert self.as_realtime(stack, claims) == set()

    def test_realtime_asks_with_the_claims_of_each_subscriber(
        self, crm: MembershipTable, stack: LocalSupabase, companies: list[str]
    ) -> None:
        member = new_id()
        crm.add(member, companies[0])
        crm.add(member, companies[1])

        assert self.as_realtime(stack, json.dumps({"sub": member})) == set(companies[:2])

    def as_realtime(self, stack: LocalSupabase, claims: str) -> set[str]:
        """Read as Realtime does: the role and the claims of a subscriber, set by SQL."""
        with psycopg.connect(stack.db_url) as connection:
            connection.execute("select set_config('request.jwt.claims', %s, true)", (claims,))
            connection.execute("set local role authenticated")
            rows = connection.execute("select company_id::text from public.whatsapp_connections")
            return {row[0] for row in rows.fetchall()}

    def test_the_function_is_asked_once_a_statement(
        self, crm: MembershipTable, database: Database, stack: LocalSupabase, companies: list[str]
    ) -> None:
        with psycopg.connect(stack.db_url) as connection:
            claims = json.dumps({"sub": new_id()})
            connection.execute("select set_config('request.jwt.claims', %s, true)", (claims,))
            connection.execute("set local role authenticated")
            plan = connection.execute(
                "explain (costs off) select * from public.whatsapp_connections"
            ).fetchall()
        assert any("InitPlan" in line[0] for line in plan), plan
