"""JSON from strangers: what is taken, and that what is refused costs little."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_whatsapp.domain.errors import InvalidInput
from crm_whatsapp.web.json_body import MOST_STRUCTURE_BYTES, parse_object, structure_bytes

TOO_MUCH = MOST_STRUCTURE_BYTES + 1


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"[" * 100_000, "too many values"),
        (b'{"a":' * 20_000, "too many values"),
        (b'{"a":[' + b"[]," * 100_000 + b"[]]}", "too many values"),
        (b'{"a":[' + b"0," * 500_000 + b"0]}", "too many values"),
        (b'{"a":[' + b'"",' * 300_000 + b'""]}', "too many values"),
        (b"{" + b" " * TOO_MUCH + b"}", "too many values"),
        (b'{"a":"' + b'\\"' * 500_000 + b'"}', "too many escapes"),
        (b"9" * TOO_MUCH, "too many values"),
        (b"[" * 60_000, "not valid JSON"),
        (b'{"a": 1e5' + b"0" * 60_000 + b"x}", "not valid JSON"),
        (b'{"a": ' + b"9" * 60_000 + b"}", "not valid JSON"),
        (b'\xef\xbb\xbf{"a": 1}', "not valid JSON"),
        ('{"a": 1}'.encode("utf-16"), "not valid JSON"),
        (b'{"a": -Infinity}', "not valid JSON"),
        (b'{"a": 1}x', "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b'{"a": "' + b"x" * 100_000, "not valid JSON"),
        (b'{"a": "' + b"\\" * 100_001 + b'"}', "not valid JSON"),
        (b'{"a": "\x00"}', "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[]", "must be a JSON object"),
    ],
    ids=lambda value: repr(value[:12]),
)
def test_what_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_object(raw)


def test_an_object_has_so_many_fields() -> None:
    fields = {str(number): number for number in range(200)}

    assert parse_object(json.dumps(fields).encode()) == fields
    with pytest.raises(InvalidInput, match="more than 200 fields"):
        parse_object(json.dumps({**fields, "one more": 1}).encode())


@pytest.mark.parametrize("raw", [b'{"a": 1, "b": 2, "b": 3}', b'{"x": [{"b": 1, "b": 1}]}'])
def test_what_is_given_twice_is_named(raw: bytes) -> None:
    with pytest.raises(InvalidInput) as refusal:
        parse_object(raw)
    assert refusal.value.details["field"] == "b"


@pytest.mark.parametrize("text", ["x", '"', "\\", '\\"', "[{,", "\u20ac", "\U0001f600"])
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_long_texts_are_taken(text: str, ensure_ascii: bool) -> None:
    value = {"text": text * (65_536 // len(text)), "more": "y" * 100_000}

    assert parse_object(json.dumps(value, ensure_ascii=ensure_ascii).encode()) == value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(value=JSON, ensure_ascii=st.booleans())
def test_what_lies_outside_of_strings_is_counted(value: object, ensure_ascii: bool) -> None:
    raw = json.dumps(value, ensure_ascii=ensure_ascii).encode()
    strings: list[str] = []
    _collect(value, strings)
    inside = sum(len(json.dumps(text, ensure_ascii=ensure_ascii).encode()) - 2 for text in strings)

    assert structure_bytes(raw, stop_above=len(raw)) == len(raw) - inside


def _collect(value: object, strings: list[str]) -> None:
    if isinstance(value, str):
        strings.append(value)
    elif isinstance(value, list):
        for item in value:
            _collect(item, strings)
    elif isinstance(value, dict):
        for name, item in value.items():
            strings.append(name)
            _collect(item, strings)
