"""The loopback ports of one stack: found once, then kept for as long as they stay free."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from local_stack.keys import write_private
from local_stack.processes import StackError

# Below the range the kernel takes outgoing ports from, so that a port is still free when a
# component comes back to it.
FIRST_PORT, LAST_PORT = 15_000, 32_000
ATTEMPTS = 200
_DICE = random.SystemRandom()  # several test processes choose at once, some with a fixed seed


@dataclass(frozen=True, slots=True, kw_only=True)
class StackPorts:
    """One port for each listener of a stack."""

    gateway: int
    postgres: int
    postgrest: int
    postgrest_admin: int


def read_ports(path: Path) -> StackPorts | None:
    """Return the ports a stack used last."""
    return StackPorts(**json.loads(path.read_text())) if path.exists() else None


def reserve_ports(path: Path) -> StackPorts:
    """Return ports that are free now, the remembered ones where possible, and remember them."""
    remembered = read_ports(path)
    chosen: dict[str, int] = {}
    for field in fields(StackPorts):
        port = getattr(remembered, field.name, None)
        if port is None or port in chosen.values() or not is_free(port):
            port = find_free_port(set(chosen.values()))
        chosen[field.name] = port
    ports = StackPorts(**chosen)
    write_private(path, json.dumps(asdict(ports), indent=2))
    return ports


def is_free(port: int) -> bool:
    """Say whether a server could listen on this loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def find_free_port(taken: Collection[int] = ()) -> int:
    """Return a port that is free now and not one of these.

    Raises:
        StackError: none was found.
    """
    for _ in range(ATTEMPTS):
        port = _DICE.randint(FIRST_PORT, LAST_PORT)
        if port not in taken and is_free(port):
            return port
    raise StackError(f"No free port between {FIRST_PORT} and {LAST_PORT}.")
