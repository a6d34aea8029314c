"""Known holes in the Go modules inside neonize's library, from the OSV database.

No tool for Python packages looks into it, and it is what reads what strangers send.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from supply_chain.asking import ASK_SECONDS, CouldNotAsk, UnclearAnswer
from supply_chain.components import Ecosystem
from supply_chain.findings import Finding
from supply_chain.go_modules import GoModule, NoGoModules, neonize_modules
from supply_chain.python_holes import OSV_URL

# Its ssh answers who should not be answered: CVE-2023-48795, CVE-2024-45337 and others.
KNOWN_TO_HAVE_HOLES = GoModule(name="golang.org/x/crypto", version="v0.1.0", checksum="")
_SOCKET_SECONDS = 10.0


class _Event(BaseModel):
    fixed: str | None = None


class _Range(BaseModel):
    events: list[_Event] = Field(default_factory=list)


class _Package(BaseModel):
    name: str
    ecosystem: str


class _Affected(BaseModel):
    package: _Package | None = None
    ranges: list[_Range] = Field(default_factory=list)


class _Hole(BaseModel):
    id: str
    aliases: list[str] = Field(default_factory=list)
    summary: str = ""
    details: str = ""
    withdrawn: str | None = None
    affected: list[_Affected] = Field(default_factory=list)


class _Answer(BaseModel):
    """Empty when no hole is known."""

    model_config = ConfigDict(extra="forbid")
    vulns: list[_Hole] = Field(default_factory=list)
    next_page_token: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GoDatabase:
    """OSV, or a mirror of it at another address."""

    osv_url: str = OSV_URL

    def __str__(self) -> str:
        """Return who is asked."""
        return f"the database of holes at {self.osv_url}"

    @property
    def ecosystem(self) -> Ecosystem:
        """Modules of Go."""
        return Ecosystem.GO

    def prove(self, seconds: float) -> None:
        """See Database."""
        known = KNOWN_TO_HAVE_HOLES
        if not self._within(seconds, [known]):
            raise CouldNotAsk(f"knows of no hole in {known.name} {known.version}")

    def ask(self) -> tuple[Finding, ...]:
        """See Database."""
        try:
            return tuple(sorted(self._within(ASK_SECONDS, neonize_modules()), key=str))
        except CouldNotAsk as error:
            raise UnclearAnswer(f"{error}, though it answered just before: try again") from error
        except NoGoModules as error:
            raise UnclearAnswer(str(error)) from error

    def _within(self, seconds: float, modules: Sequence[GoModule]) -> list[Finding]:
        """Ask, and give up after so long: looking up a name cannot be bounded otherwise."""
        outcome: queue.SimpleQueue[list[Finding] | CouldNotAsk | UnclearAnswer] = (
            queue.SimpleQueue()
        )

        def run() -> None:
            try:
                with httpx.Client(timeout=_SOCKET_SECONDS) as client:
                    outcome.put([hole for item in modules for hole in self._holes(client, item)])
            except (CouldNotAsk, UnclearAnswer) as error:
                outcome.put(error)

        threading.Thread(target=run, name="go-holes", daemon=True).start()
        try:
            found = outcome.get(timeout=seconds)
        except queue.Empty as error:
            raise CouldNotAsk(f"gave no answer within {seconds:g} s") from error
        if isinstance(found, Exception):
            raise found
        return found

    def _holes(self, client: httpx.Client, module: GoModule) -> Sequence[Finding]:
        query = {
            "package": {"name": module.name, "ecosystem": "Go"},
            "version": module.version.removeprefix("v"),
        }
        try:
            response = client.post(self.osv_url, json=query)
        except httpx.HTTPError as error:
            raise CouldNotAsk("could not be reached") from error
        if response.status_code != httpx.codes.OK:
            raise CouldNotAsk(f"answers with HTTP {response.status_code}")
        return read_answer(module, response.content)


def read_answer(module: GoModule, content: bytes) -> list[Finding]:
    """Return the holes that an answer of OSV names, without withdrawn ones.

    Raises:
        UnclearAnswer: it is none of OSV's, or not all of it.
    """
    try:
        answer = _Answer.model_validate_json(content)
    except ValidationError as error:
        raise UnclearAnswer(f"the answer about {module.name} cannot be read") from error
    if answer.next_page_token:
        raise UnclearAnswer(f"{module.name} has more holes than one answer holds")
    return [_finding(module, hole) for hole in answer.vulns if hole.withdrawn is None]


def _finding(module: GoModule, hole: _Hole) -> Finding:
    fixes = {
        event.fixed
        for affected in hole.affected
        if affected.package is None or affected.package.name == module.name
        for span in affected.ranges
        for event in span.events
        if event.fixed is not None
    }
    return Finding(
        ecosystem=Ecosystem.GO,
        package=module.name,
        version=module.version,
        names=frozenset([hole.id, *hole.aliases]),
        summary=" ".join((hole.summary or hole.details).split())[:200] or "no description",
        remedy=f"fixed in {', '.join(sorted(fixes))}; needs a newer neonize"
        if fixes
        else "no fix known",
    )
