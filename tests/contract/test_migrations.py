"""The migrations of this repository and the migrator that applies them, on real Postgres."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psycopg
import pytest
from psycopg import sql

from crm_whatsapp.domain.errors import ConfigurationError, StoreRejected, StoreUnavailable
from crm_whatsapp.stores.migrator import (
    MigrationEdited,
    MigrationFailed,
    MigrationOutOfOrder,
    apply_migrations,
    load_migrations,
    manual_instructions,
    newest_version,
)
from local_supabase import LocalSupabase

pytestmark = pytest.mark.contract

MIGRATIONS = Path(__file__).parents[2] / "migrations"
VERSIONS = [migration.version for migration in load_migrations(MIGRATIONS)]
OLD_PROJECT_DEFAULTS = """
alter default privileges in schema public
    grant all on tables to anon, authenticated, service_role;
alter default privileges in schema public
    grant all on functions to anon, authenticated, service_role;
"""


@pytest.fixture
def empty_database(stack: LocalSupabase) -> Iterator[str]:
    """The address of a database with Supabase's roles and nothing else."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(stack.db_url, autocommit=True) as admin:
        admin.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        yield stack.db_url.rsplit("/", 1)[0] + f"/{name}"
        admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the migrations that a test may change."""
    return Path(shutil.copytree(MIGRATIONS, tmp_path / "migrations"))


def recorded(db_url: str) -> dict[str, str]:
    with psycopg.connect(db_url) as connection:
        rows = connection.execute("select version, checksum from public.whatsapp_migrations")
        return dict(rows.fetchall())


def has_table(db_url: str, name: str) -> bool:
    with psycopg.connect(db_url) as connection:
        row = connection.execute("select to_regclass(%s)", [f"public.{name}"]).fetchone()
    return row is not None and row[0] is not None


def test_applies_each_migration_once_and_in_order(empty_database: str) -> None:
    first = apply_migrations(empty_database, MIGRATIONS)
    second = apply_migrations(empty_database, MIGRATIONS)

    assert [migration.version for migration in first] == VERSIONS
    assert second == []
    assert recorded(empty_database) == {m.version: m.checksum for m in first}


def test_schema_version_is_the_newest_migration(stack: LocalSupabase) -> None:
    with psycopg.connect(stack.db_url) as connection:
        row = connection.execute("select public.whatsapp_schema_version_v1()").fetchone()

    assert row == (newest_version(MIGRATIONS),)


def test_applies_only_what_is_outstanding(empty_database: str, folder: Path) -> None:
    newest = sorted(folder.glob("*.sql"))[-1]
    text = newest.read_text()
    newest.unlink()
    apply_migrations(empty_database, folder)

    newest.write_text(text)

    assert [m.version for m in apply_migrations(empty_database, folder)] == [newest.name[:4]]


def test_migrators_at_once_share_the_work(empty_database: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        runs = list(pool.map(lambda _: apply_migrations(empty_database, MIGRATIONS), range(6)))

    applied = [migration.version for run in runs for migration in run]
    assert sorted(applied) == VERSIONS


def test_refuses_an_edited_migration_before_changing_anything(
    empty_database: str, folder: Path
) -> None:
    apply_migrations(empty_database, folder)
    before = recorded(empty_database)
    shipped = folder / "0001_connections.sql"
    shipped.write_text(shipped.read_text() + "\n-- one more line\n")
    (folder / "9000_new.sql").write_text("create table public.must_not_exist (id int);")

    with pytest.raises(MigrationEdited, match="0001_connections was edited"):
        apply_migrations(empty_database, folder)

    assert recorded(empty_database) == before
    assert not has_table(empty_database, "must_not_exist")


def test_line_ends_are_no_edit(empty_database: str, folder: Path) -> None:
    apply_migrations(empty_database, folder)
    for path in folder.glob("*.sql"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))

    assert apply_migrations(empty_database, folder) == []


def test_takes_a_failing_migration_back_whole(empty_database: str, folder: Path) -> None:
    failing = folder / "9000_failing.sql"
    failing.write_text("create table public.half_done (id int);\nselect 1 / 0;")

    with pytest.raises(MigrationFailed, match=r"9000_failing failed .* division by zero"):
        apply_migrations(empty_database, folder)

    assert sorted(recorded(empty_database)) == VERSIONS
    assert not has_table(empty_database, "half_done")

    failing.write_text("create table public.half_done (id int);")
    assert [m.version for m in apply_migrations(empty_database, folder)] == ["9000"]
    assert has_table(empty_database, "half_done")


def test_refuses_a_number_below_the_newest_applied(empty_database: str, folder: Path) -> None:
    (folder / "9001_later.sql").write_text("select 1;")
    apply_migrations(empty_database, folder)
    (folder / "9000_earlier.sql").write_text("create table public.must_not_exist (id int);")

    with pytest.raises(MigrationOutOfOrder, match="9000_earlier is not applied although 9001"):
        apply_migrations(empty_database, folder)

    assert not has_table(empty_database, "must_not_exist")


def test_an_older_release_leaves_newer_migrations_alone(empty_database: str, folder: Path) -> None:
    (folder / "9000_newer.sql").write_text("select 1;")
    apply_migrations(empty_database, folder)

    assert apply_migrations(empty_database, MIGRATIONS) == []
    assert "9000" in recorded(empty_database)


def test_pasted_instructions_do_what_the_migrator_does(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as editor:
        editor.execute(manual_instructions(MIGRATIONS, None).encode())

    assert recorded(empty_database) == {m.version: m.checksum for m in load_migrations(MIGRATIONS)}
    assert apply_migrations(empty_database, MIGRATIONS) == []


def test_pasted_instructions_carry_on_from_a_version(empty_database: str, folder: Path) -> None:
    apply_migrations(empty_database, MIGRATIONS)
    (folder / "9000_more.sql").write_text("create table public.more (id int);\n")

    text = manual_instructions(folder, newest_version(MIGRATIONS))
    with psycopg.connect(empty_database, autocommit=True) as editor:
        editor.execute(text.encode())

    assert "whatsapp_connections" not in text
    assert apply_migrations(empty_database, folder) == []
    assert has_table(empty_database, "more")


def test_instructions_for_a_current_database_ask_for_nothing() -> None:
    text = manual_instructions(MIGRATIONS, newest_version(MIGRATIONS))

    assert "nothing to do" in text
    assert all(line.startswith("--") for line in text.splitlines())


def test_pasted_instructions_change_nothing_after_an_error(
    empty_database: str, folder: Path
) -> None:
    (folder / "9000_failing.sql").write_text("select 1 / 0;\n")

    with (
        psycopg.connect(empty_database, autocommit=True) as editor,
        pytest.raises(psycopg.errors.DivisionByZero),
    ):
        editor.execute(manual_instructions(folder, None).encode())

    assert not has_table(empty_database, "whatsapp_migrations")


def test_a_database_that_is_away_is_unavailable() -> None:
    nobody_listens = "postgresql://postgres:x@127.0.0.1:1/postgres"

    with pytest.raises(StoreUnavailable) as caught:
        apply_migrations(nobody_listens, MIGRATIONS)

    assert not caught.value.permanent


def test_a_malformed_address_is_refused_without_being_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        apply_migrations("postgresql//postgres:hidden@127.0.0.1/postgres", MIGRATIONS)

    assert "hidden" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_role_without_rights_is_refused(stack: LocalSupabase, empty_database: str) -> None:
    apply_migrations(empty_database, MIGRATIONS)
    role = f"guest_{uuid.uuid4().hex}"
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(f"create role {role} login password 'guest'")
        host_and_database = empty_database.split("@")[1]

        with pytest.raises(StoreRejected, match="permission denied for table whatsapp_migrations"):
            apply_migrations(f"postgresql://{role}:guest@{host_and_database}", MIGRATIONS)

        connection.execute(f"drop role {role}")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "no migrations"),
        (["1_short.sql"], "not named like"),
        (["0001_Capital.sql"], "not named like"),
        (["0001_a.sql", "0001_b.sql"], "Two migrations have the number 0001"),
    ],
)
def test_refuses_a_folder_that_is_no_sequence(tmp_path: Path, names: list[str], words: str) -> None:
    for name in names:
        (tmp_path / name).write_text("select 1;")

    with pytest.raises(ConfigurationError, match=words):
        load_migrations(tmp_path)


@pytest.mark.parametrize("defaults", ["", OLD_PROJECT_DEFAULTS], ids=["new", "old"])
def test_grants_are_the_same_in_new_and_old_projects(empty_database: str, defaults: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("grant usage on schema public to anon, authenticated, service_role")
        connection.execute(defaults.encode())
    apply_migrations(empty_database, MIGRATIONS)

    with psycopg.connect(empty_database) as connection:
        granted = connection.execute(
            "select grantee, table_name, privilege_type "
            "from information_schema.role_table_grants "
            "where table_schema = 'public' and grantee <> 'postgres'"
        ).fetchall()
        callers = connection.execute(
            "select r.rolname, count(*) "
            "from pg_proc as p cross join pg_roles as r "
            "where p.pronamespace = 'public'::regnamespace "
            "and r.rolname in ('anon', 'authenticated', 'service_role') "
            "and has_function_privilege(r.oid, p.oid, 'execute') "
            "group by r.rolname"
        ).fetchall()
        functions = connection.execute(
            "select count(*) from pg_proc where pronamespace = 'public'::regnamespace"
        ).fetchone()

    strangers = {entry for entry in granted if entry[0] != "service_role"}
    assert strangers == {("authenticated", "whatsapp_connections", "SELECT")}
    assert {p for _, table, p in granted if table == "whatsapp_status_events"} == {
        "SELECT",
        "INSERT",
    }
    assert {p for _, table, p in granted if table == "whatsapp_migrations"} == {"SELECT"}
    assert "DELETE" not in {p for _, table, p in granted if table == "whatsapp_leases"}
    assert functions is not None
    # All but the two that a policy asks on behalf of a user, now or in projects of before.
    assert sorted(callers) == [("authenticated", 2), ("service_role", functions[0] - 2)]


OWNERS_RIGHTS = {
    # History is removed by a function that leaves what is young and each company's newest: the
    # service itself can only add to it.
    "whatsapp_trim_status_events_v1",
    # Who belongs to a company is read from tables of the CRM that nobody here has a grant on: by
    # the function that the CRM writes, and by those that ask it for the service and for a user.
    "whatsapp_companies_of_user_v1",
    "whatsapp_memberships_v1",
    "whatsapp_reached_companies_v1",
}


def test_everything_is_guarded_and_explained(stack: LocalSupabase) -> None:
    with psycopg.connect(stack.db_url) as connection:
        open_tables = connection.execute(
            "select relname from pg_class where relnamespace = 'public'::regnamespace "
            "and relkind = 'r' and not relrowsecurity"
        ).fetchall()
        policies = connection.execute("select tablename, cmd, roles from pg_policies").fetchall()
        unexplained = connection.execute(
            "select relname from pg_class where relnamespace = 'public'::regnamespace "
            "and relkind = 'r' and obj_description(oid, 'pg_class') is null "
            "union all "
            "select proname from pg_proc where pronamespace = 'public'::regnamespace "
            "and obj_description(oid, 'pg_proc') is null"
        ).fetchall()
        careless = connection.execute(
            "select proname from pg_proc where pronamespace = 'public'::regnamespace "
            "and (prosecdef and proname <> all(%s) "
            "or not coalesce(proconfig, '{}') @> array['search_path=\"\"'])",
            (sorted(OWNERS_RIGHTS),),
        ).fetchall()

    assert (open_tables, unexplained, careless) == ([], [], [])
    assert policies == [("whatsapp_connections", "SELECT", ["authenticated"])]


def test_a_running_api_serves_new_functions_without_a_restart(
    tmp_path: Path, folder: Path, eventually: Callable[[Callable[[], object], str], None]
) -> None:
    with LocalSupabase.start(tmp_path / "stack") as own:
        (folder / "9000_new_function.sql").write_text(
            "create function public.whatsapp_new_v1() returns int language sql as 'select 7';\n"
            "grant execute on function public.whatsapp_new_v1() to service_role;\n"
            "notify pgrst, 'reload schema';\n"
        )
        headers = {"apikey": own.service_key}
        with httpx.Client(base_url=f"{own.url}/rest/v1/rpc", headers=headers) as client:
            assert client.post("/whatsapp_new_v1").status_code == httpx.codes.NOT_FOUND
            apply_migrations(own.db_url, folder)
            eventually(
                lambda: client.post("/whatsapp_new_v1").text == "7",
                "PostgREST serves the new function",
            )
