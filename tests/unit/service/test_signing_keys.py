"""What of a published list of keys is taken."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from crm_whatsapp.domain.user_keys import KeysUnreadable, SigningKeysUnknown
from crm_whatsapp.service.signing_keys import (
    _MOST_WAITING,
    KeyTerms,
    SigningKey,
    SigningKeys,
    parse_key_list,
)
from service_process import wait_for
from tests.unit.web.token_mint import EC_KEY, RSA_KEY, jwk


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": 7}',
        b"[" * 100_000,
        b"\xff\xfe",
        json.dumps({"keys": [{}] * 51}).encode(),
    ],
)
def test_what_is_no_list_of_keys_is_refused(document: bytes) -> None:
    with pytest.raises(KeysUnreadable):
        parse_key_list(document)


@pytest.mark.parametrize(
    "row",
    [
        None,
        7,
        [],
        {},
        {"kty": "oct", "kid": "a", "k": "c2VjcmV0"},
        {"kty": "EC", "kid": "a"},
        {"kty": "EC", "kid": "a", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "RSA", "kid": "a", "n": "AQAB", "e": "AQAB"},
        {"kty": "RSA", "kid": "a", "n": 7, "e": []},
        jwk(EC_KEY, ""),
        jwk(EC_KEY, "x" * 129),
        {**jwk(EC_KEY, "a"), "kid": None},
        jwk(EC_KEY, "a", use="enc"),
        jwk(EC_KEY, "a", alg="HS256"),
        jwk(EC_KEY, "a", alg="RS256"),
        jwk(EC_KEY, "a", d="AA"),
        jwk(RSA_KEY, "a", alg="PS256"),
        jwk(RSA_KEY, "a", alg="ES256"),
    ],
)
def test_what_is_no_verification_key_is_left_out(row: Any) -> None:
    document = json.dumps({"keys": [row, jwk(EC_KEY, "good")]}).encode()

    assert list(parse_key_list(document)) == ["good"]


def test_a_project_may_have_no_keys() -> None:
    assert parse_key_list(b'{"keys": []}') == {}


def test_the_first_of_two_keys_with_one_id_counts() -> None:
    rows = [jwk(EC_KEY, "a"), jwk(RSA_KEY, "a")]

    assert parse_key_list(json.dumps({"keys": rows}).encode())["a"].algorithm == "ES256"


DEADLINE_SECONDS = 20.0


class SlowReader:
    """An address that answers when a test lets it."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.may_answer = threading.Event()
        self.readings = 0

    def read(self) -> bytes:
        self.readings += 1
        self.asked.set()
        assert self.may_answer.wait(DEADLINE_SECONDS)
        return json.dumps({"keys": [jwk(EC_KEY, "good")]}).encode()


def test_the_first_calls_at_the_same_time_wait_for_the_one_reading() -> None:
    reader = SlowReader()
    keys = SigningKeys(reader, KeyTerms(refresh_seconds=600, miss_seconds=30, stale_seconds=3600))

    def found(_: int) -> SigningKey | None:
        return keys.find("good")

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(found, 0)
        assert reader.asked.wait(DEADLINE_SECONDS)
        others = [pool.submit(found, number) for number in range(5)]
        assert wait_for(lambda: keys._waiting == len(others), DEADLINE_SECONDS)
        reader.may_answer.set()
        answers = [future.result(DEADLINE_SECONDS) for future in (first, *others)]

    assert [key.id for key in answers if key is not None] == ["good"] * 6
    assert reader.readings == 1


def test_a_crowd_with_unknown_keys_holds_few_threads() -> None:
    reader = SlowReader()
    keys = SigningKeys(reader, KeyTerms(refresh_seconds=600, miss_seconds=30, stale_seconds=3600))
    with ThreadPoolExecutor(_MOST_WAITING + 1) as pool:
        pool.submit(keys.find, "good")
        assert reader.asked.wait(DEADLINE_SECONDS)
        waiting = [pool.submit(keys.find, "made up") for _ in range(_MOST_WAITING)]
        assert wait_for(lambda: keys._waiting == _MOST_WAITING, DEADLINE_SECONDS)
        with pytest.raises(SigningKeysUnknown):
            keys.find("made up")
        reader.may_answer.set()
        assert [future.result(DEADLINE_SECONDS) for future in waiting] == [None] * _MOST_WAITING
