"""Reads the lock files: which packages, of which version, by which hashes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[2]
RUN_TIME_LOCK = REPOSITORY / "requirements.txt"
PYTHON_LOCKS = (
    RUN_TIME_LOCK,
    REPOSITORY / "requirements-dev.txt",
    REPOSITORY / "requirements-node.txt",
)
NODE_LOCKS = (
    REPOSITORY / "scripts" / "local_stack" / "package-lock.json",
    REPOSITORY / "scripts" / "sandbox" / "package-lock.json",
)


class Ecosystem(StrEnum):
    """Where a package comes from."""

    PYPI = "pypi"
    NPM = "npm"
    GO = "go"


class LockError(RuntimeError):
    """A lock file cannot be read, or does not pin a package; the message says where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One package of one version.

    Attributes:
        name: normalised, as the registry has it.
        marker: where it is installed at all, as an expression of PEP 508; empty: everywhere.
        hashes: `algorithm:digest` in hexadecimal for Python, `sha512-base64` for npm.
        licence: what the lock file itself says; only that of npm does.
    """

    ecosystem: Ecosystem
    name: str
    version: str
    marker: str = ""
    hashes: tuple[str, ...] = ()
    licence: str | None = None

    @property
    def is_for_this_machine(self) -> bool:
        """Whether its marker holds for this Python on this system."""
        return not self.marker or Marker(self.marker).evaluate()


def read_requirements(path: Path) -> tuple[Component, ...]:
    """Return what a file compiled by `make lock` pins.

    Raises:
        LockError: the file is missing, or a line pins no version or has no hash.
    """
    return tuple(_component(path, line) for line in _logical_lines(path))


def read_package_lock(path: Path) -> tuple[Component, ...]:
    """Return what npm installs, without the project itself.

    Raises:
        LockError: the file is missing, is no lock file of version 2 or 3, or has no hash.
    """
    try:
        packages = json.loads(_text(path))["packages"]
        found = [
            Component(
                ecosystem=Ecosystem.NPM,
                name=entry.get("name") or location.rpartition("node_modules/")[2],
                version=entry["version"],
                hashes=(entry["integrity"],),
                licence=entry.get("license"),
            )
            for location, entry in packages.items()
            if location
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LockError(f"{path} is no package-lock.json of npm 7 or newer: {error!r}") from error
    return tuple(found)


def run_time_components() -> tuple[Component, ...]:
    """Return what the service needs to run."""
    return merged([read_requirements(RUN_TIME_LOCK)])


def development_components() -> tuple[Component, ...]:
    """Return what is only needed for checks, tests and the local stack."""
    run_time = {(item.name, item.version) for item in run_time_components()}
    every = merged([read_requirements(path) for path in PYTHON_LOCKS[1:]])
    return tuple(item for item in every if (item.name, item.version) not in run_time)


def node_components() -> tuple[Component, ...]:
    """Return what the sandbox and the local stack take from npm."""
    return merged([read_package_lock(path) for path in NODE_LOCKS])


def merged(locks: Iterable[Sequence[Component]]) -> tuple[Component, ...]:
    """Return every package and version once, by name."""
    found: dict[tuple[str, str], Component] = {}
    for lock in locks:
        for item in lock:
            found.setdefault((item.name, item.version), item)
    return tuple(found[key] for key in sorted(found))


def _logical_lines(path: Path) -> list[str]:
    lines = [line for line in _text(path).splitlines() if not line.lstrip().startswith("#")]
    return [line.strip() for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line]


def _component(path: Path, line: str) -> Component:
    words, *hashes = line.split("--hash=")
    try:
        requirement = Requirement(words.strip())
    except InvalidRequirement as error:
        raise LockError(f"{path}: {words.strip()!r} is no pinned requirement: {error}") from error
    pins = [item.version for item in requirement.specifier if item.operator == "=="]
    if len(pins) != 1 or not hashes:
        raise LockError(f"{path}: {requirement.name} needs one == version and a hash: `make lock`.")
    return Component(
        ecosystem=Ecosystem.PYPI,
        name=canonicalize_name(requirement.name),
        version=pins[0],
        marker=str(requirement.marker or ""),
        hashes=tuple(item.strip() for item in hashes),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise LockError(f"{path} cannot be read: {error.strerror}") from error
