"""Known holes in packages, and which of them were looked at and accepted for a while."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from supply_chain.components import REPOSITORY, Ecosystem

TRIAGE = REPOSITORY / "docs" / "audit-triage.toml"
LONGEST = timedelta(days=180)
_FIELDS = {"ecosystem", "package", "advisory", "until", "reason"}


class TriageError(RuntimeError):
    """The triage file cannot be used; the message names every fault in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One advisory that covers a locked version.

    Attributes:
        names: every identifier of the advisory: GHSA, CVE, PYSEC.
        remedy: what is known about versions without the hole.
    """

    ecosystem: Ecosystem
    package: str
    version: str
    names: frozenset[str]
    summary: str
    remedy: str

    def __str__(self) -> str:
        """Return one line for a person."""
        package = f"{self.ecosystem} {self.package} {self.version}"
        return f"{package}: {', '.join(sorted(self.names))}: {self.summary} ({self.remedy})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """A finding that somebody looked at and lives with until a day, that day included."""

    ecosystem: Ecosystem
    package: str
    advisory: str
    until: date
    reason: str

    def covers(self, finding: Finding) -> bool:
        """Whether it is about this finding."""
        return (
            self.ecosystem is finding.ecosystem
            and self.package == finding.package
            and self.advisory in finding.names
        )

    def __str__(self) -> str:
        """Return how to find it in the file."""
        return f"{self.advisory} for {self.ecosystem} {self.package}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the findings amount to. faults: in the triage file, each a sentence."""

    open: tuple[Finding, ...]
    accepted: tuple[tuple[Finding, Acceptance], ...]
    faults: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """Whether nothing is left to do."""
        return not self.open and not self.faults


def read_triage(path: Path = TRIAGE) -> tuple[Acceptance, ...]:
    """Return what is accepted.

    Raises:
        TriageError: the file is missing or not TOML, or an entry is incomplete.
    """
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TriageError(f"{path} cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise TriageError(f"{path} is not TOML: {error}") from error
    unknown = entries.keys() - {"accepted"}
    if unknown or not isinstance(entries.get("accepted", []), list):
        raise TriageError(f"{path}: only [[accepted]] is known, not {', '.join(sorted(entries))}")
    faults: list[str] = []
    accepted = []
    for number, entry in enumerate(entries.get("accepted", []), start=1):
        wrong = _wrong(entry)
        if wrong:
            faults.append(f"{path}: entry {number}: {wrong}")
        else:
            accepted.append(Acceptance(**{**entry, "ecosystem": Ecosystem(entry["ecosystem"])}))
    if faults:
        raise TriageError("\n".join(faults))
    return tuple(accepted)


def judge(
    findings: Sequence[Finding],
    acceptances: Sequence[Acceptance],
    asked: Collection[Ecosystem],
    today: date,
) -> Verdict:
    """Compare what was found with what is accepted.

    Args:
        asked: whose database answered; only there can an entry be known to cover nothing.
    """
    accepted = []
    left = []
    for finding in findings:
        of_it = [item for item in acceptances if item.covers(finding)]
        if of_it and of_it[0].until >= today:
            accepted.append((finding, of_it[0]))
        else:
            left.append(finding)
    faults = []
    for item in acceptances:
        if item.until < today:
            faults.append(f"{item}: accepted until {item.until}, which is over: look again")
        elif item.until - today > LONGEST:
            faults.append(f"{item}: {item.until} is more than {LONGEST.days} days away")
        elif item.ecosystem in asked and not any(item.covers(finding) for finding in findings):
            faults.append(f"{item}: nothing has this hole any more: remove the entry")
    return Verdict(open=tuple(left), accepted=tuple(accepted), faults=tuple(faults))


def _wrong(entry: Any) -> str | None:
    """Return what is wrong with an entry, None when it can be used."""
    if not isinstance(entry, dict):
        return "is no table"
    if entry.keys() != _FIELDS:
        fields = ", ".join(sorted(_FIELDS))
        return f"has {', '.join(sorted(entry)) or 'nothing'}, and needs exactly {fields}"
    if entry["ecosystem"] not in list(Ecosystem):
        return f"ecosystem is {' or '.join(Ecosystem)}, not {entry['ecosystem']!r}"
    if type(entry["until"]) is not date:
        return "until is a day without quotes, as 2027-01-31"
    for field in ("package", "advisory", "reason"):
        if not isinstance(entry[field], str) or not entry[field].strip():
            return f"{field} is a text that says something"
    return None
