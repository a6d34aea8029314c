"""Keys are read in every usual spelling, and a refusal names a position, never a key."""

import base64
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_whatsapp.domain.errors import ConfigurationError
from crm_whatsapp.domain.snapshots import KeyMissing
from crm_whatsapp.sessions.key_ring import EncryptionKey, KeyRing, generate_key_entry

SECRET = bytes(range(200, 232))  # its base64 has + or / in it
OTHER = bytes(range(32))
STANDARD = base64.b64encode(SECRET).decode()
URLSAFE = base64.urlsafe_b64encode(SECRET).decode()


@pytest.mark.parametrize(
    "encoded", [STANDARD, URLSAFE, STANDARD.rstrip("="), URLSAFE.rstrip("="), f" {STANDARD}\n"]
)
def test_a_key_is_read_in_every_spelling(encoded: str) -> None:
    assert STANDARD != URLSAFE
    assert KeyRing.parse(f"a:{encoded}").first == EncryptionKey(key_id="a", secret=SECRET)


def test_the_first_encrypts_and_all_are_found() -> None:
    ring = KeyRing.parse(f"new-1:{STANDARD}, old_2:{base64.b64encode(OTHER).decode()}")
    assert ring.first.key_id == "new-1"
    assert ring.key_ids == ("new-1", "old_2")
    assert ring.find("old_2").secret == OTHER
    with pytest.raises(KeyMissing, match=r"'older'.*new-1, old_2") as caught:
        ring.find("older")
    assert caught.value.details == {"key_id": "older"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "holds no key"),
        (" \n", "holds no key"),
        (STANDARD, "Entry 1 .* form id:base64key"),
        (f"a:{STANDARD},", "Entry 2 .* form id:base64key"),
        (f"a:{STANDARD},:{STANDARD}", "Entry 2 .* needs an id"),
        (f"a b:{STANDARD}", "Entry 1 .* needs an id"),
        (f"ä:{STANDARD}", "Entry 1 .* needs an id"),
        (f"{'a' * 33}:{STANDARD}", "Entry 1 .* needs an id"),
        (f"a:{STANDARD},a:{STANDARD}", "Entry 2 .* id a, which an earlier one has"),
        ("a:", "Entry 1 .* key of 0 bytes, not 32"),
        (f"a:{STANDARD},b:{base64.b64encode(SECRET[:31]).decode()}", "Entry 2 .* key of 31 bytes"),
        (f"a:{base64.b64encode(SECRET * 2).decode()}", "Entry 1 .* key of 64 bytes"),
        (f"a:{STANDARD[:20]}!{STANDARD[20:]}", "Entry 1 .* not base64"),
        (f"a:{STANDARD[:20]}é{STANDARD[20:]}", "Entry 1 .* not base64"),
        (f"a:{STANDARD[:41]}", "Entry 1 .* not base64"),
    ],
)
def test_a_refusal_names_the_entry_and_shows_no_key(text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        KeyRing.parse(text)
    shown = "".join(traceback.format_exception(caught.value))
    assert STANDARD[:12] not in shown
    assert caught.value.__cause__ is None


@given(st.text(max_size=200))
def test_any_text_is_a_ring_or_a_refusal(text: str) -> None:
    try:
        KeyRing.parse(text)
    except ConfigurationError:
        pass


def test_nothing_shows_a_key() -> None:
    ring = KeyRing.parse(f"a:{STANDARD}")
    for shown in (repr(ring), str(ring), repr(ring.first), f"{ring.first}"):
        assert "a" in shown
        assert STANDARD[:8] not in shown
        assert repr(SECRET)[2:12] not in shown


def test_fresh_entries_differ_and_are_read_back() -> None:
    first, second = generate_key_entry(), generate_key_entry("2026-b")
    ring = KeyRing.parse(f"{first},{second}")
    assert ring.key_ids[1] == "2026-b"
    assert ring.first.secret != ring.find("2026-b").secret
    with pytest.raises(ConfigurationError):
        generate_key_entry("not an id")
