"""The answers of `npm audit` are told from no answer."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from supply_chain.asking import CouldNotAsk, Ran, UnclearAnswer
from supply_chain.components import Ecosystem
from supply_chain.findings import Finding
from supply_chain.node_holes import NodeDatabase, read_answer

VERSIONS = {"node_modules/ws": "8.0.0", "node_modules/a/node_modules/ws": "7.0.0"}
ADVISORY = {
    "source": 1106913,
    "name": "ws",
    "dependency": "ws",
    "title": "Falls over",
    "url": "https://github.com/advisories/GHSA-1",
    "severity": "high",
    "cwe": [],
    "cvss": {"score": 7.5, "vectorString": None},
    "range": "<9",
}
REPORT: dict[str, Any] = {
    "auditReportVersion": 2,
    "vulnerabilities": {
        "ws": {
            "name": "ws",
            "severity": "high",
            "via": [ADVISORY],
            "effects": ["baileys"],
            "range": "<9",
            "nodes": list(VERSIONS),
            "fixAvailable": {"name": "baileys", "version": "8.0.0", "isSemVerMajor": True},
        },
        "baileys": {
            "name": "baileys",
            "severity": "high",
            "via": ["ws"],
            "effects": [],
            "range": "*",
            "nodes": ["node_modules/baileys"],
            "fixAvailable": False,
        },
    },
    "metadata": {"dependencies": {"prod": 3, "total": 3}},
}


def ran(said: object, returncode: int = 1) -> Ran:
    text = said if isinstance(said, str) else json.dumps(said)
    return Ran(returncode=returncode, stdout=text, stderr="npm error audit endpoint")


def test_each_place_of_a_package_with_a_hole_is_told_and_no_other() -> None:
    answer = read_answer(ran(REPORT), VERSIONS)

    assert answer.asked == 3
    assert answer.findings == tuple(
        Finding(
            ecosystem=Ecosystem.NPM,
            package="ws",
            version=version,
            names=frozenset({"GHSA-1"}),
            summary="Falls over",
            remedy="<9; `npm audit fix` helps",
        )
        for version in ("8.0.0", "7.0.0")
    )


def test_an_advisory_without_an_address_has_the_number_of_the_registry() -> None:
    hole = {**REPORT["vulnerabilities"]["ws"], "via": [{**ADVISORY, "url": ""}]}
    answer = read_answer(ran({**REPORT, "vulnerabilities": {"ws": hole}}), VERSIONS)

    assert answer.findings[0].names == {"npm-1106913"}


def test_no_hole_is_no_finding() -> None:
    assert read_answer(ran({**REPORT, "vulnerabilities": {}}, 0), VERSIONS).findings == ()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            {
                "message": "405 Method Not Allowed - POST https://mirror/-/npm/v1/…",
                "statusCode": 405,
                "error": {"summary": "", "detail": ""},
            },
            "HTTP 405",
        ),
        (
            {
                "message": "request to http://127.0.0.1:9/ failed, reason: connect ECONNREFUSED",
                "error": {"summary": "", "detail": ""},
            },
            "could not be reached",
        ),
        (
            {"message": "network timeout at: http://mirror/", "error": {}},
            "could not be reached",
        ),
    ],
)
def test_nobody_answered(said: object, words: str) -> None:
    with pytest.raises(CouldNotAsk, match=words):
        read_answer(ran(said), VERSIONS)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("", "npm error audit endpoint"),
        ("<html>", "gave no answer"),
        ("[]", "gave no report"),
        ({}, "gave no report"),
        ({**REPORT, "auditReportVersion": 3}, "gave no report"),
        ({**REPORT, "vulnerabilities": None}, "gave no report"),
        ({**REPORT, "metadata": {}}, "gave no report"),
        (
            {
                "message": "invalid json response body at http://mirror/ reason: Unexpected token",
                "error": {"summary": "", "detail": ""},
            },
            "invalid json response body",
        ),
        (
            {"error": {"code": "ENOLOCK", "summary": "This command requires a lockfile"}},
            "requires a lockfile",
        ),
        (
            {**REPORT, "vulnerabilities": {"baileys": REPORT["vulnerabilities"]["baileys"]}},
            "no advisory",
        ),
    ],
)
def test_an_answer_that_cannot_be_relied_on_is_none(said: object, words: str) -> None:
    with pytest.raises(UnclearAnswer) as caught:
        read_answer(ran(said), VERSIONS)
    assert words in str(caught.value)


@dataclass(frozen=True, kw_only=True)
class CannedDatabase(NodeDatabase):
    """Gives one answer to everything."""

    said: Ran

    def _run(self, folder: Path, seconds: float) -> Ran:
        return self.said


def test_an_answer_about_another_number_of_packages_is_none(tmp_path: Path) -> None:
    lock = tmp_path / "package-lock.json"
    entry = {"version": "1.0.0", "integrity": "sha512-x"}
    packages = {"": {}, **{f"node_modules/{name}": entry for name in ("a", "b", "c")}}
    lock.write_text(json.dumps({"packages": packages}))
    none: dict[str, Any] = {**REPORT, "vulnerabilities": {}}

    assert CannedDatabase(locks=(lock,), said=ran(none, 0)).ask() == ()
    two = {**none, "metadata": {"dependencies": {"total": 2}}}
    with pytest.raises(UnclearAnswer, match="npm looked at 2 packages"):
        CannedDatabase(locks=(lock,), said=ran(two, 0)).ask()
    with pytest.raises(UnclearAnswer, match="try again"):
        CannedDatabase(locks=(lock,), said=ran({"message": "request to x", "error": {}})).ask()
