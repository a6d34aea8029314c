"""Who may do what in the database: everybody who can reach PostgREST, against everything in it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest

from crm_whatsapp.stores.migrator import apply_migrations
from local_supabase import LocalSupabase
from tests.contract.conftest import Rest
from tests.contract.test_migrations import MIGRATIONS
from tests.contract.test_sql_functions import record, transition

pytestmark = pytest.mark.contract

Database = psycopg.Connection[dict[str, Any]]

CONNECTIONS = "whatsapp_connections"
NOTHING: frozenset[str] = frozenset()

# What each kind of caller may do with a table; every table that is not named is closed.
ALLOWED: dict[str, dict[str, frozenset[str]]] = {
    "anon key": {},
    "publishable key": {},
    "user of no company": {CONNECTIONS: frozenset({"select"})},
    "user of company A": {CONNECTIONS: frozenset({"select"})},
}
# What each kind of caller sees of the connections of the companies A and B.
SEEN: dict[str, set[str]] = {
    "user of no company": set(),
    "user of company A": {"A"},
    "user of company B": {"B"},
    "service key": {"A", "B"},
    "secret key": {"A", "B"},
}
CALLERS = sorted(ALLOWED.keys() | SEEN.keys())
# The functions that are not the service's alone: what a policy asks on behalf of a user.
USERS_MAY_CALL = {"whatsapp_claimed_company_v1", "whatsapp_reached_companies_v1"}


class Town:
    """Two companies with a connection each, and everybody who might ask about them."""

    def __init__(self, stack: LocalSupabase, make_rest: Callable[..., Rest]) -> None:
        self.stack = stack
        self._make_rest = make_rest
        self.ids = {"A": str(uuid.uuid4()), "B": str(uuid.uuid4())}
        service = make_rest(stack.service_key)
        record(service, *(transition(company_id, 1) for company_id in self.ids.values()))

    def user(self, **claims: Any) -> Rest:
        token = self.stack.token(
            "authenticated", sub=str(uuid.uuid4()), aud="authenticated", **claims
        )
        return self._make_rest(self.stack.anon_key, token)

    def user_of(self, company_id: object) -> Rest:
        return self.user(app_metadata={"provider": "email", "company_id": company_id})

    def caller(self, name: str) -> Rest:
        return {
            "anon key": lambda: self._make_rest(self.stack.anon_key),
            "publishable key": lambda: self._make_rest(self.stack.publishable_key),
            "user of no company": lambda: self.user(app_metadata={"provider": "email"}),
            "user of company A": lambda: self.user_of(self.ids["A"]),
            "user of company B": lambda: self.user_of(self.ids["B"]),
            "service key": lambda: self._make_rest(self.stack.service_key),
            "secret key": lambda: self._make_rest(self.stack.secret_key),
        }[name]()

    def seen_by(self, caller: Rest) -> set[str]:
        """Return the names of the companies whose connections the caller is shown."""
        response = caller.client.get(f"/{CONNECTIONS}", params={"select": "*"})
        assert response.is_success, response.text
        shown = {row["company_id"] for row in response.json()}
        if len(shown) > 1:  # the service is shown those of other tests too
            shown &= set(self.ids.values())
        return {name for name, company_id in self.ids.items() if company_id in shown} | {
            f"foreign {company_id}" for company_id in shown - set(self.ids.values())
        }


@pytest.fixture
def town(stack: LocalSupabase, make_rest: Callable[..., Rest]) -> Town:
    return Town(stack, make_rest)


def public_tables(database: Database) -> dict[str, str]:
    """Return every table and view, with the name of a column that can be written."""
    rows = database.execute(
        "select relname, min(attname) as attname "
        "from pg_class join pg_attribute on attrelid = pg_class.oid "
        "where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm') "
        "and attnum > 0 and attidentity = '' and attgenerated = '' "
        "group by relname order by relname"
    ).fetchall()
    return {row["relname"]: row["attname"] for row in rows}


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_every_table_is_closed_but_for_what_is_listed(
    town: Town, database: Database, name: str
) -> None:
    caller = town.caller(name)
    tables = public_tables(database)
    assert CONNECTIONS in tables
    outcome = {}
    for table, column in tables.items():
        every_row = {column: "not.is.null"}
        attempts = {
            "select": caller.client.get(f"/{table}"),
            "insert": caller.client.post(f"/{table}", json={}),
            "update": caller.client.patch(f"/{table}", params=every_row, json={column: None}),
            "delete": caller.client.delete(f"/{table}", params=every_row),
        }
        outcome[table] = frozenset(
            verb for verb, answer in attempts.items() if not is_forbidden(answer)
        )
    expected = {table: ALLOWED[name].get(table, NOTHING) for table in tables}
    assert outcome == expected


def is_forbidden(answer: httpx.Response) -> bool:
    return answer.status_code in (401, 403) and answer.json()["code"] == "42501"


@pytest.mark.parametrize("name", sorted(SEEN))
def test_everybody_sees_exactly_their_own(town: Town, name: str) -> None:
    assert town.seen_by(town.caller(name)) == SEEN[name]


@pytest.mark.parametrize("verb", ["select", "insert", "update", "delete", "truncate"])
@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_no_other_right_on_any_table_was_given(database: Database, role: str, verb: str) -> None:
    rows = database.execute(
        "select relname from pg_class where relnamespace = 'public'::regnamespace "
        "and relkind in ('r', 'p', 'v', 'm') and has_table_privilege(%s, oid, %s)",
        (role, verb),
    ).fetchall()
    allowed = [CONNECTIONS] if (role, verb) == ("authenticated", "select") else []
    assert [row["relname"] for row in rows] == allowed


@pytest.mark.parametrize(
    ("role", "callable_functions"),
    [("anon", set()), ("authenticated", USERS_MAY_CALL)],
)
def test_no_function_can_be_called_but_those_listed(
    town: Town, database: Database, role: str, callable_functions: set[str]
) -> None:
    rows = database.execute(
        "select proname, has_function_privilege(%s, oid, 'execute') as open from pg_proc "
        "where pronamespace = 'public'::regnamespace",
        (role,),
    ).fetchall()
    assert {row["proname"] for row in rows if row["open"]} == callable_functions
    caller = town.caller("anon key" if role == "anon" else "user of company A")
    for name in sorted({row["proname"] for row in rows} - callable_functions):
        answer = caller.try_rpc(name)
        # Found by its parameters first: a wrong call is not found, a right one is refused.
        assert answer.status_code in (401, 403, 404), (name, answer.status_code, answer.text)


@pytest.mark.parametrize(
    "claims",
    [
        pytest.param({"user_metadata": {"company_id": "{A}"}}, id="what users write themselves"),
        pytest.param({"company_id": "{A}"}, id="another place"),
        pytest.param({"app_metadata": {"company_id": None}}, id="null"),
        pytest.param({"app_metadata": {"company_id": ""}}, id="empty"),
        pytest.param({"app_metadata": {"company_id": "everyone"}}, id="no UUID"),
        pytest.param({"app_metadata": {"company_id": ["{A}"]}}, id="a list"),
        pytest.param({"app_metadata": "{A}"}, id="no object"),
        pytest.param({"app_metadata": {"company_id": "{A}' or true --"}}, id="SQL"),
    ],
)
def test_a_token_that_names_no_company_sees_none(town: Town, claims: dict[str, Any]) -> None:
    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(item) for key, item in value.items()}
        if isinstance(value, list):
            return [filled(item) for item in value]
        return value.replace("{A}", town.ids["A"]) if isinstance(value, str) else value

    assert town.seen_by(town.user(**filled(claims))) == set()


def test_the_way_a_company_is_written_does_not_matter(town: Town) -> None:
    assert town.seen_by(town.user_of(town.ids["A"].upper())) == {"A"}


def test_a_filter_for_another_company_finds_nothing(town: Town) -> None:
    caller = town.user_of(town.ids["A"])
    answer = caller.client.get(
        f"/{CONNECTIONS}",
        params={"or": f"(company_id.eq.{town.ids['B']},company_id.eq.{uuid.uuid4()})"},
    )
    assert (answer.status_code, answer.json()) == (200, [])
    count = caller.client.get(f"/{CONNECTIONS}", headers={"Prefer": "count=exact"})
    assert count.headers["content-range"].endswith("/1")


def test_a_token_of_another_project_is_refused(town: Town, make_rest: Callable[..., Rest]) -> None:
    foreign = (
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJyb2xlIjoiYXV0aGVudGljYXRlZCJ9."
        "c2lnbmVkIGJ5IHNvbWVib2R5IGVsc2UgZW50aXJlbHk"
    )
    answer = make_rest(town.stack.anon_key, foreign).client.get(f"/{CONNECTIONS}")
    assert answer.status_code == httpx.codes.UNAUTHORIZED


def test_realtime_publishes_the_connections_where_there_is_a_publication(
    stack: LocalSupabase,
) -> None:
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(stack.db_url, autocommit=True) as admin:
        admin.execute(f"create database {name}".encode())
        db_url = stack.db_url.rsplit("/", 1)[0] + f"/{name}"
        try:
            with psycopg.connect(db_url, autocommit=True) as connection:
                connection.execute("create publication supabase_realtime")
            apply_migrations(db_url, MIGRATIONS)
            with psycopg.connect(db_url) as connection:
                published = connection.execute(
                    "select tablename from pg_publication_tables "
                    "where pubname = 'supabase_realtime'"
                ).fetchall()
        finally:
            admin.execute(f"drop database {name} with (force)".encode())
    assert published == [(CONNECTIONS,)]
