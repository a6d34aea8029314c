"""pip-audit's answers are told from no answer."""

import json
from typing import Any

import pytest

from supply_chain.asking import CouldNotAsk, Ran, UnclearAnswer, demand_all
from supply_chain.components import Component, Ecosystem
from supply_chain.findings import Finding
from supply_chain.python_holes import read_answer

HOLE = {
    "id": "PYSEC-2026-1",
    "aliases": ["CVE-2026-1"],
    "fix_versions": ["9.1", "10"],
    "description": "Tells\n strangers everything.",
}


def ran(dependencies: Any, returncode: int = 0, stderr: str = "") -> Ran:
    answer = json.dumps({"dependencies": dependencies, "fixes": []})
    return Ran(returncode=returncode, stdout=answer, stderr=stderr)


def traceback(*last: str) -> Ran:
    return Ran(returncode=1, stdout="", stderr="\n".join(["Traceback (most …):", "  …", *last]))


def test_what_is_found_is_told_with_every_name() -> None:
    answer = read_answer(
        ran(
            [
                {"name": "Some.Thing", "version": "1", "vulns": [HOLE]},
                {"name": "flask", "version": "3.1", "vulns": []},
            ],
            returncode=1,
        )
    )

    assert answer.asked == {("some-thing", "1"), ("flask", "3.1")}
    assert answer.findings == (
        Finding(
            ecosystem=Ecosystem.PYPI,
            package="some-thing",
            version="1",
            names=frozenset({"PYSEC-2026-1", "CVE-2026-1"}),
            summary="Tells strangers everything.",
            remedy="fixed in 9.1, 10",
        ),
    )


@pytest.mark.parametrize(
    "said",
    [
        traceback("requests.exceptions.ConnectionError: HTTPSConnectionPool(host='api.osv.dev'"),
        traceback("requests.exceptions.ReadTimeout: HTTPSConnectionPool(host='api.osv.dev'"),
        traceback("requests.exceptions.SSLError: certificate verify failed"),
        traceback("requests.exceptions.ProxyError: Cannot connect to proxy"),
        traceback("ERROR:pip_audit._cli:Could not connect to OSV's vulnerability feed"),
        traceback(
            "requests.exceptions.HTTPError: 503 Server Error: Unavailable for url: https://x/",
            "The above exception was the direct cause of the following exception:",
            "pip_audit._service.interface.ServiceError",
        ),
    ],
    ids=lambda said: said.stderr.splitlines()[2].partition(":")[0],
)
def test_nobody_answered(said: Ran) -> None:
    with pytest.raises(CouldNotAsk):
        read_answer(said)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (traceback("requests.exceptions.JSONDecodeError: Expecting value"), "JSONDecodeError"),
        (traceback("KeyError: 'vulns'"), "KeyError"),
        (traceback("ERROR:pip_audit._cli:invalid requirements input"), "invalid requirements"),
        (Ran(returncode=0, stdout="", stderr=""), "nothing was printed"),
        (Ran(returncode=0, stdout="{}", stderr=""), "gave no answer"),
        (Ran(returncode=0, stdout='{"dependencies": 3}', stderr=""), "gave no answer"),
        (
            ran([{"name": "gone", "skip_reason": "not found on PyPI"}]),
            "left out gone: not found on PyPI",
        ),
        (ran([{"name": "flask", "version": "3.1"}]), "left out flask"),
        (ran([{"name": "flask", "version": "3.1", "vulns": []}], 2, "killed"), "ended with 2"),
        (ran([{"name": "x", "version": "1", "vulns": [HOLE]}], 0), "ended with 0 and 1 findings"),
        (ran([{"name": "x", "version": "1", "vulns": [{"id": 3}]}], 1), "gave no answer"),
    ],
)
def test_an_answer_that_cannot_be_relied_on_is_none(said: Ran, words: str) -> None:
    with pytest.raises(UnclearAnswer) as caught:
        read_answer(said)
    assert words in str(caught.value)


def test_a_package_that_was_left_out_is_named() -> None:
    locked = [
        Component(ecosystem=Ecosystem.PYPI, name=name, version="1") for name in ("flask", "segno")
    ]

    demand_all(locked, {("flask", "1"), ("segno", "1"), ("more", "2")})
    with pytest.raises(UnclearAnswer, match="about 1 packages: segno 1"):
        demand_all(locked, {("flask", "1"), ("segno", "2")})
