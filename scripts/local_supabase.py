"""Run Supabase's data plane on this machine: Postgres, PostgREST and a gateway, no Docker.

    python scripts/local_supabase.py start [--foreground]
    eval "$(python scripts/local_supabase.py env)"
    python scripts/local_supabase.py stop

From Python: `LocalSupabase.start(folder)` gives a stack that ends with the calling process.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from pathlib import Path

from local_stack.processes import StackError
from local_stack.stack import DEFAULT_FOLDER, LocalSupabase

__all__ = ["LocalSupabase", "StackError"]

PARENT_CHECK_SECONDS = 0.5
END_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
EXIT_NOT_RUNNING = 3


def main() -> int:
    """Run one command; return the exit code."""
    arguments = _parser().parse_args()
    try:
        return int(arguments.command(arguments))
    except StackError as error:
        print(f"local_supabase: {error}", file=sys.stderr)
        return 1


def _start(arguments: argparse.Namespace) -> int:
    if arguments.foreground:
        return _run_in_foreground(arguments.dir)
    began = time.monotonic()
    stack = LocalSupabase.start(arguments.dir, owned=False)
    _announce(stack, time.monotonic() - began)
    return 0


def _run_in_foreground(folder: Path) -> int:
    """Serve until a signal asks to end, or the parent process is gone."""
    parent = os.getppid()
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    began = time.monotonic()
    try:
        with LocalSupabase.start(folder) as stack:
            _announce(stack, time.monotonic() - began)
            signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
            while os.getppid() == parent:
                if signal.sigtimedwait(END_SIGNALS, PARENT_CHECK_SECONDS):
                    break
    except KeyboardInterrupt:
        return 130
    return 0


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _announce(stack: LocalSupabase, seconds: float) -> None:
    print(f"ready after {seconds:.1f} s: {stack.url} (data in {stack.folder})", flush=True)


def _stop(arguments: argparse.Namespace) -> int:
    stack = LocalSupabase.find(arguments.dir)
    ended = stack is not None and stack.stop()
    print("stopped" if ended else "was not running")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    stack = LocalSupabase.find(arguments.dir)
    if stack is None:
        print(f"never started in {arguments.dir}")
        return EXIT_NOT_RUNNING
    running = stack.running()
    for name, process_id in running.items():
        print(f"{name:10} {f'pid {process_id}' if process_id else 'not running'}")
    print(f"{'url':10} {stack.url}")
    return 0 if all(running.values()) else EXIT_NOT_RUNNING


def _reset(arguments: argparse.Namespace) -> int:
    stack = LocalSupabase.find(arguments.dir)
    if stack is None:
        print(f"never started in {arguments.dir}")
        return 0
    was_running = any(stack.running().values())
    stack.reset()
    print("data deleted")
    return _start(arguments) if was_running else 0


def _env(arguments: argparse.Namespace) -> int:
    stack = LocalSupabase.find(arguments.dir)
    if stack is None:
        raise StackError("Nothing to print yet. Run first: local_supabase.py start")
    for name, value in stack.environment.items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def _guard(arguments: argparse.Namespace) -> int:
    """End the stack once standard input closes, which the owner's death does."""
    sys.stdin.buffer.read()
    stack = LocalSupabase.find(arguments.dir)
    if stack is not None:
        stack.stop()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="local_supabase.py", description=__doc__.split("\n")[0])
    parser.set_defaults(foreground=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command, text in (
        ("start", _start, "start it, or what is missing of it; returns when it serves"),
        ("stop", _stop, "end all its processes; data stays"),
        ("status", _status, "what runs and where; exit code 3 when not all of it runs"),
        ("reset", _reset, "delete all data, and start again when it was running"),
        ("env", _env, "print the settings as shell exports"),
        ("guard", _guard, argparse.SUPPRESS),
    ):
        sub = commands.add_parser(name, help=text)
        sub.add_argument("--dir", type=Path, default=DEFAULT_FOLDER, help="its directory")
        sub.set_defaults(command=command)
        if name == "start":
            sub.add_argument(
                "--foreground", action="store_true", help="run until Ctrl+C or the parent's end"
            )
        if name == "guard":
            sub.add_argument("marker")
            sub.add_argument("owner", type=int)
    return parser


if __name__ == "__main__":
    sys.exit(main())
