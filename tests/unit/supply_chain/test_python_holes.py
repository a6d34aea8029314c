"""pip-audit's answers are told from no answer."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from supply_chain.asking import CouldNotAsk, Ran, UnclearAnswer, demand_all
from supply_chain.components import Component, Ecosystem
from supply_chain.findings import Finding
from supply_chain.python_holes import PythonDatabase, read_answer

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


@dataclass(frozen=True, kw_only=True)
class CannedDatabase(PythonDatabase):
    """Gives one answer to everything."""

    said: Ran

    def _run(self, requirements: Path, options: Sequence[str], seconds: float) -> Ran:
        return self.said


def test_an_answer_about_some_of_a_lock_file_is_none(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.txt"
    lock.write_text(
        "flask==1 --hash=sha256:aa\nsegno==2 --hash=sha256:bb\n"
        "other==3 ; sys_platform == 'never' --hash=sha256:cc\n"
    )
    flask = {"name": "flask", "version": "1", "vulns": []}
    segno = {"name": "segno", "version": "2", "vulns": []}

    assert CannedDatabase(locks=(lock,), said=ran([flask, segno])).ask() == ()
    with pytest.raises(UnclearAnswer, match="segno 2"):
        CannedDatabase(locks=(lock,), said=ran([flask])).ask()


def test_who_is_cut_off_while_answering_has_not_answered(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.txt"
    lock.write_text("flask==1 --hash=sha256:aa\n")
    away = traceback("requests.exceptions.ConnectionError: gone")

    with pytest.raises(UnclearAnswer, match="try again"):
        CannedDatabase(locks=(lock,), said=away).ask()


def test_the_proof_needs_a_hole() -> None:
    jinja = {"name": "jinja2", "version": "2.4.1", "vulns": [HOLE]}

    CannedDatabase(said=ran([jinja], 1)).prove(1)
    with pytest.raises(CouldNotAsk, match="knows of no hole"):
        CannedDatabase(said=ran([{**jinja, "vulns": []}])).prove(1)
