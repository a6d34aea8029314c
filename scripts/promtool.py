"""Finds promtool, or gets it: `python scripts/promtool.py check rules FILE` runs it.

It is taken from PATH, or else from Debian's package `prometheus`, as the machine's apt knows it:
the package is downloaded and opened, not installed, so nobody has to be root for it. Only the
program is kept, in .cache/, which git ignores.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CACHED = REPOSITORY / ".cache" / "promtool" / "promtool"
_PACKAGE = "prometheus"
_MEMBER = "./usr/bin/promtool"
_SECONDS = 300.0


class NoPromtool(RuntimeError):
    """There is none, and none can be had; the message says what to do.

    can_be_had: this machine has apt, so it should have worked.
    """

    def __init__(self, message: str, *, can_be_had: bool) -> None:
        super().__init__(message)
        self.can_be_had = can_be_had


def find_promtool() -> Path:
    """Return the program; get it when it is not there. Takes some seconds the first time.

    Raises:
        NoPromtool: saying why, and what to do.
    """
    found = shutil.which("promtool")
    if found is not None:
        return Path(found)
    if not _works(CACHED):
        _fetch(CACHED)
    return CACHED


def _works(program: Path) -> bool:
    if not program.exists():
        return False
    try:
        return _run([str(program), "--version"]).returncode == 0
    except OSError:  # cut short, or of another machine
        return False


def _fetch(target: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise NoPromtool(
            "There is no promtool on PATH, and no apt to get Debian's package `prometheus` with. "
            "Install Prometheus, or put promtool on PATH.",
            can_be_had=False,
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        package = _download(Path(scratch))
        program = Path(scratch) / "promtool"
        _extract(package, program)
        if not _works(program):
            raise NoPromtool(f"promtool of {package.name} does not run here.", can_be_had=True)
        program.replace(target)  # whole or not at all, also when two do this at once


def _download(folder: Path) -> Path:
    """Download the package; fetch the lists of what there is first where that is missing."""
    answer = _apt_download(folder)
    if answer.returncode != 0 and os.geteuid() == 0:
        _run(["apt-get", "update", "-qq"])
        answer = _apt_download(folder)
    packages = sorted(folder.glob(f"{_PACKAGE}_*.deb"))
    if answer.returncode == 0 and packages:
        return packages[-1]
    said = (answer.stderr or answer.stdout).strip().splitlines()
    raise NoPromtool(
        f"Debian's package `{_PACKAGE}` could not be downloaded: "
        f"{said[-1] if said else 'apt-get said nothing'}. Run `apt-get update` as root and try "
        "again, or put promtool on PATH.",
        can_be_had=True,
    )


def _apt_download(folder: Path) -> subprocess.CompletedProcess[str]:
    # As root, apt would download as the user _apt, who may not write here, and warn.
    return _run(["apt-get", "-qq", "-o", "APT::Sandbox::User=", "download", _PACKAGE], folder)


def _extract(package: Path, program: Path) -> None:
    """Write one file of the package: the rest is 100 MB that nobody needs."""
    with program.open("wb") as out:
        archive = subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE
        )
        with archive:
            taken = subprocess.run(
                ["tar", "-x", "-O", _MEMBER], stdin=archive.stdout, stdout=out, check=False
            )
    if taken.returncode != 0:
        raise NoPromtool(f"There is no {_MEMBER} in {package.name}.", can_be_had=True)
    program.chmod(0o755)


def _run(command: Sequence[str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise NoPromtool(
            f"`{command[0]}` did not end within {_SECONDS:g} s. Put promtool on PATH.",
            can_be_had=True,
        ) from exc


def main(arguments: Sequence[str]) -> int:
    """Run promtool with these arguments; without any, print where it is."""
    try:
        program = find_promtool()
    except NoPromtool as problem:
        print(problem, file=sys.stderr)
        return 1
    if not arguments:
        print(program)
        return 0
    return subprocess.run([str(program), *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
