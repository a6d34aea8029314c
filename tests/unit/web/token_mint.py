"""Keys of a Supabase project and tokens of its users, good and hostile."""

import base64
import json
import threading
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from crm_whatsapp.domain.api_keys import Scope
from crm_whatsapp.domain.user_keys import KeysUnreadable
from crm_whatsapp.service.signing_keys import KeyTerms, SigningKeys
from crm_whatsapp.web.user_tokens import UserTerms, UserTokenAuthenticator

ISSUER = "https://abc.supabase.co/auth/v1"
SECRET = "a-legacy-jwt-secret-of-the-tests-0123456789"
COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
USER = "7f0f0b61-0c3e-4c53-9a0c-0a7c2a1f1d11"
ALL = frozenset(Scope)
ROLES = {"": ALL, "agent": frozenset({Scope.READ, Scope.SEND}), "nobody": frozenset[Scope]()}
TERMS = KeyTerms(refresh_seconds=600.0, miss_seconds=10.0, stale_seconds=3_600.0)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def jwk(private_key: Any, key_id: str, **more: Any) -> dict[str, Any]:
    """Return the public half as it is published."""
    kind = ECAlgorithm if isinstance(private_key, ec.EllipticCurvePrivateKey) else RSAAlgorithm
    return {**kind.to_jwk(private_key.public_key(), as_dict=True), "kid": key_id, **more}


def claims(**changes: Any) -> dict[str, Any]:
    """Return what Supabase says of a signed-in user; a change to ... leaves that out."""
    now = int(time.time())
    payload: dict[str, Any] = {
        "iss": ISSUER,
        "sub": USER,
        "aud": "authenticated",
        "exp": now + 3600,
        "iat": now,
        "role": "authenticated",
        "is_anonymous": False,
        "app_metadata": {"company_id": COMPANY},
        "user_metadata": {"company_id": "99999999-9999-4999-8999-999999999999"},
        "session_id": "f2a1",
    }
    payload.update(changes)
    return {name: value for name, value in payload.items() if value is not ...}


def encode(part: Any) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def token(
    key: Any = EC_KEY,
    algorithm: str = "ES256",
    key_id: str | None = "ec-1",
    headers: dict[str, Any] | None = None,
    **changes: Any,
) -> str:
    """Sign a token."""
    header = {} if key_id is None else {"kid": key_id}
    return jwt.encode(claims(**changes), key, algorithm, headers=header | (headers or {}))


class KeyList:
    """What the project publishes; counts how often it is asked."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.asked = 0
        self.is_away = False

    def read(self) -> bytes:
        self.asked += 1
        if self.is_away:
            raise KeysUnreadable("no answer")
        return json.dumps({"keys": self.keys}).encode()

    def await_reading(self) -> None:
        """Wait until what is read beside a request has been read."""
        for thread in threading.enumerate():
            if thread.name == "user-keys":
                thread.join(30)


class Hands:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def project(keys: KeyList, hands: Hands | None = None, **terms: Any) -> UserTokenAuthenticator:
    """Return what knows the users of a project."""
    told = UserTerms(**{"issuer": ISSUER, "role_scopes": ROLES, "secret": SECRET, **terms})
    return UserTokenAuthenticator(SigningKeys(keys, TERMS, hands or Hands()), told)
