"""A real S3 server on a loopback port: moto's, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import TracebackType

from botocore.session import Session

# It ends with the pipe to its parent, however that ends.
_PROGRAM = """
import logging, os, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
os._exit(0)
"""
_SETTINGS_OF_OTHERS = ("AWS_", "MOTO_")


class ObjectStorage:
    """The server. Its content ends with it."""

    access_key_id = "a-key"
    secret_access_key = "a-secret"

    def __init__(self) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(_SETTINGS_OF_OTHERS)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        assert port.isdigit(), "the S3 server did not start"
        self.url = f"http://127.0.0.1:{port}"
        self.client = Session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.url,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
        )

    def make_bucket(self, name: str) -> str:
        """Make an empty bucket."""
        self.client.create_bucket(Bucket=name)
        return name

    def keys(self, bucket: str) -> list[str]:
        """Return the names of all objects."""
        answer = self.client.list_objects_v2(Bucket=bucket)
        return [entry["Key"] for entry in answer.get("Contents", ())]

    def freeze(self) -> None:
        """Let it hang: connections are accepted, nothing is answered."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> ObjectStorage:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.client.close()
        self.thaw()
        self._process.communicate(timeout=20)
