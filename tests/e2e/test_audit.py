"""`make audit` with the real pip-audit and npm, against a database of holes on this machine."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hole_database import Manner, hole_database

from supply_chain.components import (
    NODE_LOCKS,
    PYTHON_LOCKS,
    Component,
    merged,
    read_package_lock,
    read_requirements,
)
from supply_chain.go_modules import neonize_modules

REPOSITORY = Path(__file__).resolve().parents[2]
FOUND, NOT_ASKED = 1, 3
TIMEOUT_SECONDS = 240

(CRYPTO,) = (item for item in neonize_modules() if item.name == "golang.org/x/crypto")

Audit = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    """Run scripts/audit.py against this address."""

    def run(url: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "scripts/audit.py", "--osv-url", f"{url}/v1/query"]
        return subprocess.run(
            [*command, "--npm-registry", url, *options],
            cwd=REPOSITORY,
            env={**os.environ, "NO_PROXY": "*", "npm_config_cache": str(tmp_path / "npm")},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )

    return run


def locked_python() -> tuple[Component, ...]:
    return merged([read_requirements(path) for path in PYTHON_LOCKS])


def locked_node() -> tuple[Component, ...]:
    return merged([read_package_lock(path) for path in NODE_LOCKS])


def version_of(name: str, locked: tuple[Component, ...]) -> tuple[str, str]:
    (version,) = (item.version for item in locked if item.name == name)
    return name, version


def test_everything_is_asked_about_and_a_hole_fails_until_it_is_accepted_for_a_while(
    audit: Audit, tmp_path: Path
) -> None:
    until = datetime.now(UTC).date() + timedelta(days=10)
    triage = tmp_path / "triage.toml"
    triage.write_text(
        f"""
        [[accepted]]
        ecosystem = "pypi"
        package = "flask"
        advisory = "CVE-2026-5"
        until = {until}
        reason = "Strangers know everything already."
        [[accepted]]
        ecosystem = "npm"
        package = "ws"
        advisory = "GHSA-ws"
        until = {until}
        reason = "Only the sandbox serves with it."
        [[accepted]]
        ecosystem = "go"
        package = "{CRYPTO.name}"
        advisory = "CVE-2026-19"
        until = {until}
        reason = "No part of its ssh is used."
        """
    )
    with hole_database(Manner.KNOWS) as database:
        database.python_holes.add(version_of("flask", locked_python()))
        database.node_holes.add(version_of("ws", locked_node()))
        database.go_holes.add((CRYPTO.name, CRYPTO.version.removeprefix("v")))
        refused = audit(database.url, "--where-reachable")
        accepted = audit(database.url, "--triage", str(triage))

    here = {(item.name, item.version) for item in locked_python() if item.is_for_this_machine}
    assert here <= database.asked_python
    assert {(item.name, item.version) for item in locked_node()} <= database.asked_node
    built_from = {(item.name, item.version.removeprefix("v")) for item in neonize_modules()}
    assert built_from <= database.asked_go
    assert refused.returncode == FOUND
    assert "pypi flask" in refused.stderr
    assert "CVE-2026-5, PYSEC-2026-5: flask tells strangers everything (fixed in 99.1)" in (
        refused.stderr
    )
    assert f"go {CRYPTO.name} {CRYPTO.version}: CVE-2026-19, PYSEC-2026-19" in refused.stderr
    assert "npm ws" in refused.stderr
    assert "GHSA-ws: ws tells strangers everything" in refused.stderr
    assert (accepted.returncode, accepted.stderr) == (0, "")
    assert f"accepted until {until}: pypi flask" in accepted.stdout
    assert f"accepted until {until}: npm ws" in accepted.stdout
    assert f"accepted until {until}: go {CRYPTO.name}" in accepted.stdout


@pytest.mark.parametrize(
    ("manner", "proof_seconds", "words"),
    [
        (
            Manner.MIRROR,
            60,
            [
                "hole in jinja2==2.4.1",
                "hole in lodash 4.17.0",
                "hole in golang.org/x/crypto v0.1.0",
            ],
        ),
        (Manner.REFUSES, 60, ["answers with HTTP 405"]),
        (Manner.HANGS, 2, ["gave no answer within 2 s"]),
    ],
)
def test_who_answers_without_knowing_of_holes_was_not_asked(
    audit: Audit, manner: Manner, proof_seconds: int, words: list[str]
) -> None:
    with hole_database(manner) as database:
        skipped = audit(database.url, "--where-reachable", "--proof-seconds", str(proof_seconds))
        demanded = audit(database.url, "--proof-seconds", str(proof_seconds))

    assert (skipped.returncode, demanded.returncode) == (0, NOT_ASKED)
    for done in (skipped, demanded):
        assert done.stderr.count("audit skipped for") == 3
        assert "run `make audit` where it can be asked" in done.stderr
        assert all(word in done.stderr for word in words)
        assert "findings" not in done.stdout


def test_nobody_listens(audit: Audit) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    skipped = audit(f"http://127.0.0.1:{port}", "--where-reachable")
    demanded = audit(f"http://127.0.0.1:{port}")

    assert (skipped.returncode, demanded.returncode) == (0, NOT_ASKED)
    for done in (skipped, demanded):
        assert done.stderr.count("could not be reached; run `make audit` where") == 3


def test_an_answer_that_cannot_be_read_fails_everywhere(audit: Audit) -> None:
    with hole_database(Manner.BABBLES) as database:
        done = audit(database.url, "--where-reachable")

    assert done.returncode == FOUND
    assert done.stderr.count("is unclear") == 3
    assert "skipped" not in done.stderr
