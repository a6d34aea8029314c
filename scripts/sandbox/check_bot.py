"""A neonize bot that takes orders on standard input: one JSON object a line.

It answers on standard output, also in JSON lines, each behind a record separator, since neonize
prints there as well. It is the client of check.py, and an example of a bot.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

from neonize.client import NewClient
from neonize.events import (
    ClientOutdatedEv,
    ConnectedEv,
    ConnectFailureEv,
    DisconnectedEv,
    LoggedOutEv,
    MessageEv,
    OfflineSyncCompletedEv,
    PairStatusEv,
    ReceiptEv,
    StreamErrorEv,
    StreamReplacedEv,
    TemporaryBanEv,
    UndecryptableMessageEv,
)
from neonize.utils import build_jid

SEPARATOR = "\x1e"
PLAIN_EVENTS = (
    ClientOutdatedEv,
    ConnectedEv,
    ConnectFailureEv,
    DisconnectedEv,
    LoggedOutEv,
    PairStatusEv,
    StreamErrorEv,
    StreamReplacedEv,
    TemporaryBanEv,
    UndecryptableMessageEv,
)


def say(event: str, **details: object) -> None:
    """Report one event to whoever drives this bot."""
    os.write(1, f"{SEPARATOR}{json.dumps({'event': event, **details})}\n".encode())


class Bot:
    """One neonize client and the orders it understands."""

    def __init__(self, store: str) -> None:
        self.client = NewClient(store, uuid="check")
        self.client.qr(lambda _, code: say("qr", qr=code.decode()))
        for kind in PLAIN_EVENTS:
            name = f"{kind.__name__.removesuffix('Ev')}Ev"
            self.client.event(kind)(lambda _, event, name=name: say(name, detail=str(event)))
        self.client.event(MessageEv)(self._on_message)
        self.client.event(ReceiptEv)(
            lambda _, event: say("ReceiptEv", ids=list(event.MessageIDs), type=event.Type)
        )
        self.client.event(OfflineSyncCompletedEv)(
            lambda _, event: say("OfflineSyncCompletedEv", count=event.Count)
        )

    def connect(self) -> None:
        """Connect and stay connected until the process ends."""
        try:
            self.client.connect()
            say("returned")
        except Exception as error:  # noqa: BLE001 - whatever it is, the driver wants to know
            say("raised", error=str(error))

    def _on_message(self, _: NewClient, event: Any) -> None:
        body = event.Message
        image = body.imageMessage
        say(
            "MessageEv",
            id=event.Info.ID,
            text=body.conversation or body.extendedTextMessage.text or image.caption,
            sender=event.Info.MessageSource.Sender.User,
            own=event.Info.MessageSource.IsFromMe,
            image=len(self.client.download_any(body)) if image.URL else None,
        )

    def obey(self, order: dict[str, Any]) -> None:
        """Carry out one order and report its result."""
        match order["do"]:
            case "send":
                answer = self.client.send_message(build_jid(order["to"]), order["text"])
                say("sent", id=answer.ID)
            case "document":
                document = self.client.build_document_message(
                    order["content"].encode(), filename="a.txt", mimetype="text/plain"
                )
                answer = self.client.send_message(build_jid(order["to"]), document)
                say("sent", id=answer.ID)
            case "pair-code":
                say("code", code=self.client.PairPhone(order["number"], True))
            case "query":
                self.client.get_blocklist()
                say("answered")
            case "logout":
                self.client.logout()
                say("logged-out")


def main() -> None:
    """Connect, then obey until standard input ends."""
    bot = Bot(sys.argv[1])
    threading.Thread(target=bot.connect, daemon=True).start()
    for line in sys.stdin:
        try:
            bot.obey(json.loads(line))
        except Exception as error:  # noqa: BLE001 - an order may fail in any way; report it
            say("failed", error=str(error))
    os._exit(0)


if __name__ == "__main__":
    main()
