"""neonize's shared library: found before the import, and never downloaded."""

import importlib.machinery
import importlib.util
import platform
import re
import sys
import types
from pathlib import Path
from typing import NoReturn

_ARCHITECTURES = {"aarch64": "arm64", "x86_64": "amd64"}
_SUFFIXES = {"darwin": "dylib", "windows": "dll"}


class NeonizeUnusable(Exception):
    """neonize cannot be used on this machine."""


def check_library() -> Path:
    """Return the path of the shared library that neonize will load.

    Raises:
        NeonizeUnusable: neonize is not installed, or its wheel has no library for this platform.
    """
    package = _package_folder()
    system = platform.system().lower()
    machine = platform.machine().lower()
    suffix = _SUFFIXES.get(system, "so")
    path = package / f"neonize-{system}-{_ARCHITECTURES.get(machine, machine)}.{suffix}"
    if not path.is_file():
        raise NeonizeUnusable(
            f"The installed neonize has no library for {system}/{machine}: {path} is missing. "
            "Install the neonize wheel made for this platform."
        )
    return path


def forbid_download() -> None:
    """Make neonize fail where it would fetch its library from the network.

    neonize imports `neonize.download` before anything else and calls `download()` when the
    library is missing or of another version; a module of that name, put there first, wins.
    """
    source = (_package_folder() / "download.py").read_text(encoding="utf-8")
    version = re.search(r'__GONEONIZE_VERSION__\s*=\s*"([^"]+)"', source)
    if version is None:
        raise NeonizeUnusable("This release of neonize is not known: download.py has no version.")
    name = "neonize.download"
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(module).update(__GONEONIZE_VERSION__=version.group(1), download=_refuse)
    sys.modules[name] = module


def _refuse() -> NoReturn:
    raise NeonizeUnusable(
        "neonize's library does not belong to the installed neonize; reinstall the wheel."
    )


def _package_folder() -> Path:
    spec = importlib.util.find_spec("neonize")
    if spec is None or spec.origin is None:
        raise NeonizeUnusable("neonize is not installed in this Python environment.")
    return Path(spec.origin).parent
