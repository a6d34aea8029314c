"""The frames between an engine and its supervisor: JSON objects, never pickle.

An engine parses what strangers send, so its supervisor trusts nothing but the shape of a frame.
"""

import json
from enum import StrEnum
from typing import Any

Frame = dict[str, Any]

MAX_FRAME_BYTES = 4 * 1024 * 1024


class FrameError(Exception):
    """The other side sent something that is not a frame."""


class Order(StrEnum):
    """What a supervisor tells an engine; the value of `type`."""

    CONFIGURE = "configure"  # first frame: the settings of the engine
    START = "start"  # start a saved session
    PAIR = "pair"  # start an unpaired client
    STOP = "stop"  # stop one client
    PROBE = "probe"  # one round trip
    LOGOUT = "logout"  # unlink the device
    SEND = "send"  # send a text
    SEND_MEDIA = "send-media"  # upload a file, then send it
    CAREFUL = "careful"  # one dial at a time, or not any more
    TAKEN = "taken"  # so many messages and receipts have been told; more may follow
    SHUTDOWN = "shutdown"  # stop everything, then exit


class Report(StrEnum):
    """What an engine tells its supervisor; the value of `type`."""

    HELLO = "hello"  # neonize is loaded
    UNUSABLE = "unusable"  # neonize cannot be loaded; the engine exits
    STARTING = "starting"  # the next thing is the call that may end the process
    EVENT = "event"  # a domain event of one client
    INBOUND = "inbound"  # a message or a receipt; answered by TAKEN
    ENDED = "ended"  # connect() returned or raised unasked; the client is gone
    STOPPED = "stopped"  # the client is gone as asked
    CALLED = "called"  # the answer to a probe, logout or send
    HEARTBEAT = "heartbeat"  # once a second
    LOG = "log"  # one log line


def encode(frame: Frame) -> bytes:
    """Return the bytes of one frame."""
    return json.dumps(frame, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )


def decode(data: bytes) -> Frame:
    """Return the frame in `data`.

    Raises:
        FrameError: not a JSON object with a text `type`.
    """
    try:
        frame = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise FrameError(f"not JSON: {exc}") from exc
    if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
        raise FrameError("not an object with a type")
    return frame


def taken_frame(company_id: str, generation: int) -> Frame:
    """Return the frame that lets one more message or receipt of a client come."""
    return {
        "type": Order.TAKEN,
        "company_id": company_id,
        "generation": generation,
        "count": 1,
    }


def get_text(frame: Frame, key: str) -> str:
    """Return a text field.

    Raises:
        FrameError: absent, or not text.
    """
    value = frame.get(key)
    if not isinstance(value, str):
        raise FrameError(f"{frame.get('type')}: {key} is not text")
    return value


def get_int(frame: Frame, key: str) -> int:
    """Return a whole-number field.

    Raises:
        FrameError: absent, or not a whole number.
    """
    value = frame.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise FrameError(f"{frame.get('type')}: {key} is not a whole number")
    return value


def get_number(frame: Frame, key: str) -> float:
    """Return a number field.

    Raises:
        FrameError: absent, or not a number.
    """
    value = frame.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise FrameError(f"{frame.get('type')}: {key} is not a number")
    return float(value)
