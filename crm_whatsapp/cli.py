"""Operator commands: `python -m crm_whatsapp <command>`."""

import argparse
import os
import sys
from collections.abc import Sequence

from crm_whatsapp.bootstrap import migrate_database, migration_text
from crm_whatsapp.domain.errors import CrmWhatsappError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m crm_whatsapp", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    migrate = commands.add_parser(
        "migrate", help="bring the database to this release, by SUPABASE_DB_URL"
    )
    migrate.add_argument(
        "--print",
        action="store_true",
        dest="print_sql",
        help="print the SQL for Supabase's SQL editor instead of running it",
    )
    options = parser.parse_args(arguments)
    try:
        return _migrate(print_sql=options.print_sql)
    except CrmWhatsappError as error:
        _say(f"crm_whatsapp: {error.message}", error=True)
        return 1


def _migrate(*, print_sql: bool) -> int:
    database_url = os.environ.get("SUPABASE_DB_URL", "").strip()
    if print_sql:
        _say(migration_text())
        return 0
    if not database_url:
        _say(
            "SUPABASE_DB_URL is not set. Set it to the project's postgresql:// URL (Supabase > "
            "Project settings > Database), or open Supabase's SQL editor, paste what this prints, "
            "and run it:\n\n    python -m crm_whatsapp migrate --print",
            error=True,
        )
        return 1
    applied = migrate_database(database_url)
    for name in applied:
        _say(f"applied {name}")
    if not applied:
        _say("the database is up to date")
    return 0


def _say(text: str, *, error: bool = False) -> None:
    stream = sys.stderr if error else sys.stdout
    stream.write(text + "\n")
