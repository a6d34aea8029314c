"""What of a published list of keys is taken."""

import json
from typing import Any

import pytest

from crm_whatsapp.domain.user_keys import KeysUnreadable
from crm_whatsapp.service.signing_keys import parse_key_list
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
