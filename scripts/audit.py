"""Looks for known holes in everything that is locked: `make audit`.

pip-audit asks OSV about requirements*.txt, `npm audit` the registry about the lock files of the
sandbox and the local stack; OSV is also asked about the Go modules inside neonize. A finding
fails, unless docs/audit-triage.toml accepts it with a reason until a day that has not passed.
Each database must first name the holes of a package that is known to have some: a mirror without
such data answers too, and would make everything look good.

Exit status: 0 nothing is left to do, 1 something is, 2 wrong arguments, 3 could not be asked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from supply_chain.asking import CouldNotAsk, Database, UnclearAnswer
from supply_chain.components import LockError
from supply_chain.findings import TRIAGE, Finding, TriageError, judge, read_triage
from supply_chain.go_holes import GoDatabase
from supply_chain.node_holes import NodeDatabase
from supply_chain.python_holes import OSV_URL, PythonDatabase

FOUND = 1
NOT_ASKED = 3
PROOF_SECONDS = 60.0
_YELLOW = "\033[33m"
_RED = "\033[31m"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came of asking one database: findings, or why there are none."""

    database: Database
    findings: tuple[Finding, ...] = ()
    not_asked: str | None = None
    unclear: str | None = None

    @property
    def is_answer(self) -> bool:
        """Whether the findings can be relied on."""
        return self.not_asked is None and self.unclear is None


def consult(database: Database, proof_seconds: float) -> Reply:
    """Ask for everything that is locked, once it is proven to know of holes."""
    try:
        database.prove(proof_seconds)
        return Reply(database=database, findings=database.ask())
    except CouldNotAsk as error:
        return Reply(database=database, not_asked=str(error))
    except (UnclearAnswer, LockError) as error:
        return Reply(database=database, unclear=str(error))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the audit and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        acceptances = read_triage(options.triage)
    except TriageError as error:
        _complain(str(error))
        return FOUND
    databases: list[Database] = [
        PythonDatabase(osv_url=options.osv_url),
        GoDatabase(osv_url=options.osv_url),
        NodeDatabase(registry=options.npm_registry),
    ]
    with ThreadPoolExecutor(len(databases)) as pool:
        replies = list(pool.map(lambda item: consult(item, options.proof_seconds), databases))
    findings = [finding for reply in replies for finding in reply.findings]
    asked = {reply.database.ecosystem for reply in replies if reply.is_answer}
    verdict = judge(findings, acceptances, asked, datetime.now(UTC).date())
    for finding, acceptance in verdict.accepted:
        print(f"audit: accepted until {acceptance.until}: {finding}")
    for fault in verdict.faults:
        _complain(f"{options.triage}: {fault}")
    for finding in verdict.open:
        _complain(str(finding))
    for reply in replies:
        _report(reply)
    if not verdict.is_good or any(reply.unclear for reply in replies):
        return FOUND
    is_complete = all(reply.is_answer for reply in replies)
    return 0 if is_complete or options.where_reachable else NOT_ASKED


def _report(reply: Reply) -> None:
    ecosystem = reply.database.ecosystem
    if reply.unclear is not None:
        _complain(f"{ecosystem}: the answer of {reply.database} is unclear: {reply.unclear}")
    elif reply.not_asked is not None:
        notice = f"audit skipped for {ecosystem}: {reply.database} {reply.not_asked}"
        _print(_YELLOW, f"{notice}; run `make audit` where it can be asked")
    else:
        print(f"audit: {ecosystem}: {len(reply.findings)} findings, says {reply.database}")


def _complain(text: str) -> None:
    _print(_RED, f"audit: {text}")


def _print(colour: str, text: str) -> None:
    """Print to the standard error; coloured for a person."""
    print(f"{colour}{text}\033[0m" if sys.stderr.isatty() else text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Look for known holes in what is locked.")
    parser.add_argument(
        "--where-reachable",
        action="store_true",
        help="a database that cannot be asked is a notice, not a failure",
    )
    parser.add_argument(
        "--proof-seconds",
        type=float,
        default=PROOF_SECONDS,
        help="how long to wait for the first answer of a database (default %(default)g)",
    )
    parser.add_argument(
        "--osv-url", default=OSV_URL, help="OSV's query, or a mirror of it (default %(default)s)"
    )
    parser.add_argument("--npm-registry", help="default: the one that npm is set to")
    parser.add_argument("--triage", type=Path, default=TRIAGE, help="default %(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(main())
