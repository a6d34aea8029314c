"""The Go modules that the library inside neonize's wheel is built from."""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

# What `go build` writes into every program and library: one line for each module.
# Source: Go's runtime/debug.BuildInfo, "dep" lines.
_MODULE = re.compile(rb"\ndep\t([^\t\n]{3,200})\t(v[^\t\n]{3,100})\t(h1:[A-Za-z0-9+/=]{44})(?=\n)")
_LIBRARIES = ("*.so", "*.dylib", "*.dll")


class NoGoModules(RuntimeError):
    """neonize is not installed, or its library does not say what it is built from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoModule:
    """One module. checksum: `h1:` of go.sum."""

    name: str
    version: str
    checksum: str


def modules_in(library: Path) -> tuple[GoModule, ...]:
    """Return what a library was built from, by name; nothing when Go did not build it."""
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        found = {tuple(part.decode() for part in match) for match in _MODULE.findall(text)}
    return tuple(GoModule(name=a, version=b, checksum=c) for a, b, c in sorted(found))


def neonize_modules() -> tuple[GoModule, ...]:
    """Return what the installed neonize was built from, without loading it.

    Raises:
        NoGoModules: saying what to do.
    """
    spec = find_spec("neonize")
    if spec is None or spec.origin is None:
        raise NoGoModules("neonize is not installed: run `make install`.")
    folder = Path(spec.origin).parent
    libraries = sorted(path for pattern in _LIBRARIES for path in folder.glob(pattern))
    modules = [module for path in libraries for module in modules_in(path)]
    if not modules:
        raise NoGoModules(f"{folder} has no library that names its Go modules.")
    return tuple(modules)
