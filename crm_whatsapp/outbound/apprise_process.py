"""The process that sends one message through apprise, and ends.

Run as `python -P -m crm_whatsapp.outbound.apprise_process`. One line of JSON on standard input says
what to send; one on standard output says what came of it. It ends when standard input closes, and
when the channel takes longer than the order allows.
"""

import json
import logging
import os
import re
import signal
import sys
import threading
from typing import Any, NoReturn
from urllib.parse import unquote

_MOST_DETAIL = 300


class _Heard(logging.Handler):
    """Keeps what apprise says of a failure; nothing of it goes to a log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def without_secrets(text: str, url: str) -> str:
    """Return the text without any piece of the URL: host, user, password, path, parameters."""
    schema, _, rest = url.partition("://")
    pieces = {rest, unquote(rest)}
    for whole in (rest, unquote(rest)):
        pieces |= set(re.split(r"[^\w.~%+-]+", whole))
        pieces |= set(re.split(r"[/?&=@:,;#]+", whole))
    for piece in sorted(pieces, key=len, reverse=True):
        if len(piece) > 2 and piece.lower() != schema.lower():
            text = text.replace(piece, "***")
    return " ".join(text.split())[:_MOST_DETAIL]


def send(order: dict[str, Any]) -> dict[str, Any]:
    """Send once; return {sent, detail}.

    Args:
        order: {url, message: {title, body, type}}; type is one of apprise's: success, warning,
            failure. Without a message the URL is looked at and nothing is sent.
    """
    import apprise  # the plugins take 20 MB and most of this process's time

    heard = _Heard()
    apprise.logger.handlers[:] = [heard]
    apprise.logger.propagate = False
    url = str(order["url"])
    asset = apprise.AppriseAsset(
        app_id="crm_whatsapp",
        app_desc="crm_whatsapp",
        async_mode=False,
        secure_logging=True,
        storage_mode=apprise.PersistentStoreMode.MEMORY,
        pgp_autogen=False,
        pem_autogen=False,
    )
    channel = apprise.Apprise(asset=asset)
    try:
        if not channel.add(url):
            return {"sent": False, "detail": "apprise does not know this URL"}
        message = order["message"]
        if message is None:
            return {"sent": True, "detail": ""}
        _limit(float(order["timeout_seconds"]))
        sent = channel.notify(
            title=message["title"],
            body=message["body"],
            notify_type=message["type"],
            body_format=apprise.NotifyFormat.TEXT,
        )
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything
        return {"sent": False, "detail": without_secrets(f"{type(error).__name__}: {error}", url)}
    reason = " ".join(heard.lines) or "the channel refused, without a reason"
    return {"sent": bool(sent), "detail": "" if sent else without_secrets(reason, url)}


def main() -> None:
    """Read the order, carry it out, answer."""
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _answer(send(order))


def _limit(seconds: float) -> None:
    """Answer for the channel when it has not done so by then."""
    late = {"sent": False, "detail": f"no answer within {seconds:g} s"}
    signal.signal(signal.SIGALRM, lambda *_: _answer(late))
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _answer(answer: dict[str, Any]) -> NoReturn:
    os.write(sys.stdout.fileno(), json.dumps(answer).encode() + b"\n")
    os._exit(0)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
