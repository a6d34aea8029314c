"""Operator commands: `python -m crm_whatsapp <command>`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from crm_whatsapp.bootstrap import import_baileys, migrate_database, migration_text
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
    moving_in = commands.add_parser(
        "import-baileys", help="take over a session of Baileys without a new scan, by SESSIONS_DIR"
    )
    moving_in.add_argument(
        "source", type=Path, help="its multi-file folder, or a JSON file that holds its creds"
    )
    moving_in.add_argument("--company", required=True, help="the company's id, a UUID")
    moving_in.add_argument(
        "--replace", action="store_true", help="set a session that the company has already aside"
    )
    moving_in.add_argument(
        "--dry-run", action="store_true", help="check everything and write nothing"
    )
    options = parser.parse_args(arguments)
    try:
        if options.command == "import-baileys":
            return _import_baileys(options)
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


def _import_baileys(options: argparse.Namespace) -> int:
    sessions_dir = os.environ.get("SESSIONS_DIR", "").strip()
    if not sessions_dir:
        _say("SESSIONS_DIR is not set. Set it to the folder that the service uses.", error=True)
        return 1
    report = import_baileys(
        options.source,
        Path(sessions_dir),
        options.company,
        replace=options.replace,
        dry_run=options.dry_run,
    )
    name = f" ({report.push_name})" if report.push_name else ""
    _say(f"{report.source}: paired as {report.jid}{name}; keys and signatures fit.")
    _say(f"{'would be written to' if report.dry_run else 'written to'} {report.folder}")
    damaged = f", {report.unusable_keys} were damaged" if report.unusable_keys else ""
    _say(f"one-time keys taken along: {report.one_time_keys}{damaged}")
    if report.set_aside:
        _say(f"the session that was there is in {report.set_aside}")
    elif report.occupant_aside:
        _say("the session that is there would be set aside in quarantine/")
    if report.dry_run:
        _say("Dry run: nothing was written.")
    elif report.service_runs:
        _say("The running service starts it at the company's next status poll.")
    else:
        _say("The service starts it with its next start.")
    _say("A company that was disconnected or logged out here before is started by Connect.")
    _say(
        "Baileys must not run with this session again: WhatsApp lets a device connect once, so the "
        "two would throw each other out. Stop it for good before this one starts."
    )
    return 0


def _say(text: str, *, error: bool = False) -> None:
    stream = sys.stderr if error else sys.stdout
    stream.write(text + "\n")
