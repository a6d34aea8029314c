"""Reading what Baileys writes as JSON: bounded, in each of the ways it spells bytes."""

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Any

Record = dict[str, Any]

_MOST_DEPTH = 12
_MOST_WRAPPINGS = 3
_MOST_VALUES = 2_000_000
_MOST_BLOB_BYTES = 65_536


class NotJson(Exception):
    """The content is not JSON; the text says why."""


def parse_json(raw: bytes) -> Any:
    """Return the value.

    Raises:
        NotJson: it is not, or it is nested beyond reason.
    """
    if not raw.strip():
        raise NotJson("it is empty")
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as exc:
        raise NotJson("it is not UTF-8 text") from exc
    except (ValueError, RecursionError) as exc:
        raise NotJson("it is not complete JSON") from exc


def is_baileys_creds(value: Any) -> bool:
    """Tell whether it is the object that Baileys keeps in creds.json."""
    return isinstance(value, dict) and "noiseKey" in value and "signedIdentityKey" in value


def find_creds(value: Any) -> list[Record]:
    """Return the different creds objects anywhere in a dump, also in texts that are JSON."""
    found: list[Record] = []
    for item in _walk(value):
        if is_baileys_creds(item) and item not in found:
            found.append(item)
    return found


def as_bytes(value: Any) -> bytes | None:
    """Return the bytes that a value stands for; None when it stands for none.

    Baileys' own files hold {"type": "Buffer", "data": <base64>}, and plain base64 within
    `account`; databases make of it arrays of numbers, or objects with the index as the key.
    """
    if isinstance(value, str):
        return _from_base64(value)
    if isinstance(value, list):
        return _from_numbers(value)
    if not isinstance(value, dict):
        return None
    if value.get("type") == "Buffer" or set(value) == {"data"}:
        inner = value.get("data")
        return as_bytes(inner) if isinstance(inner, str | list) else None
    return _from_indexed(value)


def _walk(value: Any) -> Iterator[Any]:
    """Yield the values in it, texts that hold creds parsed; creds objects are not looked into."""
    waiting: list[tuple[Any, int]] = [(value, 0)]
    seen = 0
    while waiting and seen < _MOST_VALUES:
        item, depth = waiting.pop()
        seen += 1
        item = _unwrapped(item)
        yield item
        if depth >= _MOST_DEPTH or is_baileys_creds(item):
            continue
        if isinstance(item, dict):
            waiting.extend((inner, depth + 1) for inner in item.values())
        elif isinstance(item, list):
            waiting.extend((inner, depth + 1) for inner in item)


def _unwrapped(item: Any) -> Any:
    """Parse a text column that holds JSON, or JSON as a JSON text, as some stores write it."""
    for _ in range(_MOST_WRAPPINGS):
        if not isinstance(item, str) or "noiseKey" not in item:
            break
        try:
            item = json.loads(item)
        except (ValueError, RecursionError):
            return None
    return item


def _from_base64(text: str) -> bytes | None:
    if len(text) > 2 * _MOST_BLOB_BYTES:
        return None
    padded = text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4)
    try:
        return base64.b64decode(padded, validate=True)
    except (binascii.Error, ValueError):
        return None


def _from_numbers(numbers: list[Any]) -> bytes | None:
    if len(numbers) > _MOST_BLOB_BYTES:
        return None
    if not all(type(number) is int and 0 <= number <= 255 for number in numbers):
        return None
    return bytes(numbers)


def _from_indexed(record: Record) -> bytes | None:
    if not record or len(record) > _MOST_BLOB_BYTES:
        return None
    numbers = [record.get(str(index)) for index in range(len(record))]
    return _from_numbers(numbers)
