"""Lets a process of its own make an empty store: this one must not load neonize."""

import os
import subprocess
import sys
from pathlib import Path

from crm_whatsapp.domain.errors import EngineError
from crm_whatsapp.engine.engine_environment import engine_environment

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_TIMEOUT_SECONDS = 60.0


def make_empty_store(path: Path, *, timeout_seconds: float = _TIMEOUT_SECONDS) -> None:
    """Make a store without a device, with the tables of the installed neonize.

    Raises:
        EngineError: neonize is not installed or cannot be used here; says why.
    """
    command = [sys.executable, "-P", "-m", "crm_whatsapp.engine.empty_store"]
    environment = engine_environment(os.environ, package_root=_PACKAGE_ROOT, extra={})
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            [*command, str(path), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            cwd="/",
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise EngineError(f"neonize made no store within {timeout_seconds:g} s.") from exc
    except OSError as exc:
        raise EngineError(f"neonize could not be started: {exc}.") from exc
    if done.returncode != 0 or not path.is_file():
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        why = lines[-1] if lines else f"it ended with {done.returncode}"
        raise EngineError(f"neonize could not make a store: {why}")
