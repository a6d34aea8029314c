"""A whole local Supabase: start it, take parts away, bring them back, end it."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import psutil

from crm_whatsapp.stores.migrator import apply_migrations
from local_stack.gateway import Gateway
from local_stack.keys import StackKeys, load_keys, read_keys, sign_token
from local_stack.ports import StackPorts, read_ports, reserve_ports
from local_stack.postgres import PostgresServer
from local_stack.postgrest import PostgrestServer
from local_stack.processes import (
    POLL_SECONDS,
    Component,
    StackError,
    end,
    find_process,
    is_alive,
)

REPOSITORY = Path(__file__).resolve().parents[2]
MIGRATIONS = REPOSITORY / "migrations"
DEFAULT_FOLDER = REPOSITORY / "var" / "supabase"
COMMAND = REPOSITORY / "scripts" / "local_supabase.py"
OWNER_WAIT_SECONDS = 20


class LocalSupabase:
    """Supabase's data plane in one directory: Postgres, PostgREST and the gateway.

    A directory keeps its data, keys and ports between starts. An owned stack ends with the
    process that started it, whatever that process dies of; one that is not owned runs until
    `stop`. Only one process may own a directory at a time.
    """

    def __init__(self, folder: Path, *, keys: StackKeys, ports: StackPorts) -> None:
        self.folder = folder
        self._keys = keys
        self._ports = ports
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._guard: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(
        cls, folder: Path | str, *, owned: bool = True, migrations: Path = MIGRATIONS
    ) -> LocalSupabase:
        """Start what is not running yet, apply outstanding migrations, return when all serves.

        Raises:
            StackError: a component did not start, or another living process owns the directory.
        """
        folder = Path(folder).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        _wait_for_former_owner(folder)
        with _locked(folder):
            stack = cls(
                folder,
                keys=load_keys(folder / "keys.json"),
                ports=cls._choose_ports(folder),
            )
            try:
                if owned:
                    stack._start_guard()
                stack._start_all(migrations)
            except BaseException:
                stack._end_all()
                raise
            return stack

    @classmethod
    def find(cls, folder: Path | str) -> LocalSupabase | None:
        """Return the stack of a directory without touching it; None when it never started."""
        folder = Path(folder).resolve()
        ports = read_ports(folder / "ports.json")
        if ports is None or not (folder / "keys.json").exists():
            return None
        return cls(folder, keys=read_keys(folder / "keys.json"), ports=ports)

    def stop(self) -> bool:
        """End every process of the directory; say whether any was running."""
        with _locked(self.folder):
            return self._end_all()

    def reset(self) -> None:
        """End the stack and delete its data; keys and ports stay."""
        with _locked(self.folder):
            self._end_all()
            shutil.rmtree(self._postgres.folder, ignore_errors=True)

    def running(self) -> dict[str, int | None]:
        """Return the process id of each component, None where it does not run."""
        found = {component.name: find_process(component) for component in self._components()}
        return {name: process.pid if process else None for name, process in found.items()}

    def stop_postgrest(self, *, kill: bool = False) -> None:
        """Take PostgREST away; the gateway then answers 502. With `kill`, as by kill -9."""
        component = self._postgrest.component
        chosen = signal.SIGKILL if kill else signal.SIGTERM
        end(component, self._children.pop(component.name, None), stop_signal=chosen)

    def start_postgrest(self) -> None:
        """Bring PostgREST back on the same port and wait until it serves."""
        self._children["postgrest"] = child = self._postgrest.start()
        self._postgrest.wait_ready(child)

    def freeze_postgrest(self) -> None:
        """Let every request hang until `thaw_postgrest`, as behind a dead network link."""
        self._signal_postgrest(signal.SIGSTOP)

    def thaw_postgrest(self) -> None:
        """Let a frozen PostgREST run again."""
        self._signal_postgrest(signal.SIGCONT)

    def token(self, role: str, **claims: object) -> str:
        """Sign an access token, for instance a user's: token("authenticated", sub=...)."""
        return sign_token(self._keys.jwt_secret, role, claims)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports.gateway}"

    @property
    def db_url(self) -> str:
        return self._postgres.url

    @property
    def anon_key(self) -> str:
        return self._keys.anon_key

    @property
    def service_key(self) -> str:
        return self._keys.service_key

    @property
    def publishable_key(self) -> str:
        return self._keys.publishable_key

    @property
    def secret_key(self) -> str:
        return self._keys.secret_key

    @property
    def jwt_secret(self) -> str:
        return self._keys.jwt_secret

    @property
    def snapshot_encryption_keys(self) -> str:
        """SNAPSHOT_ENCRYPTION_KEYS for a service that uses this stack; survives `reset`."""
        return self._keys.snapshot_encryption_keys

    @property
    def environment(self) -> dict[str, str]:
        """The settings by which programs find this stack."""
        return {
            "SUPABASE_URL": self.url,
            "SUPABASE_SERVICE_ROLE_KEY": self.service_key,
            "SUPABASE_DB_URL": self.db_url,
            "SNAPSHOT_ENCRYPTION_KEYS": self.snapshot_encryption_keys,
            "LOCAL_SUPABASE_ANON_KEY": self.anon_key,
            "LOCAL_SUPABASE_PUBLISHABLE_KEY": self.publishable_key,
            "LOCAL_SUPABASE_SECRET_KEY": self.secret_key,
            "LOCAL_SUPABASE_JWT_SECRET": self.jwt_secret,
        }

    def __enter__(self) -> LocalSupabase:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @classmethod
    def _choose_ports(cls, folder: Path) -> StackPorts:
        """Return the ports in use when all runs; otherwise end the rest and find free ones."""
        existing = cls.find(folder)
        if existing is not None:
            if all(existing.running().values()):
                return existing._ports
            existing._end_all()
        return reserve_ports(folder / "ports.json")

    def _start_all(self, migrations: Path) -> None:
        if all(self.running().values()):
            if apply_migrations(self.db_url, migrations):
                self.stop_postgrest()
                self.start_postgrest()
            return
        self._children["postgres"] = self._postgres.start()
        apply_migrations(self.db_url, migrations)
        self._children["postgrest"] = self._postgrest.start()
        self._children["gateway"] = self._gateway.start()
        self._postgrest.wait_ready(self._children["postgrest"])
        self._gateway.wait_ready(self._children["gateway"])

    def _end_all(self) -> bool:
        """End every component, and the guard after them: it is there should this be cut short."""
        ended = [
            end(component, self._children.pop(component.name, None))
            for component in self._components()
        ]
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None
        return any(ended)

    def _start_guard(self) -> None:
        """Start what ends the stack when the pipe from this process closes."""
        command = [sys.executable, str(COMMAND), "guard", "--dir", str(self.folder)]
        self._guard = subprocess.Popen(
            [*command, _guard_of(self.folder).marker, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _signal_postgrest(self, number: signal.Signals) -> None:
        process = find_process(self._postgrest.component)
        if process is None:
            raise StackError("PostgREST is not running.")
        process.send_signal(number)

    def _components(self) -> list[Component]:
        """In the order they are ended: nobody asks for what is already gone."""
        return [self._gateway.component, self._postgrest.component, self._postgres.component]

    @property
    def _postgres(self) -> PostgresServer:
        return PostgresServer(
            folder=self.folder / "postgres",
            log_path=self.folder / "logs" / "postgres.log",
            port=self._ports.postgres,
            keys=self._keys,
        )

    @property
    def _postgrest(self) -> PostgrestServer:
        return PostgrestServer(
            config_path=self.folder / "postgrest.conf",
            log_path=self.folder / "logs" / "postgrest.log",
            port=self._ports.postgrest,
            admin_port=self._ports.postgrest_admin,
            database_url=self._postgres.authenticator_url,
            jwt_secret=self._keys.jwt_secret,
        )

    @property
    def _gateway(self) -> Gateway:
        return Gateway(
            config_path=self.folder / "gateway.json",
            log_path=self.folder / "logs" / "gateway.log",
            port=self._ports.gateway,
            upstream_port=self._ports.postgrest,
            keys=self._keys,
        )


def _guard_of(folder: Path) -> Component:
    return Component(
        name="guard", marker=str(folder / ".owner"), log_path=folder / "logs" / "guard.log"
    )


def _wait_for_former_owner(folder: Path) -> None:
    """Wait for the guard of an owner that died to finish its work.

    Raises:
        StackError: the owner lives, so the directory is not ours.
    """
    guard = find_process(_guard_of(folder))
    deadline = time.monotonic() + OWNER_WAIT_SECONDS
    while guard is not None and is_alive(guard):
        owner = _living_owner(guard)
        if owner is not None:
            raise StackError(f"{folder} is in use by process {owner}.")
        if time.monotonic() > deadline:
            raise StackError(f"The guard of {folder} (pid {guard.pid}) does not finish.")
        time.sleep(POLL_SECONDS)


def _living_owner(guard: psutil.Process) -> int | None:
    """Return who started a guard, unless that process is gone and the guard was inherited."""
    try:
        owner = int(guard.cmdline()[-1])
        return owner if guard.ppid() == owner else None
    except (psutil.NoSuchProcess, IndexError):
        return None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the directory against other starts and stops."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
