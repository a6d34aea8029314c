"""The environment of an engine process: what it needs, and never a key."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

ALLOWED = frozenset(
    {
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "TZ",
        "TMPDIR",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "HTTPS_PROXY",
        "https_proxy",
        "HTTP_PROXY",
        "http_proxy",
        "NO_PROXY",
        "no_proxy",
        "PYTHONPATH",
        "LD_LIBRARY_PATH",
        "VIRTUAL_ENV",
        "GODEBUG",
        "GOGC",
        "GOMEMLIMIT",
        "GOTRACEBACK",
        "MALLOC_ARENA_MAX",
    }
)
"""Everything else stays behind: SUPABASE_*, WHATSAPP_API_KEY, SNAPSHOT_ENCRYPTION_KEYS, …"""


def engine_environment(
    source: Mapping[str, str], *, package_root: Path, extra: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment for an engine.

    Args:
        source: the environment of the service.
        package_root: the folder that holds the crm_whatsapp package; goes last on the path, so
            that a neonize put first on PYTHONPATH stays first.
    """
    environment = {name: value for name, value in source.items() if name in ALLOWED}
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    environment["PYTHONPATH"] = os.pathsep.join([*paths, str(package_root)])
    environment["PYTHONUNBUFFERED"] = "1"
    return {**environment, **extra}


def engine_command(descriptor: int) -> list[str]:
    """Return the command line; `-P` keeps the working folder off the module path."""
    return [sys.executable, "-P", "-m", "crm_whatsapp.engine", str(descriptor), str(os.getpid())]
