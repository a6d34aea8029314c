"""Known holes in Python packages, by pip-audit from the OSV database."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from supply_chain.asking import (
    ASK_SECONDS,
    CouldNotAsk,
    Ran,
    UnclearAnswer,
    demand_all,
    run_tool,
)
from supply_chain.components import (
    PYTHON_LOCKS,
    REPOSITORY,
    Ecosystem,
    read_requirements,
)
from supply_chain.findings import Finding

OSV_URL = "https://api.osv.dev/v1/query"
# Jinja2 2.4.1 escapes its sandbox: CVE-2016-10745, CVE-2019-10906 and others.
KNOWN_TO_HAVE_HOLES = "jinja2==2.4.1"
_SOCKET_SECONDS = 10
_NOT_REACHED = re.compile(
    r"^requests\.exceptions\.(?:ConnectionError|ConnectTimeout|ReadTimeout|Timeout|ProxyError"
    r"|SSLError|ChunkedEncodingError|TooManyRedirects)\b|Could not connect to",
    re.MULTILINE,
)
_REFUSED = re.compile(r"^requests\.exceptions\.HTTPError: (\d{3})", re.MULTILINE)


class _Hole(BaseModel):
    model_config = ConfigDict(strict=True)
    id: str
    aliases: list[str] = Field(default_factory=list)
    fix_versions: list[str]
    description: str = ""


class _Dependency(BaseModel):
    """Either version and vulns, or skip_reason."""

    model_config = ConfigDict(strict=True)
    name: str
    version: str | None = None
    vulns: list[_Hole] | None = None
    skip_reason: str | None = None


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True)
    dependencies: list[_Dependency]


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonAnswer:
    """What pip-audit said. asked: name and version of each package it was told about."""

    findings: tuple[Finding, ...]
    asked: frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonDatabase:
    """OSV, or a mirror of it at another address."""

    osv_url: str = OSV_URL
    locks: tuple[Path, ...] = PYTHON_LOCKS

    def __str__(self) -> str:
        """Return who is asked."""
        return f"the database of holes at {self.osv_url}"

    @property
    def ecosystem(self) -> Ecosystem:
        """Packages of PyPI."""
        return Ecosystem.PYPI

    def prove(self, seconds: float) -> None:
        """See Database."""
        with tempfile.TemporaryDirectory() as folder:
            wanted = Path(folder) / "requirements.txt"
            wanted.write_text(KNOWN_TO_HAVE_HOLES + "\n", encoding="utf-8")
            answer = read_answer(self._run(wanted, ["--no-deps"], seconds))
        if not answer.findings:
            raise CouldNotAsk(f"knows of no hole in {KNOWN_TO_HAVE_HOLES}")

    def ask(self) -> tuple[Finding, ...]:
        """See Database."""
        with ThreadPoolExecutor(len(self.locks)) as pool:
            found = {finding for part in pool.map(self._ask_about, self.locks) for finding in part}
        return tuple(sorted(found, key=str))

    def _ask_about(self, lock: Path) -> Sequence[Finding]:
        try:
            answer = read_answer(self._run(lock, ["--require-hashes"], ASK_SECONDS))
        except CouldNotAsk as error:
            raise UnclearAnswer(f"{error}, though it answered just before: try again") from error
        here = [item for item in read_requirements(lock) if item.is_for_this_machine]
        demand_all(here, answer.asked)
        return answer.findings

    def _run(self, requirements: Path, options: Sequence[str], seconds: float) -> Ran:
        command: list[str | Path] = [sys.executable, "-m", "pip_audit", "--requirement"]
        command += [requirements, "--disable-pip", *options]
        command += ["--vulnerability-service", "osv", "--osv-url", self.osv_url]
        command += ["--format", "json", "--progress-spinner", "off"]
        command += ["--timeout", str(_SOCKET_SECONDS)]
        command += ["--cache-dir", REPOSITORY / ".cache" / "pip-audit"]
        return run_tool(command, requirements.parent, seconds)


def read_answer(ran: Ran) -> PythonAnswer:
    """Return what pip-audit found.

    Raises:
        CouldNotAsk: nothing listens there, or it refuses to be asked.
        UnclearAnswer: the answer is none of pip-audit's, or leaves a package out.
    """
    if not ran.stdout.strip():
        refused = _REFUSED.search(ran.stderr)
        if refused:
            raise CouldNotAsk(f"answers with HTTP {refused[1]}")
        if _NOT_REACHED.search(ran.stderr):
            raise CouldNotAsk("could not be reached")
    try:
        answer = _Answer.model_validate_json(ran.stdout)
    except ValidationError as error:
        raise UnclearAnswer(f"pip-audit gave no answer: {ran.last_words}") from error
    findings = []
    for item in answer.dependencies:
        if item.version is None or item.vulns is None:
            raise UnclearAnswer(f"pip-audit left out {item.name}: {item.skip_reason}")
        findings += [_finding(item.name, item.version, hole) for hole in item.vulns]
    if (ran.returncode != 0) != bool(findings):
        raise UnclearAnswer(
            f"pip-audit ended with {ran.returncode} and {len(findings)} findings: {ran.last_words}"
        )
    asked = {(canonicalize_name(item.name), str(item.version)) for item in answer.dependencies}
    return PythonAnswer(findings=tuple(findings), asked=frozenset(asked))


def _finding(name: str, version: str, hole: _Hole) -> Finding:
    return Finding(
        ecosystem=Ecosystem.PYPI,
        package=canonicalize_name(name),
        version=version,
        names=frozenset([hole.id, *hole.aliases]),
        summary=" ".join(hole.description.split())[:200] or "no description",
        remedy=f"fixed in {', '.join(hole.fix_versions)}" if hole.fix_versions else "no fix known",
    )
