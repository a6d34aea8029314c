"""All tests but the soak, in two parts: many at once, then those that need the machine alone.

    python scripts/run_tests.py [--workers N] [--reports FOLDER] [ARGUMENTS OF PYTEST]

The second part is the tests marked `alone`: what they measure is wrong while others run.
Exit code: pytest's, the first that is not 0; 5 when no test was found in either part.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from foreground import AskedToEnd, end_tree, ended_by_signals

REPOSITORY = Path(__file__).resolve().parent.parent
WORKERS_PER_CORE = 1.5
"""Most tests wait for another process, so more than one fit on a core."""

GRACE_SECONDS = 60.0
"""How long pytest may take to end what its tests have started, once it is interrupted."""

PASSED, FAILED, NO_TESTS = 0, 1, 5  # pytest.ExitCode
INTERRUPTED = 130
NOT_CHOSEN_HERE = ("-m", "-n", "--numprocesses", "--dist", "--junitxml", "--junit-xml")
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some of the tests, run by one pytest.

    marks: which, as an expression of pytest's -m.
    workers: how many processes run them; 0 is pytest's own alone.
    """

    name: str
    marks: str
    workers: int

    def command(self, arguments: Sequence[str], reports: Path | None) -> list[str]:
        """Return how it is started."""
        command = [sys.executable, "-m", "pytest", "-m", self.marks, "-n", str(self.workers)]
        if self.workers:
            command += ["--dist", "worksteal"]
        if reports is not None:
            command.append(f"--junitxml={reports / self.name}.xml")
        return [*command, "--durations=10", *arguments]


def main() -> int:
    """Run both parts; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="run_tests.py",
        description="Run all tests but the soak. Other arguments are pytest's.",
        epilog="To choose by marks, or to debug, call pytest itself: python -m pytest -m soak",
        allow_abbrev=False,
    )
    parser.add_argument("--workers", type=_positive, default=usual_workers(), help="%(default)s")
    parser.add_argument("--reports", type=Path, help="a folder for the parts' JUnit reports")
    ours, arguments = parser.parse_known_args()
    if chosen := [item for item in arguments if _is_not_chosen_here(item)]:
        parser.error(f"{chosen[0]} is set by this program; call pytest itself: python -m pytest")
    if ours.reports is not None:
        ours.reports.mkdir(parents=True, exist_ok=True)
    parts = (
        Part(name="side-by-side", marks="not soak and not alone", workers=ours.workers),
        Part(name="alone", marks="alone and not soak", workers=0),
    )
    codes: list[int] = []
    try:
        for part in parts:
            codes.append(run(part, arguments, ours.reports))
            if codes[-1] not in (PASSED, FAILED, NO_TESTS):
                break  # a wrong argument, an interruption: the next part has no better luck
        return exit_code(codes)
    except AskedToEnd as asked:
        print(f"run_tests: ended by {asked}", file=sys.stderr)
        return INTERRUPTED


def usual_workers() -> int:
    """Return how many processes run tests on this machine; at least two."""
    return max(2, int(len(os.sched_getaffinity(0)) * WORKERS_PER_CORE))


def exit_code(codes: Sequence[int]) -> int:
    """Return the exit code of the whole: a part without tests is right, two are not."""
    if set(codes) == {NO_TESTS}:
        return NO_TESTS
    return next((code for code in codes if code not in (PASSED, NO_TESTS)), PASSED)


def run(part: Part, arguments: Sequence[str], reports: Path | None) -> int:
    """Run one part; return pytest's exit code.

    Raises:
        AskedToEnd: a signal came, and pytest has ended with everything its tests have started.
    """
    print(f"==> tests, {part.name}", flush=True)
    begun = time.monotonic()
    with ended_by_signals():
        # A session of its own: a Ctrl+C reaches this program, which passes on exactly one.
        process = subprocess.Popen(
            part.command(arguments, reports),
            cwd=REPOSITORY,
            start_new_session=True,
            preexec_fn=_interrupt_with_parent,
        )
        try:
            code = process.wait()
        except AskedToEnd:
            _end(process)
            raise
    print(f"--- tests, {part.name}, took {time.monotonic() - begun:.0f} s", flush=True)
    return INTERRUPTED if code < 0 else code


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt pytest and its workers, who end what their tests started; later by force."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        end_tree(psutil.Process(process.pid))
        process.wait()


def _interrupt_with_parent() -> None:
    """Have the kernel send SIGINT when this program dies. Source: prctl(2)."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def _is_not_chosen_here(argument: str) -> bool:
    return argument.split("=")[0] in NOT_CHOSEN_HERE or argument.startswith(("-n", "-m"))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
