"""Which tokens open what: those of signed-in users of the project, and nothing else."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from crm_whatsapp.domain.api_keys import Scope
from crm_whatsapp.domain.user_keys import SigningKeysUnknown
from crm_whatsapp.service.signing_keys import SigningKeys
from crm_whatsapp.web.auth import PresentedCredentials, Principal
from crm_whatsapp.web.errors import Forbidden
from crm_whatsapp.web.user_tokens import UserTerms, UserTokenAuthenticator
from tests.unit.web.token_mint import (
    ALL,
    COMPANY,
    EC_KEY,
    ISSUER,
    ROLES,
    RSA_KEY,
    SECRET,
    TERMS,
    USER,
    Hands,
    KeyList,
    claims,
    encode,
    jwk,
    project,
    token,
)

OTHER_EC_KEY = ec.generate_private_key(ec.SECP256R1())
P384_KEY = ec.generate_private_key(ec.SECP384R1())
SMALL_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505


def now() -> int:
    return int(time.time())


def published() -> KeyList:
    return KeyList(jwk(EC_KEY, "ec-1", use="sig", alg="ES256"), jwk(RSA_KEY, "rsa-1"))


def ask(users: UserTokenAuthenticator, text: str) -> Principal | None:
    return users.authenticate(PresentedCredentials(bearer_token=text))


def shared(**changes: Any) -> str:
    return token(SECRET, "HS256", None, **changes)


GOOD: dict[str, Callable[[], str]] = {
    "ES256": token,
    "RS256": lambda: token(RSA_KEY, "RS256", "rsa-1"),
    "HS256": shared,
    "HS256 of another issuer": lambda: shared(iss="supabase"),
    "HS256 with a key id": lambda: token(SECRET, "HS256", "legacy"),
    "not anonymous by omission": lambda: token(is_anonymous=...),
    "just expired": lambda: token(exp=now() - 2),
    "issued by a clock that is ahead": lambda: token(iat=now() + 5),
    "company id in capitals": lambda: token(app_metadata={"company_id": COMPANY.upper()}),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_signed_in_user_is_known(name: str) -> None:
    users = project(published())

    principal = ask(users, GOOD[name]())

    assert principal is not None
    assert principal.companies == {COMPANY: ALL}
    assert principal.user_id == USER
    assert principal.scopes == ALL
    assert principal.expires_at is not None
    assert not principal.is_service
    assert not principal.makes_keys
    assert users.find_principal(principal.id) == principal
    assert ask(users, GOOD[name]()) is not None


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def forged(header: dict[str, Any], payload: Any, key: bytes) -> str:
    """Sign by HMAC without the checks that a library would make."""
    signed = f"{encode(header)}.{encode(payload)}"
    mac = hmac.new(key, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{encode(mac)}"


def unsigned(algorithm: str, signature: str = "") -> str:
    header = {"alg": algorithm, "typ": "JWT", "kid": "ec-1"}
    return f"{encode(header)}.{encode(claims())}.{signature}"


def altered(**changes: Any) -> str:
    """Change the claims of a good token and keep its signature."""
    header, _, signature = token().split(".")
    return f"{header}.{encode(claims(**changes))}.{signature}"


def of_header(**header: Any) -> str:
    return token(headers=header)


def small_rsa() -> str:
    signed = f"{encode({'alg': 'RS256', 'kid': 'small'})}.{encode(claims())}"
    signature = SMALL_RSA_KEY.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{signed}.{encode(signature)}"


HOSTILE: dict[str, Callable[[], str]] = {
    # no tokens
    "empty": lambda: "",
    "a word": lambda: "wrong",
    "two parts": lambda: ".".join(token().split(".")[:2]),
    "four parts": lambda: token() + ".e30",
    "five parts, as encrypted tokens have": lambda: "e30.e30.e30.e30.e30",
    "an API key": lambda: "crmwa_" + "a" * 40,
    "dots": lambda: "..",
    "NUL": lambda: token() + "\0",
    "other letters": lambda: token()[:-1] + "é",
    "a newline at the end": lambda: token() + "\n",
    "padding": lambda: token() + "==",
    "not base64": lambda: "a.b.c",
    "header is no JSON": lambda: f"{encode(b'{')}.{encode(claims())}.AAAA",
    "header is a list": lambda: f"{encode([1])}.{encode(claims())}.AAAA",
    "header is deep": lambda: f"{encode(b'[' * 5000)}.{encode(claims())}.AAAA",
    "header is not UTF-8": lambda: f"{encode(bytes([255, 254]))}.{encode(claims())}.AAAA",
    "claims are a list": lambda: forged({"alg": "HS256"}, [claims()], SECRET.encode()),
    "claims are no JSON": lambda: forged({"alg": "HS256"}, b"{", SECRET.encode()),
    "claims are deep": lambda: forged({"alg": "HS256"}, b"[" * 5000, SECRET.encode()),
    "too long": lambda: token(padding="x" * 9000),
    # algorithms
    "alg none": lambda: unsigned("none"),
    "alg none with a signature": lambda: unsigned("none", "AAAA"),
    "alg None": lambda: unsigned("None", "AAAA"),
    "alg nOnE": lambda: unsigned("nOnE", "AAAA"),
    "alg hs256 in small letters": lambda: forged({"alg": "hs256"}, claims(), SECRET.encode()),
    "alg missing": lambda: forged({"typ": "JWT"}, claims(), SECRET.encode()),
    "alg is a list": lambda: forged({"alg": ["HS256"]}, claims(), SECRET.encode()),
    "HS256 with the public key": lambda: forged(
        {"alg": "HS256", "kid": "ec-1"}, claims(), public_pem(EC_KEY)
    ),
    "HS256 with the RSA public key": lambda: forged(
        {"alg": "HS256", "kid": "rsa-1"}, claims(), public_pem(RSA_KEY)
    ),
    "HS256 with an empty secret": lambda: forged({"alg": "HS256"}, claims(), b""),
    "HS256 with another secret": lambda: forged({"alg": "HS256"}, claims(), b"x" * 40),
    "HS384 with the secret": lambda: jwt.encode(claims(), SECRET + "0123456789", "HS384"),
    "HS512 with the secret": lambda: jwt.encode(claims(), SECRET * 2, "HS512"),
    "PS256 with the RSA key": lambda: token(RSA_KEY, "PS256", "rsa-1"),
    "RS512 with the RSA key": lambda: token(RSA_KEY, "RS512", "rsa-1"),
    "ES384": lambda: token(P384_KEY, "ES384", "p384"),
    "RS256 in the name of the EC key": lambda: token(RSA_KEY, "RS256", "ec-1"),
    "ES256 in the name of the RSA key": lambda: token(EC_KEY, "ES256", "rsa-1"),
    # keys
    "another EC key": lambda: token(OTHER_EC_KEY),
    "unknown key id": lambda: token(key_id="ec-2"),
    "no key id": lambda: token(key_id=None),
    "key id is a path": lambda: token(key_id="../../ec-1"),
    "its own key in the header": lambda: token(
        OTHER_EC_KEY, headers={"jwk": jwk(OTHER_EC_KEY, "ec-1")}
    ),
    "its own list of keys": lambda: token(
        OTHER_EC_KEY, key_id="mine", headers={"jku": "http://127.0.0.1:9/jwks.json"}
    ),
    "signed with a small RSA key": small_rsa,
    "signed with a published shared secret": lambda: token(SECRET[::-1], "HS256", "oct"),
    # headers
    "crit": lambda: of_header(crit=["exp"]),
    "b64": lambda: forged({"alg": "HS256", "b64": True}, claims(), SECRET.encode()),
    "another typ": lambda: of_header(typ="logout+jwt"),
    # signatures
    "no signature": lambda: token().rpartition(".")[0] + ".",
    "cut signature": lambda: token()[:-4],
    "signature of zeros": lambda: token().rpartition(".")[0] + "." + encode(bytes(64)),
    "altered company": lambda: altered(app_metadata={"company_id": USER}),
    "altered expiry": lambda: altered(exp=now() + 10**6),
    # times
    "expired": lambda: token(exp=now() - 60),
    "no expiry": lambda: token(exp=...),
    "expiry is null": lambda: token(exp=None),
    "expiry is text": lambda: forged(
        {"alg": "HS256"}, claims(exp=str(now() + 60)), SECRET.encode()
    ),
    "expiry is true": lambda: forged({"alg": "HS256"}, claims(exp=True), SECRET.encode()),
    "expiry is infinite": lambda: forged(
        {"alg": "HS256"}, claims(exp=float("inf")), SECRET.encode()
    ),
    "expiry is no number": lambda: forged(
        {"alg": "HS256"}, claims(exp=float("nan")), SECRET.encode()
    ),
    "expiry beyond all calendars": lambda: forged(
        {"alg": "HS256"}, claims(exp=10**300), SECRET.encode()
    ),
    "expiry with 5000 digits": lambda: forged(
        {"alg": "HS256"},
        json.dumps(claims(exp=0)).replace('"exp": 0', '"exp": ' + "9" * 5000).encode(),
        SECRET.encode(),
    ),
    "not yet": lambda: token(nbf=now() + 600),
    "nbf is text": lambda: forged({"alg": "HS256"}, claims(nbf="soon"), SECRET.encode()),
    "issued tomorrow": lambda: token(iat=now() + 86_400),
    "no time of issue": lambda: token(iat=...),
    # who
    "service_role": lambda: token(role="service_role"),
    "service_role, shared secret": lambda: shared(role="service_role"),
    "anon": lambda: shared(role="anon"),
    "the project's anon key": lambda: jwt.encode(
        {"iss": "supabase", "role": "anon", "iat": now(), "exp": now() + 9_999}, SECRET, "HS256"
    ),
    "the project's service key": lambda: jwt.encode(
        {"iss": "supabase", "role": "service_role", "iat": now(), "exp": now() + 9_999},
        SECRET,
        "HS256",
    ),
    "no role": lambda: token(role=...),
    "role is a list": lambda: token(role=["authenticated"]),
    "no audience": lambda: token(aud=...),
    "another audience": lambda: token(aud="anon"),
    "several audiences": lambda: token(aud=["authenticated", "other"]),
    "another issuer": lambda: token(iss="https://evil.supabase.co/auth/v1"),
    "issuer with a slash more": lambda: token(iss=ISSUER + "/"),
    "no issuer": lambda: token(iss=...),
    "anonymous": lambda: token(is_anonymous=True),
    "perhaps anonymous": lambda: token(is_anonymous="false"),
    "no subject": lambda: token(sub=...),
    "subject is no UUID": lambda: token(sub="admin"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_token_opens_nothing(name: str) -> None:
    keys = published()
    keys.keys += [
        jwk(SMALL_RSA_KEY, "small"),
        jwk(P384_KEY, "p384"),
        {"kty": "oct", "kid": "oct", "k": base64.b64encode(SECRET[::-1].encode()).decode()},
    ]
    users = project(keys)

    assert ask(users, HOSTILE[name]()) is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"app_metadata": ...}, "no company"),
        ({"app_metadata": []}, "no company"),
        ({"app_metadata": {"company_id": 7}}, "no company"),
        ({"app_metadata": {"company_id": "*"}}, "no company"),
        ({"app_metadata": {"company_id": [COMPANY]}}, "no company"),
        ({"app_metadata": {"company_id": COMPANY, "whatsapp_role": "nobody"}}, "role"),
        ({"app_metadata": {"company_id": COMPANY, "whatsapp_role": "unlisted"}}, "role"),
        ({"app_metadata": {"company_id": COMPANY, "whatsapp_role": ["agent"]}}, "role"),
        ({"app_metadata": {"company_id": COMPANY, "whatsapp_role": True}}, "role"),
    ],
)
def test_a_user_without_a_company_or_a_known_role_is_told_so(
    change: dict[str, Any], why: str
) -> None:
    with pytest.raises(Forbidden, match=why):
        ask(project(published()), token(**change))


def test_the_role_decides_what_a_user_may() -> None:
    metadata = {"company_id": COMPANY, "whatsapp_role": "agent"}

    principal = ask(project(published()), token(app_metadata=metadata))

    assert principal is not None
    assert principal.scopes == {Scope.READ, Scope.SEND}


def test_claims_may_be_elsewhere() -> None:
    users = project(published(), company_claim=("https://crm/company",), role_claim=("crm", "r"))

    principal = ask(users, token(**{"https://crm/company": USER, "crm": {"r": "agent"}}))

    assert principal is not None
    assert principal.companies == {USER: ROLES["agent"]}
    assert principal.scopes == ROLES["agent"]


def test_without_the_shared_secret_hs256_opens_nothing() -> None:
    users = project(published(), secret=None)

    assert ask(users, shared()) is None
    assert ask(users, token()) is not None


def test_a_configured_issuer_is_asked_of_the_shared_secret_too() -> None:
    users = project(published(), shared_issuer=ISSUER)

    assert ask(users, shared()) is not None
    assert ask(users, shared(iss="supabase")) is None


def test_a_key_that_was_sent_as_well_decides_alone() -> None:
    users = project(published())

    assert users.authenticate(PresentedCredentials(api_key="x", bearer_token=token())) is None


def test_a_token_ends_with_its_time() -> None:
    moment = [datetime.now(UTC)]
    terms = UserTerms(issuer=ISSUER, role_scopes=ROLES, leeway_seconds=5.0)
    users = UserTokenAuthenticator(
        SigningKeys(published(), TERMS, Hands()), terms, lambda: moment[0]
    )
    text = token()
    principal = ask(users, text)
    assert principal is not None

    moment[0] += timedelta(seconds=3603)
    assert users.find_principal(principal.id) == principal
    moment[0] += timedelta(seconds=3)
    assert users.find_principal(principal.id) is None
    assert ask(users, text) is None


def test_a_user_has_one_holder_for_all_tokens() -> None:
    users = project(published())
    first, second = ask(users, token()), ask(users, token(session_id="another"))

    assert first is not None
    assert second is not None
    assert first.id != second.id
    assert first.holder == second.holder
    assert users.find_principal(first.id) == first
    assert users.find_principal(f"user:{COMPANY}:{first.id[-32:]}") is None
    assert users.find_principal("key:abc") is None


class TestKeys:
    def test_known_keys_are_answered_from_memory(self) -> None:
        keys, hands = published(), Hands()
        users = project(keys, hands)
        for number in range(50):
            assert ask(users, token(session_id=str(number))) is not None
        assert keys.asked == 1

    def test_the_shared_secret_asks_nobody(self) -> None:
        keys = published()
        keys.is_away = True
        assert ask(project(keys), shared()) is not None
        assert keys.asked == 0

    def test_a_flood_of_unknown_keys_reads_the_list_once(self) -> None:
        keys, hands = published(), Hands()
        users = project(keys, hands)
        for number in range(200):
            assert ask(users, token(key_id=f"made-up-{number}")) is None
        assert keys.asked == 1
        hands.seconds += 11
        assert ask(users, token(key_id="made-up")) is None
        assert keys.asked == 2

    def test_a_new_key_is_found(self) -> None:
        keys, hands = published(), Hands()
        users = project(keys, hands)
        assert ask(users, token()) is not None
        keys.keys.append(jwk(OTHER_EC_KEY, "ec-2"))
        hands.seconds += 11
        assert ask(users, token(OTHER_EC_KEY, key_id="ec-2")) is not None

    def test_a_revoked_key_ends_its_tokens_also_those_seen_before(self) -> None:
        keys, hands = published(), Hands()
        users = project(keys, hands)
        old = token()
        principal = ask(users, old)
        assert principal is not None
        keys.keys = [jwk(OTHER_EC_KEY, "ec-2")]
        hands.seconds += 11
        assert ask(users, token(OTHER_EC_KEY, key_id="ec-2")) is not None
        assert users.find_principal(principal.id) is None
        assert ask(users, old) is None

    def test_a_key_replaced_under_its_id_ends_the_old_tokens(self) -> None:
        keys, hands = published(), Hands()
        users = project(keys, hands)
        old = token()
        assert ask(users, old) is not None
        keys.keys = [jwk(OTHER_EC_KEY, "ec-1")]
        hands.seconds += 11
        assert ask(users, token(key_id="unknown")) is None
        assert ask(users, old) is None
        assert ask(users, token(OTHER_EC_KEY)) is not None

    def test_an_old_list_is_read_again_beside_the_request(self) -> None:
        keys, hands = published(), Hands()
        users = project(keys, hands)
        assert ask(users, token()) is not None
        hands.seconds += 601
        assert ask(users, token(session_id="later")) is not None
        keys.await_reading()
        assert keys.asked == 2

    def test_a_token_that_is_shown_again_and_again_hears_of_the_revocation(self) -> None:
        keys, hands = published(), Hands()
        users = project(keys, hands)
        text = token()
        principal = ask(users, text)
        assert principal is not None
        keys.keys = []
        hands.seconds += 601
        assert users.find_principal(principal.id) == principal
        keys.await_reading()
        assert users.find_principal(principal.id) is None
        assert ask(users, text) is None

    def test_known_keys_outlive_the_endpoint_for_a_while(self) -> None:
        keys, hands = published(), Hands()
        users = project(keys, hands)
        assert ask(users, token()) is not None
        keys.is_away = True
        hands.seconds += 3_500
        assert ask(users, token(session_id="a")) is not None
        keys.await_reading()
        hands.seconds += 200
        with pytest.raises(SigningKeysUnknown):
            ask(users, token(session_id="b"))
        keys.is_away = False
        hands.seconds += 11
        assert ask(users, token(session_id="c")) is not None

    def test_while_no_key_could_be_read_nobody_is_called_wrong(self) -> None:
        keys, hands = published(), Hands()
        keys.is_away = True
        users = project(keys, hands)
        for _ in range(5):
            with pytest.raises(SigningKeysUnknown):
                ask(users, token())
        assert keys.asked == 1
