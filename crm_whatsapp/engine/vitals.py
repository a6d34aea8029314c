"""What an engine process uses: memory, descriptors, threads. Read from /proc."""

import os
import threading
from dataclasses import dataclass
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc/self")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """The state of this process now."""

    rss_bytes: int
    open_descriptors: int
    python_threads: int


def read_vitals() -> Vitals:
    """Return the cheap figures."""
    return Vitals(
        rss_bytes=int((_PROC / "statm").read_text().split()[1]) * _PAGE_BYTES,
        open_descriptors=len(os.listdir(_PROC / "fd")),
        python_threads=threading.active_count(),
    )


def read_pss_bytes() -> int | None:
    """Return the proportional set size; walks all pages, so ask seldom."""
    try:
        lines = (_PROC / "smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return None
