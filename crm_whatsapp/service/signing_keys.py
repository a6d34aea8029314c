"""The public keys that user tokens are signed with, as Supabase Auth publishes them (JWKS).

A key that is known is answered from memory, always. One that is not has the list read again, at
most once in `miss_seconds` for everybody together; a few wait for a reading that is under way: the
first calls of a page to a service that has just started come together. While the address does not
answer, the keys last read stay good for `stale_seconds`.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWTError
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from crm_whatsapp.domain.user_keys import KeyListReader, KeysUnreadable, SigningKeysUnknown

log = structlog.get_logger(__name__)

_MOST_KEYS = 50
_LONGEST_ID = 128
_LEAST_RSA_BITS = 2048
_MOST_WAITING = 16
_LONGEST_WAIT_SECONDS = 3.0
PublicKey = EllipticCurvePublicKey | RSAPublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A public key and the one algorithm that it verifies."""

    id: str
    algorithm: str
    fingerprint: str
    public_key: PublicKey = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTerms:
    """How long what is known is trusted.

    Attributes:
        refresh_seconds: older lists are read again, beside the request that noticed.
        miss_seconds: between two readings, whatever they are asked for.
        stale_seconds: older lists open nothing.
    """

    refresh_seconds: float
    miss_seconds: float
    stale_seconds: float


class SigningKeys:
    """The keys as they were last read. Safe to share between threads."""

    def __init__(
        self,
        reader: KeyListReader,
        terms: KeyTerms,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = reader
        self._terms = terms
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._answered = threading.Condition(self._lock)
        self._waiting = 0
        self._keys: Mapping[str, SigningKey] = {}
        self._read_at: float | None = None
        self._asked_at: float | None = None
        self._is_asking = False
        self._last_failed = False

    def find(self, key_id: str) -> SigningKey | None:
        """Return the key with this id, None when there is none.

        Raises:
            SigningKeysUnknown: whether there is one cannot be told now.
        """
        key = self._usable(key_id)
        if key is not None:
            self._refresh()
            return key
        if self._claim():
            self._ask()
        else:
            self._await_answer()
        key = self._usable(key_id)
        if key is None and (self._is_asking or self._last_failed):
            raise SigningKeysUnknown()
        return key

    def is_current(self, key: SigningKey) -> bool:
        """Tell whether the key is still in the list; waits for nobody."""
        if self._usable(key.id) != key:
            return False
        self._refresh()
        return True

    def _refresh(self) -> None:
        """Have an old list read again, beside the request."""
        if self._age() >= self._terms.refresh_seconds and self._claim():
            threading.Thread(target=self._ask, name="user-keys", daemon=True).start()

    def _usable(self, key_id: str) -> SigningKey | None:
        return self._keys.get(key_id) if self._age() < self._terms.stale_seconds else None

    def _age(self) -> float:
        read_at = self._read_at
        return float("inf") if read_at is None else self._monotonic() - read_at

    def _claim(self) -> bool:
        """Tell whether the caller is the one who reads the list now."""
        with self._lock:
            now = self._monotonic()
            asked_at = self._asked_at
            if self._is_asking:
                return False
            if asked_at is not None and now - asked_at < self._terms.miss_seconds:
                return False
            self._is_asking, self._asked_at = True, now
            return True

    def _await_answer(self) -> None:
        """Wait for a reading that is under way, unless many do already: unknown keys are cheap."""
        with self._answered:
            if not self._is_asking or self._waiting >= _MOST_WAITING:
                return
            self._waiting += 1
            try:
                self._answered.wait_for(lambda: not self._is_asking, _LONGEST_WAIT_SECONDS)
            finally:
                self._waiting -= 1

    def _ask(self) -> None:
        failed = True
        try:
            keys = parse_key_list(self._reader.read())
            self._keys, self._read_at = keys, self._monotonic()
            failed = False
            log.debug("user_keys_read", keys=sorted(keys))
        except KeysUnreadable as error:
            log.warning("user_keys_unreadable", why=str(error))
        finally:
            with self._answered:
                self._is_asking, self._last_failed = False, failed
                self._answered.notify_all()


def parse_key_list(document: bytes) -> dict[str, SigningKey]:
    """Return the usable keys of a JWKS document by id (RFC 7517).

    What is not an ES256 or RS256 verification key with an id is left out: shared secrets, private
    keys, RSA below 2048 bits, other curves.

    Raises:
        KeysUnreadable: it is no such document.
    """
    try:
        value = json.loads(document)
        rows = value["keys"]
    except (ValueError, RecursionError, KeyError, TypeError) as exc:
        raise KeysUnreadable("the answer is not a list of keys") from exc
    if not isinstance(rows, list) or len(rows) > _MOST_KEYS:
        raise KeysUnreadable("the answer is not a list of keys")
    keys: dict[str, SigningKey] = {}
    for row in rows:
        key = _parse_key(row)
        if key is not None:
            keys.setdefault(key.id, key)
    return keys


def _parse_key(row: Any) -> SigningKey | None:
    if not isinstance(row, dict) or "d" in row or row.get("use", "sig") != "sig":
        return None
    key_id = row.get("kid")
    if not isinstance(key_id, str) or not 0 < len(key_id) <= _LONGEST_ID:
        return None
    try:
        algorithm, public_key = _public_key(row)
    except (PyJWTError, ValueError, TypeError, KeyError):
        return None
    if algorithm is None or public_key is None or row.get("alg", algorithm) != algorithm:
        return None
    der = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    fingerprint = hashlib.sha256(der).hexdigest()
    return SigningKey(
        id=key_id, algorithm=algorithm, fingerprint=fingerprint, public_key=public_key
    )


def _public_key(row: dict[str, Any]) -> tuple[str | None, PublicKey | None]:
    if row.get("kty") == "EC":
        curve = ECAlgorithm.from_jwk(row)
        if isinstance(curve, EllipticCurvePublicKey) and isinstance(curve.curve, SECP256R1):
            return "ES256", curve
    elif row.get("kty") == "RSA":
        rsa = RSAAlgorithm.from_jwk(row)
        if isinstance(rsa, RSAPublicKey) and rsa.key_size >= _LEAST_RSA_BITS:
            return "RS256", rsa
    return None, None
