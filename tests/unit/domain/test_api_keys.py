"""What a key looks like, and what is kept of it."""

import json
import re
import zlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_whatsapp.domain.api_keys import (
    ApiKey,
    Scope,
    find_key_id,
    new_key_text,
    parse_key_id,
    read_api_key,
    write_api_key,
)
from crm_whatsapp.domain.errors import InvalidInput

NOON = datetime(2027, 1, 8, 12, tzinfo=UTC)
KEY = ApiKey(
    id="k3vq7mzc2hxd",
    name="the CRM",
    company_id="3b1bee0c-cbee-4de1-88f1-d6e890f4c995",
    scopes=frozenset({Scope.READ, Scope.SEND}),
    pepper_id="0123abcd",
    mac="ab" * 32,
    created_at=NOON,
    created_by="cli",
    expires_at=NOON + timedelta(days=1),
)


def test_a_key_names_itself_and_is_hard_to_guess() -> None:
    made = [new_key_text() for _ in range(100)]
    assert len({key_id for key_id, _ in made}) == len({text for _, text in made}) == 100
    for key_id, text in made:
        assert re.fullmatch(r"crmwa_[a-z2-7]{12}_[0-9A-Za-z]{49}", text)
        assert find_key_id(text) == key_id == parse_key_id(key_id)


@given(st.integers(min_value=0, max_value=67), st.characters())
def test_one_wrong_character_is_noticed(place: int, character: str) -> None:
    text = "crmwa_k3vq7mzc2hxd_" + "0" * 43
    checksum, digits = zlib.crc32(text.encode()), ""
    alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    for _ in range(6):
        checksum, digit = divmod(checksum, 62)
        digits = alphabet[digit] + digits
    text += digits
    assert find_key_id(text) == "k3vq7mzc2hxd"
    changed = text[:place] + character + text[place + 1 :]
    assert (find_key_id(changed) is None) == (changed != text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "crmwa",
        "crmwa__",
        "x" * 5000,
        "crmwa_" + "é" * 62,
        pytest.param(new_key_text()[1] + "\n", id="newline-appended"),  # the same name each time
    ],
)
def test_what_is_no_key(text: str) -> None:
    assert find_key_id(text) is None


@given(st.text())
def test_any_text_is_a_key_or_not(text: str) -> None:
    assert find_key_id(text) is None


@pytest.mark.parametrize("raw", [None, 1, "", "K3VQ7MZC2HXD", "k3vq7mzc2hx", "k3vq7mzc2hxd\n"])
def test_what_is_no_id(raw: object) -> None:
    with pytest.raises(InvalidInput, match="key_id"):
        parse_key_id(raw)


def test_validity() -> None:
    assert KEY.is_valid(NOON)
    assert not KEY.is_valid(NOON + timedelta(days=1))
    assert not replace(KEY, revoked_at=NOON).is_valid(NOON)
    assert replace(KEY, expires_at=None).is_valid(NOON + timedelta(days=9999))


@pytest.mark.parametrize(
    "key",
    [
        KEY,
        replace(KEY, company_id=None, expires_at=None, scopes=frozenset(Scope)),
        replace(KEY, revoked_at=NOON, revoked_by="key:abc", last_used_at=NOON),
        replace(KEY, created_at=NOON.astimezone(timezone(timedelta(hours=-3)))),
    ],
)
def test_a_row_is_read_as_it_was_written(key: ApiKey) -> None:
    assert read_api_key(json.loads(json.dumps(write_api_key(key)))) == key


@pytest.mark.parametrize(
    "change",
    [
        {"scopes": ["everything"]},
        {"scopes": None},
        {"company_id": "nobody"},
        {"company_id": 7},
        {"created_at": None},
        {"created_at": "yesterday"},
        {"expires_at": "2027-01-08T12:00:00"},
        {"expires_at": 1},
        {"id": "x"},
    ],
)
def test_a_row_that_this_release_does_not_know_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_api_key(write_api_key(KEY) | change)
    row = write_api_key(KEY)
    del row[next(iter(change))]
    with pytest.raises(InvalidInput):
        read_api_key(row)


def test_the_hash_is_not_shown() -> None:
    assert KEY.mac not in repr(KEY)
