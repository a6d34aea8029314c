"""Operator commands: `python -m crm_whatsapp <command>`."""

import argparse
import getpass
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from crm_whatsapp.bootstrap import (
    create_key,
    export_session,
    import_baileys,
    import_session,
    list_keys,
    migrate_database,
    migration_text,
    new_key,
    revoke_key,
    rotate_keys,
    send_test_alert,
)
from crm_whatsapp.config import load_settings
from crm_whatsapp.domain.errors import ConfigurationError, CrmWhatsappError
from crm_whatsapp.domain.plain_text import escaped, escaped_lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(_COMMANDS[options.command](options))
    except CrmWhatsappError as error:
        _say(f"crm_whatsapp: {error.message}", error=True)
        return 1


def _parser() -> argparse.ArgumentParser:
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
    commands.add_parser("new-key", help="print a key for SNAPSHOT_ENCRYPTION_KEYS")
    commands.add_parser(
        "rotate-keys", help="wrap snapshots' data keys and webhooks' secrets by the first key"
    )
    _add_key_commands(commands.add_parser("keys", help="make, list and revoke API keys"))
    commands.add_parser("test-alert", help="send a test through each channel of ALERT_URLS")
    export = commands.add_parser("export", help="write one session to an encrypted file")
    load = commands.add_parser("import", help="take one session from such a file, without a scan")
    for transfer in (export, load):
        transfer.add_argument("file", type=Path, help="the encrypted file")
        transfer.add_argument("--company", required=True, help="the company's id, a UUID")
        transfer.add_argument(
            "--passphrase-file",
            type=Path,
            help="holds the passphrase; otherwise it is asked for",
        )
    moving_in = commands.add_parser(
        "import-baileys", help="take over a session of Baileys without a new scan, by SESSIONS_DIR"
    )
    moving_in.add_argument(
        "source", type=Path, help="its multi-file folder, or a JSON file that holds its creds"
    )
    moving_in.add_argument("--company", required=True, help="the company's id, a UUID")
    moving_in.add_argument(
        "--dry-run", action="store_true", help="check everything and write nothing"
    )
    for incoming in (moving_in, load):
        incoming.add_argument(
            "--replace",
            action="store_true",
            help="set a session that the company has already aside",
        )
    return parser


def _add_key_commands(keys: argparse.ArgumentParser) -> None:
    commands = keys.add_subparsers(dest="keys_command", required=True, metavar="command")
    create = commands.add_parser("create", help="make a key and print it, this once")
    create.add_argument("--name", required=True, help="for people: who uses it, and where")
    create.add_argument("--scopes", required=True, help="read, send, manage; separated by commas")
    listing = commands.add_parser("list", help="show the keys, without what is secret")
    for parser in (create, listing):
        parser.add_argument("--company", help="the company's id, a UUID; absent: all companies")
    create.add_argument("--expires-in-days", type=float, help="absent: valid until revoked")
    revoke = commands.add_parser("revoke", help="end a key for good")
    revoke.add_argument("key_id", help="the id, as list shows it")


def _migrate(options: argparse.Namespace) -> int:
    database_url = os.environ.get("SUPABASE_DB_URL", "").strip()
    if options.print_sql:
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
    report = import_baileys(
        options.source,
        _sessions_dir(),
        options.company,
        replace=options.replace,
        dry_run=options.dry_run,
    )
    name = f" ({escaped(report.push_name)})" if report.push_name else ""
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


def _new_key(options: argparse.Namespace) -> int:
    _say(new_key())
    return 0


def _rotate_keys(options: argparse.Namespace) -> int:
    done = rotate_keys(load_settings())
    _say(f"{done.rewrapped} snapshots rewrapped, {done.current} had the first key already")
    _say(f"{done.resealed} secrets of webhooks sealed anew")
    for line in done.failed:
        _say(f"not rewrapped: {line}", error=True)
    return 1 if done.failed else 0


def _keys(options: argparse.Namespace) -> int:
    settings = load_settings()
    if options.keys_command == "create":
        key, text, strangers = create_key(
            settings,
            name=options.name,
            company=options.company,
            scopes=options.scopes,
            days=options.expires_in_days,
        )
        _say(text)
        reach = f"company {key.company_id}" if key.company_id else "every company"
        until = f"until {key.expires_at:%Y-%m-%d %H:%M} UTC" if key.expires_at else "until revoked"
        _say(f"{key.id}: {', '.join(sorted(key.scopes))} for {reach}, {until}.", error=True)
        _say("It is shown this once. The service takes it from now on.", error=True)
        if strangers:
            _say(
                f"{strangers} keys were made with another pepper: use the SESSIONS_DIR or the "
                "API_KEY_PEPPER of the service, or it will not take this key.",
                error=True,
            )
        return 0
    if options.keys_command == "revoke":
        revoked = revoke_key(settings, options.key_id)
        _say(f"{revoked.id} ({escaped(revoked.name)}) is revoked.")
        _say(f"A running service follows within {settings.sync_interval_seconds:g} s.")
        return 0
    for key in list_keys(settings, options.company):
        end = f"revoked {key.revoked_at:%Y-%m-%d}" if key.revoked_at else "valid"
        if not key.revoked_at and key.expires_at:
            end = f"until {key.expires_at:%Y-%m-%d}"
        used = f"used {key.last_used_at:%Y-%m-%d %H:%M}" if key.last_used_at else "never used"
        scopes = ",".join(sorted(key.scopes))
        reach = key.company_id or "service"
        _say(
            "\t".join((key.id, reach, scopes, end, used, f"by {key.created_by}", escaped(key.name)))
        )
    return 0


def _test_alert(options: argparse.Namespace) -> int:
    settings = load_settings()
    if settings.alert_urls is None:
        raise ConfigurationError("ALERT_URLS is not set: alerts are in the log alone")
    outcomes, problems = send_test_alert(settings)
    for problem in problems:
        _say(problem, error=True)
    for outcome in outcomes:
        took = f"{outcome.took_seconds:.1f} s"
        if outcome.sent:
            _say(f"{outcome.channel}: sent in {took}")
        else:
            _say(f"{outcome.channel}: not sent after {took}: {outcome.detail}", error=True)
    return 0 if outcomes and not problems and all(item.sent for item in outcomes) else 1


def _export(options: argparse.Namespace) -> int:
    passphrase = _passphrase(options, twice=True)
    report = export_session(_sessions_dir(), options.company, options.file, passphrase)
    _say(f"{report.jid} written to {report.path}")
    _say(
        "This file and the passphrase are the session. Stop it here before it starts elsewhere: "
        "WhatsApp lets a device connect once, so the two would throw each other out."
    )
    return 0


def _import(options: argparse.Namespace) -> int:
    passphrase = _passphrase(options, twice=False)
    report = import_session(
        _sessions_dir(), options.company, options.file, passphrase, replace=options.replace
    )
    _say(f"{report.jid} written to {report.path}")
    if report.set_aside:
        _say(f"the session that was there is in {report.set_aside}")
    when = "the company's next status poll" if report.service_runs else "its next start"
    _say(f"The service starts it with {when}. It must not run anywhere else any more.")
    return 0


def _sessions_dir() -> Path:
    sessions_dir = os.environ.get("SESSIONS_DIR", "").strip()
    if not sessions_dir:
        raise ConfigurationError(
            "SESSIONS_DIR is not set. Set it to the folder that the service uses."
        )
    return Path(sessions_dir)


def _passphrase(options: argparse.Namespace, *, twice: bool) -> str:
    if options.passphrase_file is not None:
        try:
            return str(options.passphrase_file.read_text().rstrip("\r\n"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"{options.passphrase_file} cannot be read: {error}"
            ) from error
    entered = getpass.getpass("Passphrase: ")
    if twice and getpass.getpass("Once more: ") != entered:
        raise ConfigurationError("The two passphrases differ; nothing was written.")
    return entered


def _say(text: str, *, error: bool = False) -> None:
    stream = sys.stderr if error else sys.stdout
    stream.write(escaped_lines(text) + "\n")


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "migrate": _migrate,
    "keys": _keys,
    "new-key": _new_key,
    "rotate-keys": _rotate_keys,
    "test-alert": _test_alert,
    "export": _export,
    "import": _import,
    "import-baileys": _import_baileys,
}
