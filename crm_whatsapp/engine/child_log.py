"""The log of an engine: every line goes to its supervisor as a frame."""

import logging
import re

from crm_whatsapp.engine.frame_channel import FrameChannel
from crm_whatsapp.engine.frames import Report

_LONG_NUMBER = re.compile(r"\d{6,}")
_QR_TEXT = re.compile(r"https://wa\.me/settings/linked_devices\S*|\b2@\S{20,}")
_STANZA = re.compile(r"<(?:message|receipt|notification|call|ib|iq)\b.*", re.DOTALL)
"""whatsmeow shows a whole stanza when its handling takes long: names and ciphertext."""
_STANZA_LOGGERS = ("whatsmeow.Client.Send", "whatsmeow.Client.Recv", "whatsmeow.Client.QRChannel")
_TALKATIVE = ("neonize.utils.ffmpeg", "whatsmeow.Client.Socket")
"""They complain of what is normal here: no ffmpeg, and each end of a socket."""
_EXPECTED = ("Error reconnecting after autoreconnect sleep",)
"""Said for every attempt of every session while WhatsApp cannot be reached; the events tell it."""
_MAX_CHARACTERS = 2000


class FrameLogHandler(logging.Handler):
    """Sends records as LOG frames, never with QR text or stanzas, with numbers only at DEBUG."""

    def __init__(self, channel: FrameChannel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(_STANZA_LOGGERS) and record.levelno < logging.WARNING:
            return
        text = self.format(record)[:_MAX_CHARACTERS]
        if text.startswith(_EXPECTED) and not logging.getLogger().isEnabledFor(logging.DEBUG):
            return
        self._channel.send(
            {
                "type": Report.LOG,
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": redact(text, keep_numbers=record.levelno <= logging.DEBUG),
            }
        )


def redact(text: str, *, keep_numbers: bool) -> str:
    """Return the line without QR text and stanzas and, unless asked for, without phone numbers."""
    text = _STANZA.sub("<stanza>", _QR_TEXT.sub("<qr>", text))
    return text if keep_numbers else _LONG_NUMBER.sub("<number>", text)


def install(channel: FrameChannel) -> None:
    """Make the root logger send frames; later calls of logging.basicConfig change nothing."""
    handler = FrameLogHandler(channel)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def set_level(level_name: str) -> int:
    """Let through whatsmeow's lines from this level; return the level as a number.

    Without DEBUG whatsmeow is heard from WARNING up: its INFO lines say nothing that an event
    does not say.
    """
    level = logging.DEBUG if level_name.upper() == "DEBUG" else logging.WARNING
    logging.getLogger().setLevel(level)
    if level > logging.DEBUG:
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.CRITICAL)
    return level
