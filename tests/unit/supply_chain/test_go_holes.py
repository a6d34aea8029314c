"""OSV's answers about Go modules are told from no answer."""

import json

import pytest

from supply_chain.asking import UnclearAnswer
from supply_chain.components import Ecosystem
from supply_chain.findings import Finding
from supply_chain.go_holes import read_answer
from supply_chain.go_modules import GoModule

MODULE = GoModule(name="golang.org/x/net", version="v0.1.0", checksum="")
HOLE = {
    "id": "GO-2026-1",
    "aliases": ["CVE-2026-1"],
    "summary": "Falls\nover",
    "schema_version": "1.7.0",
    "affected": [
        {
            "package": {"name": "golang.org/x/net", "ecosystem": "Go", "purl": "pkg:golang/x"},
            "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}, {"fixed": "0.7.0"}]}],
        },
        {
            "package": {"name": "stdlib", "ecosystem": "Go"},
            "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}, {"fixed": "1.20"}]}],
        },
    ],
}


def answer(said: object) -> list[Finding]:
    return read_answer(MODULE, json.dumps(said).encode())


def test_a_hole_is_told_with_the_versions_of_its_own_module() -> None:
    assert answer({"vulns": [HOLE]}) == [
        Finding(
            ecosystem=Ecosystem.GO,
            package="golang.org/x/net",
            version="v0.1.0",
            names=frozenset({"GO-2026-1", "CVE-2026-1"}),
            summary="Falls over",
            remedy="fixed in 0.7.0; needs a newer neonize",
        )
    ]


def test_none_and_withdrawn_ones_are_no_finding() -> None:
    assert answer({}) == []
    assert answer({"vulns": [{**HOLE, "withdrawn": "2026-01-01T00:00:00Z"}]}) == []


@pytest.mark.parametrize(
    "said",
    [
        [],
        {"vulns": None},
        {"vulns": [{"aliases": []}]},
        {"code": 3, "message": "Invalid query."},
        {"vulns": [HOLE], "next_page_token": "more"},
    ],
)
def test_an_answer_that_cannot_be_relied_on_is_none(said: object) -> None:
    with pytest.raises(UnclearAnswer):
        answer(said)


def test_a_page_for_people_is_no_answer() -> None:
    with pytest.raises(UnclearAnswer, match=r"golang\.org/x/net"):
        read_answer(MODULE, b"<html>Please sign in.</html>")
