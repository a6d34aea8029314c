"""Asks a database of known holes through a tool, and tells an answer from none."""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from supply_chain.components import Component, Ecosystem
from supply_chain.findings import Finding

ASK_SECONDS = 300.0


class CouldNotAsk(RuntimeError):
    """Nobody answered who knows of holes; the message ends a sentence that begins with who."""


class UnclearAnswer(RuntimeError):
    """Something answered, but not what can be relied on; the message says what."""


class Database(Protocol):
    """Knows the holes of one ecosystem."""

    @property
    def ecosystem(self) -> Ecosystem:
        """Whose packages it knows."""

    def prove(self, seconds: float) -> None:
        """Ask about a package that is known to have holes.

        A registry mirror answers without knowing of any hole; only who knows of this one is
        believed when it knows of none in other packages.

        Args:
            seconds: how long to wait for the answer.
        Raises:
            CouldNotAsk: nobody answered in time, or the hole is not known there.
            UnclearAnswer: the answer cannot be read.
        """

    def ask(self) -> tuple[Finding, ...]:
        """Return the findings in everything that is locked.

        Raises:
            UnclearAnswer: no answer, or one that cannot be read, or not about every package.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a tool said."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def last_words(self) -> str:
        """The last line of its complaints, or of its answer when there are none."""
        lines = (self.stderr.strip() or self.stdout.strip() or "nothing was printed").splitlines()
        return lines[-1][:300]


def run_tool(
    command: Sequence[str | Path],
    cwd: Path,
    seconds: float,
    environment: Mapping[str, str] | None = None,
) -> Ran:
    """Run it and return what it printed.

    Raises:
        CouldNotAsk: it did not end in time.
        UnclearAnswer: it could not be started.
    """
    try:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CouldNotAsk(f"gave no answer within {seconds:g} s") from error
    except OSError as error:
        raise UnclearAnswer(f"{command[0]} could not be started: {error.strerror}") from error
    return Ran(returncode=done.returncode, stdout=done.stdout, stderr=done.stderr)


def demand_all(locked: Collection[Component], answered: Collection[tuple[str, str]]) -> None:
    """Check that every package was looked at.

    Raises:
        UnclearAnswer: naming the first that were not.
    """
    missing = sorted({(item.name, item.version) for item in locked} - set(answered))
    if missing:
        named = ", ".join(f"{name} {version}" for name, version in missing[:5])
        raise UnclearAnswer(f"nothing was said about {len(missing)} packages: {named}")
