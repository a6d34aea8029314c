"""The gateway of a stack: a small Node program in front of PostgREST."""

from __future__ import annotations

import json
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from local_stack.keys import StackKeys, write_private
from local_stack.processes import Component, spawn, wait_until
from node_runtime import find_node

PROGRAM = Path(__file__).with_name("gateway.mjs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """Serves /rest/v1 on a loopback port to who has an API key."""

    config_path: Path
    log_path: Path
    port: int
    upstream_port: int
    keys: StackKeys

    @property
    def component(self) -> Component:
        return Component(name="gateway", marker=str(self.config_path), log_path=self.log_path)

    def start(self) -> subprocess.Popen[bytes]:
        """Start the gateway; `wait_ready` tells when it listens."""
        keys = self.keys
        config = {
            "port": self.port,
            "upstream_port": self.upstream_port,
            "keys": {
                keys.anon_key: keys.anon_key,
                keys.publishable_key: keys.anon_key,
                keys.service_key: keys.service_key,
                keys.secret_key: keys.service_key,
            },
        }
        write_private(self.config_path, json.dumps(config, indent=2))
        command = [str(find_node()), str(PROGRAM), str(self.config_path)]
        return spawn(self.component, command, environment={})

    def wait_ready(self, child: subprocess.Popen[bytes]) -> None:
        """Wait until connections are accepted."""
        wait_until(self._listens, self.component, child)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except OSError:
            return False
        return True
