"""The service against the real WhatsApp, on this machine: `make run`.

Takes its settings from the environment and from .env beside the Makefile. Without SUPABASE_URL it
starts a local Supabase of its own, and snapshots go there under a key of that Supabase's folder;
without SESSIONS_DIR sessions are kept in var/sessions.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import urllib.error
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from dotenv import dotenv_values

from crm_whatsapp.domain.errors import CrmWhatsappError
from foreground import AskedToEnd, GuardedProcess, ended_by_signals, free_port, wait_while
from local_supabase import LocalSupabase, StackError
from node_runtime import NodeRuntimeError
from service_process import DIRECT, REPOSITORY, wait_for

FOLDER = REPOSITORY / "var"
USUAL_PORT = 8000
START_SECONDS = 60.0


class RunFailed(RuntimeError):
    """The service has ended by itself."""


def main() -> int:
    """Run the service until a signal ends it; return the exit code."""
    parser = argparse.ArgumentParser(prog="run.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="where supabase/ and sessions/ are kept"
    )
    folder = parser.parse_args().folder.resolve()
    try:
        with ended_by_signals(), ExitStack() as ends:
            run(ends, folder, os.getppid())
    except AskedToEnd:
        return 0
    except (RunFailed, NodeRuntimeError, StackError) as error:
        print(f"run: {error}", file=sys.stderr)
    except CrmWhatsappError as error:
        print(f"run: {error.message}", file=sys.stderr)
    return 1


def run(ends: ExitStack, folder: Path, parent: int) -> None:
    """Start the service and watch over it; `ends` ends what was started, the service first.

    Raises:
        RunFailed: the service has ended.
        AskedToEnd: a signal came, or the parent has ended.
    """
    environment = settings(os.environ, REPOSITORY / ".env")
    environment.setdefault("SESSIONS_DIR", str(folder / "sessions"))
    environment.setdefault("PORT", str(free_port(USUAL_PORT)))
    if "SUPABASE_URL" not in environment:
        say(f"SUPABASE_URL is not set: starting Supabase here, data in {folder / 'supabase'} ...")
        stack = LocalSupabase.start(folder / "supabase")
        ends.callback(stack.stop)
        environment["SUPABASE_URL"] = stack.url
        environment["SUPABASE_SERVICE_ROLE_KEY"] = stack.service_key
        environment.setdefault("SNAPSHOT_ENCRYPTION_KEYS", stack.snapshot_encryption_keys)
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "app:app"],
        cwd=REPOSITORY,
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    ends.callback(GuardedProcess(process).end)
    announce(process, environment)
    wait_while(lambda: process.poll() is None, parent)
    raise RunFailed(f"the service has ended with {process.returncode}; its last lines are above")


def settings(environment: Mapping[str, str], env_file: Path) -> dict[str, str]:
    """Return what is set, in the environment or else in the file. Empty values count as unset."""
    from_file = {name: value for name, value in dotenv_values(env_file).items() if value}
    return {**from_file, **{name: value for name, value in environment.items() if value}}


def announce(process: subprocess.Popen[bytes], environment: Mapping[str, str]) -> None:
    """Say where it listens and where the key is, once it answers."""
    host = environment.get("HOST", "127.0.0.1")
    shown = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104 - compared, not bound
    url = f"http://{shown}:{environment['PORT']}"

    def up() -> bool:
        try:
            with DIRECT.open(f"{url}/readyz", timeout=5) as response:
                return bool(response.status == 200)
        except (OSError, urllib.error.URLError):
            return process.poll() is not None

    if not wait_for(up, START_SECONDS, pause_seconds=0.2) or process.poll() is not None:
        return
    key = "is the one in WHATSAPP_API_KEY"
    if not environment.get("WHATSAPP_API_KEY"):
        key = f"is in {Path(environment['SESSIONS_DIR'], 'api-key')}"
    say(f"\nDashboard: {url}/dashboard\nThe key to sign in with {key}\nEnd: Ctrl+C\n")


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
