"""The migrations of the database: which there are, which are outstanding, applying them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crm_whatsapp.domain.errors import ConfigurationError, StoreRejected, StoreUnavailable

if TYPE_CHECKING:
    import psycopg

FILE_NAME = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql")
LOCK_NUMBER = 7_402_310_551  # of the advisory lock; any number nobody else uses
LOCK_TIMEOUT_SECONDS = 60
CONNECT_TIMEOUT_SECONDS = 10


class MigrationEdited(ConfigurationError):
    """A migration was changed after it had been applied."""

    code = "migration-edited"


class MigrationOutOfOrder(ConfigurationError):
    """A migration is missing although a newer one was applied."""

    code = "migration-out-of-order"


class MigrationFailed(StoreRejected):
    """A migration could not be applied; nothing of it remains."""

    code = "migration-failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One numbered SQL file.

    Attributes:
        version: four digits.
        checksum: SHA-256 of the text, line ends normalised.
    """

    version: str
    name: str
    sql: str
    checksum: str


def load_migrations(folder: Path) -> tuple[Migration, ...]:
    """Read the migrations of a folder in their order.

    Raises:
        ConfigurationError: there are none, a file is named in another way, or a number is
            used twice.
    """
    migrations: dict[str, Migration] = {}
    for path in sorted(folder.glob("*.sql")):
        match = FILE_NAME.fullmatch(path.name)
        if match is None:
            raise ConfigurationError(f"{path.name} is not named like 0001_what_it_does.sql.")
        version = match["version"]
        if version in migrations:
            raise ConfigurationError(f"Two migrations have the number {version}.")
        text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
        checksum = hashlib.sha256(text.encode()).hexdigest()
        migrations[version] = Migration(
            version=version, name=match["name"], sql=text, checksum=checksum
        )
    if not migrations:
        raise ConfigurationError(f"There are no migrations in {folder}.")
    return tuple(migrations.values())


def newest_version(folder: Path) -> int:
    """Return the number that whatsapp_schema_version_v1 gives once all are applied."""
    return int(load_migrations(folder)[-1].version)


def apply_migrations(db_url: str, folder: Path) -> list[Migration]:
    """Apply what is outstanding, each migration in a transaction of its own.

    Two that run at once wait for each other; every migration is applied by one of them.

    Args:
        db_url: a direct or pooled connection of the role that owns the schema.
    Returns:
        What this call applied, in order; empty when there was nothing to do.
    Raises:
        MigrationEdited, MigrationOutOfOrder: before anything is changed.
        MigrationFailed: the database refused one; those before it stay applied.
        StoreRejected: the role may not read or write the record of migrations.
        StoreUnavailable: no connection, or another migrator holds the lock; safe to repeat.
        ConfigurationError: db_url is no address of a Postgres database.
    """
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        conninfo_to_dict(db_url)
    except psycopg.ProgrammingError:
        # Not chained: the driver's message repeats the address with its password.
        raise ConfigurationError("The database address is not a postgresql:// URL.") from None

    migrations = load_migrations(folder)
    applied: list[Migration] = []
    try:
        with psycopg.connect(
            db_url,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            autocommit=True,
            prepare_threshold=None,  # a transaction pooler keeps no prepared statements
        ) as connection:
            while (migration := _apply_next(connection, migrations)) is not None:
                applied.append(migration)
    except psycopg.OperationalError as error:
        raise StoreUnavailable(f"The database cannot be used now: {_one_line(error)}") from error
    except psycopg.Error as error:
        raise StoreRejected(f"The database refused: {_one_line(error)}") from error
    return applied


def outstanding_migrations(
    migrations: Sequence[Migration], applied: dict[str, str]
) -> list[Migration]:
    """Return what is to be applied, given the applied versions and their checksums.

    Versions that only the database knows are those of a newer release, and are left alone.

    Raises:
        MigrationEdited: a file differs from what was applied under its number.
        MigrationOutOfOrder: a number below the newest applied one was never applied.
    """
    outstanding = []
    for migration in migrations:
        checksum = applied.get(migration.version)
        if checksum is None:
            outstanding.append(migration)
        elif checksum != migration.checksum:
            raise MigrationEdited(
                f"Migration {migration.version}_{migration.name} was edited after it had been "
                f"applied. Restore the file and put the change into a new migration."
            )
    newest_applied = max(applied, default="")
    if outstanding and outstanding[0].version < newest_applied:
        first = outstanding[0]
        raise MigrationOutOfOrder(
            f"Migration {first.version}_{first.name} is not applied although {newest_applied} "
            f"is. Give it a number above {newest_applied}."
        )
    return outstanding


def manual_instructions(folder: Path, applied_version: str | int | None) -> str:
    """Return one text to paste into Supabase's SQL editor, for want of a database address.

    It is SQL from the first to the last line: what to do stands in its comments.

    Args:
        applied_version: what whatsapp_schema_version_v1 gives; None or 0 when it is missing.
    """
    newest_applied = f"{int(applied_version or 0):04}"
    outstanding = [m for m in load_migrations(folder) if m.version > newest_applied]
    if not outstanding:
        return "-- The database is up to date: there is nothing to do.\n"
    numbers = ", ".join(migration.version for migration in outstanding)
    parts = [
        f"-- crm_whatsapp: migrations {numbers}\n"
        "--\n"
        "-- 1. Open your project at supabase.com, then SQL Editor, then New query.\n"
        "-- 2. Paste this whole text and press Run. Supabase may warn about statements that\n"
        "--    revoke rights: that is what they are for.\n"
        "-- 3. It runs as one transaction: after an error nothing has changed.\n"
        "\nbegin;\n"
    ]
    for migration in outstanding:
        parts.append(f"-- {migration.version}_{migration.name}\n\n{migration.sql}")
        parts.append(
            "insert into public.whatsapp_migrations (version, name, checksum)\n"
            f"values ('{migration.version}', '{migration.name}', '{migration.checksum}');\n"
        )
    return "\n".join([*parts, "commit;\n"])


def _apply_next(
    connection: psycopg.Connection, migrations: Sequence[Migration]
) -> Migration | None:
    """Apply the first outstanding migration under the lock; None when there is none."""
    import psycopg

    with connection.transaction():
        connection.execute(f"set local lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'")
        connection.execute("set local statement_timeout = 0")
        connection.execute("select pg_advisory_xact_lock(%s)", [LOCK_NUMBER])
        outstanding = outstanding_migrations(migrations, _read_applied(connection))
        if not outstanding:
            return None
        migration = outstanding[0]
        try:
            connection.execute(migration.sql.encode())
            connection.execute(
                "insert into public.whatsapp_migrations (version, name, checksum) "
                "values (%s, %s, %s)",
                [migration.version, migration.name, migration.checksum],
            )
        except psycopg.Error as error:
            raise MigrationFailed(
                f"Migration {migration.version}_{migration.name} failed and was taken back: "
                f"{_one_line(error)}"
            ) from error
    return migration


def _read_applied(connection: psycopg.Connection) -> dict[str, str]:
    found = connection.execute("select to_regclass('public.whatsapp_migrations')").fetchone()
    if found is None or found[0] is None:
        return {}
    rows = connection.execute("select version, checksum from public.whatsapp_migrations")
    return dict(rows.fetchall())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
