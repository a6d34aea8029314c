"""What is accepted, until when, and what makes the triage file itself a fault."""

from datetime import date, timedelta
from pathlib import Path

import pytest

from supply_chain.components import Ecosystem
from supply_chain.findings import (
    LONGEST,
    TRIAGE,
    Acceptance,
    Finding,
    TriageError,
    judge,
    read_triage,
)

TODAY = date(2026, 11, 21)
BOTH = set(Ecosystem)
ENTRY = """
[[accepted]]
ecosystem = "npm"
package = "ws"
advisory = "GHSA-1"
until = 2026-12-24
reason = "Only the sandbox serves with it."
"""


def finding(package: str = "ws", *names: str, ecosystem: Ecosystem = Ecosystem.NPM) -> Finding:
    return Finding(
        ecosystem=ecosystem,
        package=package,
        version="8.0.0",
        names=frozenset(names or ("GHSA-1", "CVE-2026-1")),
        summary="is broken",
        remedy="fixed in 9",
    )


def acceptance(until: date = TODAY, advisory: str = "CVE-2026-1") -> Acceptance:
    return Acceptance(
        ecosystem=Ecosystem.NPM, package="ws", advisory=advisory, until=until, reason="because"
    )


def test_a_finding_that_nobody_accepted_is_open() -> None:
    verdict = judge([finding()], [], BOTH, TODAY)

    assert verdict.open == (finding(),)
    assert not verdict.is_good
    assert str(finding()) == "npm ws 8.0.0: CVE-2026-1, GHSA-1: is broken (fixed in 9)"


def test_none_is_good() -> None:
    assert judge([], [], BOTH, TODAY).is_good


@pytest.mark.parametrize("advisory", ["GHSA-1", "CVE-2026-1"])
def test_it_is_accepted_by_any_of_its_names_up_to_and_on_the_last_day(advisory: str) -> None:
    entry = acceptance(advisory=advisory)
    verdict = judge([finding()], [entry], BOTH, TODAY)

    assert verdict.is_good
    assert verdict.accepted == ((finding(), entry),)


def test_a_day_later_it_is_open_again_and_the_entry_is_a_fault() -> None:
    verdict = judge([finding()], [acceptance()], BOTH, TODAY + timedelta(days=1))

    assert verdict.open == (finding(),)
    assert verdict.faults == (
        "CVE-2026-1 for npm ws: accepted until 2026-11-21, which is over: look again",
    )


def test_an_expired_entry_is_a_fault_also_when_nobody_could_be_asked() -> None:
    assert judge([], [acceptance(TODAY - timedelta(days=1))], set(), TODAY).faults


def test_nothing_is_accepted_for_ever() -> None:
    assert judge([finding()], [acceptance(TODAY + LONGEST)], BOTH, TODAY).is_good
    verdict = judge([finding()], [acceptance(TODAY + LONGEST + timedelta(days=1))], BOTH, TODAY)
    assert verdict.faults == ("CVE-2026-1 for npm ws: 2027-05-21 is more than 180 days away",)


def test_an_entry_that_covers_nothing_is_a_fault_where_that_can_be_known() -> None:
    assert judge([], [acceptance()], BOTH, TODAY).faults == (
        "CVE-2026-1 for npm ws: nothing has this hole any more: remove the entry",
    )
    assert judge([], [acceptance()], {Ecosystem.PYPI}, TODAY).is_good


@pytest.mark.parametrize(
    "other",
    [
        finding("wss"),
        finding("ws", "GHSA-2"),
        finding("ws", ecosystem=Ecosystem.PYPI),
    ],
)
def test_an_entry_covers_nothing_else(other: Finding) -> None:
    assert judge([other], [acceptance()], BOTH, TODAY).open == (other,)


def test_the_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "triage.toml"
    path.write_text(ENTRY)

    assert read_triage(path) == (
        Acceptance(
            ecosystem=Ecosystem.NPM,
            package="ws",
            advisory="GHSA-1",
            until=date(2026, 12, 24),
            reason="Only the sandbox serves with it.",
        ),
    )


def test_the_file_of_the_repository_and_its_example_can_be_read(tmp_path: Path) -> None:
    text = TRIAGE.read_text()
    example = [line.removeprefix("# ") for line in text.splitlines()]
    example = example[example.index("[[accepted]]") :]
    copy = tmp_path / "triage.toml"
    copy.write_text("\n".join(line for line in example[:6]))

    read_triage()
    assert len(read_triage(copy)) == 1


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('reason = "Only the sandbox serves with it."', "", "needs exactly advisory, ecosystem"),
        ('reason = "Only the sandbox serves with it."', 'reason = " "', "reason is a text"),
        ("until = 2026-12-24", 'until = "2026-12-24"', "until is a day without quotes"),
        ("until = 2026-12-24", "until = 2026-12-24T00:00:00Z", "until is a day without quotes"),
        ('"npm"', '"cargo"', "ecosystem is pypi or npm or go, not 'cargo'"),
        ('"npm"', "[1]", "ecosystem is pypi or npm"),
        ('package = "ws"', "package = 3", "package is a text"),
        ('package = "ws"', 'package = "ws"\nseverity = "low"', "needs exactly"),
        ("[[accepted]]", "[[ignored]]", "only [[accepted]] is known, not ignored"),
        ("[[accepted]]", "[accepted]", "only [[accepted]] is known, not accepted"),
        ("[[accepted]]", "[[accepted]", "is not TOML"),
    ],
)
def test_a_file_that_says_something_else_is_refused(
    tmp_path: Path, before: str, after: str, words: str
) -> None:
    path = tmp_path / "triage.toml"
    path.write_text(ENTRY.replace(before, after))

    with pytest.raises(TriageError) as caught:
        read_triage(path)
    assert words in str(caught.value)


def test_no_file_is_no_permission(tmp_path: Path) -> None:
    with pytest.raises(TriageError, match="cannot be read"):
        read_triage(tmp_path / "none.toml")
