"""JSON from strangers: one object, nothing twice, and never more work than its size is worth.

`json` holds the interpreter's lock from the first byte to the last, so what it is given is bounded:
a megabyte of `[[],[],[]...` keeps every other thread waiting for 0.4 s, 64 kB for 7 ms. A
long string costs next to nothing; hence what counts is what lies outside of strings.
"""

import json
import re
from typing import Any, NoReturn

from crm_whatsapp.domain.errors import InvalidInput

MOST_STRUCTURE_BYTES = 64 * 1024
"""Braces, commas, numbers, blanks and quotes of one body together."""

_MOST_ESCAPES = 200_000  # the longest text, written as pairs of them, has 131,072
_MOST_MEMBERS = 200
_MAX_ECHOED_NAME = 64
_REST_OF_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+"', re.DOTALL)


def parse_object(raw: bytes) -> dict[str, Any]:
    """Return the object in a request's body.

    Raises:
        InvalidInput: it is no JSON, no object, has a name twice, or is made to be expensive.
    """
    if len(raw) > MOST_STRUCTURE_BYTES and not is_worth_parsing(raw):
        raise InvalidInput("The body has too many values, or too many escapes.")
    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique_pairs,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError) as exc:
        raise InvalidInput("The body is not valid JSON.") from exc
    if not isinstance(value, dict):
        raise InvalidInput("The body must be a JSON object.")
    return value


def is_worth_parsing(raw: bytes) -> bool:
    """Tell whether little of this lies outside of strings, or is escaped, without parsing it."""
    if raw.count(b"\\") > _MOST_ESCAPES:
        return False
    return structure_bytes(raw, stop_above=MOST_STRUCTURE_BYTES) <= MOST_STRUCTURE_BYTES


def structure_bytes(raw: bytes, *, stop_above: int) -> int:
    """Count what lies outside of strings; a string counts two, its quotes.

    What is not closed counts as a string: the parser will say so.

    Args:
        stop_above: no further than this; the sum is then some number above it.
    """
    position = outside = 0
    while outside <= stop_above:
        opens_at = raw.find(b'"', position)
        if opens_at < 0:
            return outside + len(raw) - position
        outside += opens_at - position + 2
        position = _end_of_string(raw, opens_at + 1)
    return outside


def shown(name: str) -> str:
    """Return a name that a caller chose, fit for an answer: short, and without half characters."""
    return name[:_MAX_ECHOED_NAME].encode("utf-8", errors="replace").decode("utf-8")


def refuse_duplicate(name: str) -> NoReturn:
    """Raise InvalidInput, naming what was given more than once."""
    raise InvalidInput(f"{shown(name)} was given more than once.", field=shown(name))


def _end_of_string(raw: bytes, begin: int) -> int:
    quote = raw.find(b'"', begin)
    if quote < 0:
        return len(raw)
    if raw.find(b"\\", begin, quote) < 0:
        return quote + 1
    found = _REST_OF_STRING.match(raw, begin)
    return found.end() if found else len(raw)


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > _MOST_MEMBERS:
        raise InvalidInput(f"An object of the body has more than {_MOST_MEMBERS} fields.")
    unique = dict(pairs)
    if len(unique) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                refuse_duplicate(name)
            seen.add(name)
    return unique


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
