"""How the whole test run is put together, and what its exit code says."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import run_tests
from run_tests import Part, exit_code, usual_workers

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("codes", "whole"),
    [
        ([0, 0], 0),
        ([1, 0], 1),
        ([0, 1], 1),
        ([5, 0], 0),  # nothing chosen there
        ([0, 5], 0),
        ([5, 1], 1),
        ([5, 5], 5),
        ([2], 2),
        ([5, 4], 4),
    ],
)
def test_the_exit_code_is_the_first_that_is_not_0(codes: Sequence[int], whole: int) -> None:
    assert exit_code(codes) == whole


def test_a_part_has_workers_and_a_report_of_its_own() -> None:
    part = Part(name="these", marks="not soak", workers=3)

    command = part.command(["-k", "restore"], Path("reports"))

    assert command[:7] == [sys.executable, "-m", "pytest", "-m", "not soak", "-n", "3"]
    assert "--junitxml=reports/these.xml" in command
    assert command[-2:] == ["-k", "restore"]
    assert not [item for item in part.command([], None) if item.startswith("--junitxml")]


def test_the_part_that_runs_alone_has_no_workers() -> None:
    command = Part(name="alone", marks="alone", workers=0).command([], None)

    assert command[command.index("-n") + 1] == "0"
    assert "--dist" not in command


def test_there_are_more_workers_than_cores_and_at_least_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for cores, workers in ((1, 2), (2, 3), (8, 12)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert usual_workers() == workers


@pytest.mark.parametrize("argument", ["-m", "-mnot soak", "-n4", "--dist=load", "--junitxml=x"])
def test_what_this_program_sets_is_refused(
    argument: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["run_tests.py", argument])

    with pytest.raises(SystemExit) as ended:
        run_tests.main()

    assert ended.value.code == 2
    assert "is set by this program; call pytest itself" in capsys.readouterr().err


def test_every_mark_of_the_parts_is_known_to_pytest() -> None:
    source = (REPOSITORY / "scripts" / "run_tests.py").read_text()
    known = (REPOSITORY / "pyproject.toml").read_text()
    for marks in re.findall(r'marks="([^"]+)"', source):
        for mark in set(marks.split()) - {"and", "not"}:
            assert f'"{mark}: ' in known
