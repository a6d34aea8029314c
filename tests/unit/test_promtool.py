"""promtool is found, or taken from a package; when it cannot be had, one line says what to do."""

import os
import shutil
from pathlib import Path

import pytest

import promtool
from promtool import NoPromtool, find_promtool

PROGRAM = "#!/bin/sh\necho promtool, version 2.42.0\n"
APT = """#!/bin/sh
# Knows of no package before `update`.
case "$*" in
*update*) touch "{state}/updated" ;;
*download*)
  if [ -e "{state}/updated" ]; then touch prometheus_2.42.0_amd64.deb
  else echo "E: Unable to locate package prometheus" >&2; exit 100; fi ;;
esac
"""
DPKG = '#!/bin/sh\ncd "{state}/package" && tar -cf - ./usr/bin/promtool ./usr/bin/prometheus\n'


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a PATH of its own: sh, tar and what a test puts there."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "tar", "touch"):
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(promtool, "CACHED", tmp_path / "cache" / "promtool")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


def install(machine: Path, name: str, text: str) -> None:
    path = machine / "bin" / name
    path.write_text(text.replace("{state}", str(machine)))
    path.chmod(0o755)


def with_apt(machine: Path, *, program: str = PROGRAM) -> None:
    """Give the machine an apt, and a mirror that has the package."""
    install(machine, "apt-get", APT)
    install(machine, "dpkg-deb", DPKG)
    package = machine / "package" / "usr" / "bin"
    package.mkdir(parents=True)
    (package / "promtool").write_text(program)
    (package / "prometheus").write_text("48 MB that nobody needs")


def test_the_one_on_the_path_is_taken(machine: Path) -> None:
    install(machine, "promtool", PROGRAM)

    assert find_promtool() == machine / "bin" / "promtool"


def test_it_is_taken_from_the_package_whose_lists_are_fetched_first(machine: Path) -> None:
    with_apt(machine)

    found = find_promtool()

    assert found == machine / "cache" / "promtool"
    assert found.read_text() == PROGRAM
    assert [path.name for path in found.parent.iterdir()] == ["promtool"]


def test_it_is_kept(machine: Path) -> None:
    with_apt(machine)
    find_promtool()
    (machine / "bin" / "apt-get").unlink()

    assert find_promtool() == machine / "cache" / "promtool"


def test_one_that_was_cut_short_is_fetched_again(machine: Path) -> None:
    with_apt(machine)
    cached = machine / "cache" / "promtool"
    cached.parent.mkdir()
    cached.write_text("#!/bin/sh\nexit 1\n")
    cached.chmod(0o755)

    assert find_promtool().read_text() == PROGRAM


def test_without_apt_it_says_what_to_do(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NoPromtool, match="no apt") as refused:
        find_promtool()

    assert not refused.value.can_be_had
    assert promtool.main(["check", "rules"]) == 1
    assert "put promtool on PATH" in capsys.readouterr().err


def test_nobody_but_root_fetches_the_lists(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_apt(machine)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(NoPromtool, match="Unable to locate package") as refused:
        find_promtool()

    assert refused.value.can_be_had
    assert not (machine / "updated").exists()


def test_a_package_of_another_machine_is_refused(machine: Path) -> None:
    with_apt(machine, program="#!/no/such/loader\n")

    with pytest.raises(NoPromtool, match="does not run here"):
        find_promtool()

    assert not (machine / "cache" / "promtool").exists()
