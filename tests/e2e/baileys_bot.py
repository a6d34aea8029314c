"""A bot on Baileys, as companies have run them: paired on the sandbox, with a session folder."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from node_runtime import find_node
from sandbox import Sandbox
from sandbox.sandbox import NODE_MODULES

_SCRIPT = Path(__file__).with_name("baileys_client.mjs")


@dataclass(slots=True)
class BaileysBot:
    """The running program; ends with the block, or with the test process."""

    sandbox: Sandbox
    folder: Path
    process: subprocess.Popen[str] = field(init=False)
    _said: queue.Queue[dict[str, Any]] = field(init=False, default_factory=queue.Queue)

    def __enter__(self) -> BaileysBot:
        entry = NODE_MODULES / "baileys" / "lib" / "index.js"
        facts = self.sandbox.state_dir / "sandbox.json"
        self.process = subprocess.Popen(
            [str(find_node()), str(_SCRIPT), str(facts), str(entry), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """End the program and wait for it."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)

    def send(self, to: str, text: str) -> None:
        """Send a text and wait until Baileys has written it to the wire."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"to": to, "text": text}) + "\n")
        self.process.stdin.flush()
        self.wait("sent")

    def wait(self, event: str, timeout_seconds: float = 30.0, **wanted: Any) -> dict[str, Any]:
        """Return the next event of this kind; fail without one."""
        passed = []
        try:
            while True:
                said = self._said.get(timeout=timeout_seconds)
                if said["event"] == event and wanted.items() <= said.items():
                    return said
                passed.append(said)
        except queue.Empty:
            pytest.fail(f"Baileys said no {event} within {timeout_seconds} s but {passed}")

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._said.put(json.loads(line))
