"""The operator's channels: mail, Slack, Telegram and what else apprise speaks.

Each message is sent by a process of its own. Sends take as long as the channel likes, and a thread
cannot be ended; a process can. It also keeps apprise's memory and its log out of the service: that
log prints whole URLs, which hold the channels' secrets.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crm_whatsapp.domain.alerts import AlertMessage, AlertState, SendOutcome, Severity

_START_SECONDS = 15.0
"""For the start of the process and the load of apprise; its own time limit runs after that."""

_SEPARATOR = re.compile(r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")
_SCHEMA = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://\S")
_ENVIRONMENT = frozenset(
    {
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "TZ",
        "TMPDIR",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "HTTPS_PROXY",
        "https_proxy",
        "HTTP_PROXY",
        "http_proxy",
        "NO_PROXY",
        "no_proxy",
        "LD_LIBRARY_PATH",
        "VIRTUAL_ENV",
    }
)
"""Everything else stays behind: the process speaks to others and needs no key of ours."""

_TYPES = {Severity.WARNING: "warning", Severity.CRITICAL: "failure"}


def split_urls(text: str) -> list[str]:
    """Return the URLs of ALERT_URLS, which are separated by commas or white space."""
    return [part for part in _SEPARATOR.split(text.strip(", \t\r\n")) if part]


class AppriseChannels:
    """The AlertSender on apprise. A channel is called by its schema and a number: `slack-1`."""

    def __init__(
        self, urls: str | None, *, timeout_seconds: float, environment: Mapping[str, str]
    ) -> None:
        """Read the URLs; starts nothing, and refuses none: what is wrong is in `problems`.

        Args:
            urls: as in ALERT_URLS.
            timeout_seconds: for one send.
            environment: of the service; what a send needs is taken from it.
        """
        self._timeout_seconds = timeout_seconds
        self._urls: dict[str, str] = {}
        self._problems: list[str] = []
        numbers: Counter[str] = Counter()
        for place, url in enumerate(split_urls(urls or ""), start=1):
            schema = _SCHEMA.match(url)
            if schema is None:
                self._problems.append(f"entry {place} of ALERT_URLS is not a URL of apprise")
                continue
            name = schema.group(1).lower()
            numbers[name] += 1
            self._urls[f"{name}-{numbers[name]}"] = url
        root = Path(__file__).resolve().parents[2]
        self._environment = {
            **{name: value for name, value in environment.items() if name in _ENVIRONMENT},
            "PYTHONPATH": str(root),
        }
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    @property
    def channels(self) -> Sequence[str]:
        """The names of the channels."""
        return tuple(self._urls)

    @property
    def problems(self) -> Sequence[str]:
        """What is wrong with ALERT_URLS."""
        return tuple(self._problems)

    def send(self, channel: str, message: AlertMessage) -> SendOutcome:
        """Send once; see AlertSender."""
        resolved = message.state is AlertState.RESOLVED
        return self._ask(
            channel,
            title=message.title,
            body=message.body,
            type="success" if resolved else _TYPES[message.severity],
        )

    def check(self, channel: str) -> str | None:
        """Have apprise read the URL; see AlertSender."""
        outcome = self._ask(channel)
        return None if outcome.sent else outcome.detail

    def stop(self) -> None:
        """End what is being sent."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            process.kill()

    def _ask(self, channel: str, **message: str) -> SendOutcome:
        begun = time.monotonic()
        order = {
            "url": self._urls[channel],
            "timeout_seconds": self._timeout_seconds,
            "message": message or None,
        }
        try:
            process = self._spawn()
        except OSError as error:
            return _failed(f"the sending process cannot be started: {error.strerror}", begun)
        try:
            answer = self._answer(process, json.dumps(order))
        except subprocess.TimeoutExpired:
            return _failed("the sending process hung", begun)
        except (OSError, ValueError):
            return _failed("the sending process ended without an answer", begun)
        finally:
            self._end(process)
        return SendOutcome(
            sent=bool(answer["sent"]),
            detail=str(answer["detail"]),
            took_seconds=time.monotonic() - begun,
        )

    def _spawn(self) -> "subprocess.Popen[str]":
        with self._lock:
            if self._stopped:
                raise OSError(None, "the service stops")
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "crm_whatsapp.outbound.apprise_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=self._environment,
                cwd=os.sep,
                start_new_session=True,  # a Ctrl+C is for the service, which ends it
            )
            self._running.add(process)
            return process

    def _answer(self, process: "subprocess.Popen[str]", order: str) -> Mapping[str, Any]:
        """Return the answer. The process's input stays open: it ends when that closes."""
        if process.stdin is None or process.stdout is None:
            raise OSError("no pipes")
        process.stdin.write(order + "\n")
        process.stdin.flush()
        process.wait(self._timeout_seconds + _START_SECONDS)
        answer: Mapping[str, Any] = json.loads(process.stdout.readline())
        return answer

    def _end(self, process: "subprocess.Popen[str]") -> None:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue  # what was not written to a process that has ended
        with self._lock:
            self._running.discard(process)


def _failed(detail: str, begun: float) -> SendOutcome:
    return SendOutcome(sent=False, detail=detail, took_seconds=time.monotonic() - begun)
