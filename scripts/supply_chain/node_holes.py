"""Known holes in packages of npm, by `npm audit` from the registry that npm is set to."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from node_runtime import NodeRuntimeError, npm_command
from supply_chain.asking import ASK_SECONDS, CouldNotAsk, Ran, UnclearAnswer, run_tool
from supply_chain.components import NODE_LOCKS, Ecosystem, read_package_lock
from supply_chain.findings import Finding

# lodash 4.17.0 lets a stranger change Object.prototype: CVE-2019-10744 and others.
KNOWN_TO_HAVE_HOLES = ("lodash", "4.17.0")
_SOCKET_MILLISECONDS = 10_000


class _Advisory(BaseModel):
    model_config = ConfigDict(strict=True)
    source: int | str
    name: str
    title: str = ""
    url: str = ""
    range: str


class _Vulnerable(BaseModel):
    """via: advisories, and names of packages by which this one is vulnerable."""

    model_config = ConfigDict(strict=True)
    name: str
    via: list[_Advisory | str]
    nodes: list[str]
    fix_available: bool | dict[str, Any] = Field(alias="fixAvailable")


class _Counts(BaseModel):
    model_config = ConfigDict(strict=True)
    total: int


class _Metadata(BaseModel):
    model_config = ConfigDict(strict=True)
    dependencies: _Counts


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True)
    version: int = Field(alias="auditReportVersion", ge=2, le=2)
    vulnerabilities: dict[str, _Vulnerable]
    metadata: _Metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAnswer:
    """What npm said. asked: how many packages it looked at."""

    findings: tuple[Finding, ...]
    asked: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDatabase:
    """The registry of npm. registry: None is the one that npm is set to."""

    registry: str | None = None
    locks: tuple[Path, ...] = NODE_LOCKS

    def __str__(self) -> str:
        """Return who is asked."""
        return f"the npm registry {self.registry}" if self.registry else "the npm registry in use"

    @property
    def ecosystem(self) -> Ecosystem:
        """Packages of npm."""
        return Ecosystem.NPM

    def prove(self, seconds: float) -> None:
        """See Database."""
        name, version = KNOWN_TO_HAVE_HOLES
        root = {"name": "probe", "version": "1.0.0", "dependencies": {name: version}}
        packages = {"": root, f"node_modules/{name}": {"version": version}}
        lock = {**root, "lockfileVersion": 3, "requires": True, "packages": packages}
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "package.json").write_text(json.dumps(root), encoding="utf-8")
            (Path(folder) / "package-lock.json").write_text(json.dumps(lock), encoding="utf-8")
            ran = self._run(Path(folder), seconds)
            answer = read_answer(ran, {f"node_modules/{name}": version})
        if not answer.findings:
            raise CouldNotAsk(f"knows of no hole in {name} {version}")

    def ask(self) -> tuple[Finding, ...]:
        """See Database."""
        found = {finding for lock in self.locks for finding in self._ask_about(lock)}
        return tuple(sorted(found, key=str))

    def _ask_about(self, lock: Path) -> Sequence[Finding]:
        try:
            ran = self._run(lock.parent, ASK_SECONDS)
            answer = read_answer(ran, _versions(lock))
        except CouldNotAsk as error:
            raise UnclearAnswer(f"{error}, though it answered just before: try again") from error
        locked = len(read_package_lock(lock))
        if answer.asked != locked:
            raise UnclearAnswer(f"npm looked at {answer.asked} packages, {lock} has {locked}")
        return answer.findings

    def _run(self, folder: Path, seconds: float) -> Ran:
        try:
            command: list[str | Path] = [*npm_command(), "audit", "--json", "--package-lock-only"]
        except NodeRuntimeError as error:
            raise UnclearAnswer(str(error)) from error
        command += ["--include=dev", "--include=optional", "--include=peer", "--no-offline"]
        command += ["--fetch-retries=0", f"--fetch-timeout={_SOCKET_MILLISECONDS}"]
        if self.registry is not None:
            command.append(f"--registry={self.registry}")
        return run_tool(command, folder, seconds)


def read_answer(ran: Ran, versions: Mapping[str, str]) -> NodeAnswer:
    """Return what npm found.

    Args:
        versions: of each place in node_modules.
    Raises:
        CouldNotAsk: nothing listens there, or it refuses to be asked.
        UnclearAnswer: the answer is no report of npm.
    """
    try:
        said = json.loads(ran.stdout)
    except ValueError as error:
        raise UnclearAnswer(f"npm audit gave no answer: {ran.last_words}") from error
    if isinstance(said, dict) and "error" in said and "auditReportVersion" not in said:
        raise _no_report(said, ran)
    try:
        answer = _Answer.model_validate(said)
    except ValidationError as error:
        raise UnclearAnswer(f"npm audit gave no report: {ran.last_words}") from error
    found = tuple(
        _finding(hole, advisory, versions.get(node, "?"))
        for hole in answer.vulnerabilities.values()
        for advisory in hole.via
        if isinstance(advisory, _Advisory)
        for node in hole.nodes
    )
    if answer.vulnerabilities and not found:
        raise UnclearAnswer("npm audit names packages with holes, and no advisory")
    return NodeAnswer(findings=found, asked=answer.metadata.dependencies.total)


def _no_report(said: Mapping[str, Any], ran: Ran) -> CouldNotAsk | UnclearAnswer:
    """Return why: npm has no code for it, only its words."""
    message = str(said.get("message") or "")
    status = said.get("statusCode")
    if isinstance(status, int) and status >= 400:
        return CouldNotAsk(f"answers with HTTP {status}")
    if message.startswith("request to ") or "network timeout" in message:
        return CouldNotAsk("could not be reached")
    return UnclearAnswer(f"npm audit failed: {message or said.get('error') or ran.last_words}")


def _versions(lock: Path) -> dict[str, str]:
    packages = json.loads(lock.read_text(encoding="utf-8"))["packages"]
    return {location: entry["version"] for location, entry in packages.items() if location}


def _finding(hole: _Vulnerable, advisory: _Advisory, version: str) -> Finding:
    identifier = advisory.url.rpartition("/")[2] or f"npm-{advisory.source}"
    return Finding(
        ecosystem=Ecosystem.NPM,
        package=hole.name,
        version=version,
        names=frozenset({identifier}),
        summary=" ".join(advisory.title.split())[:200] or "no description",
        remedy=f"{advisory.range}; {'`npm audit fix` helps' if hole.fix_available else 'no fix'}",
    )
