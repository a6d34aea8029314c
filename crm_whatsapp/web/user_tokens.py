"""Users of the CRM: access tokens of Supabase Auth, checked here, without asking Supabase.

Which companies a user may reach, and in which role, is said by the token itself, or by a table of
the CRM's own.

Sources: RFC 7519 (claims), RFC 8725 (what goes wrong with JWTs), Supabase Auth's access tokens.
"""

import hashlib
import math
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

import jwt

from crm_whatsapp.domain.api_keys import Scope
from crm_whatsapp.domain.company import parse_company_id
from crm_whatsapp.domain.errors import InvalidInput
from crm_whatsapp.domain.memberships import Roles
from crm_whatsapp.service.signing_keys import PublicKey, SigningKey, SigningKeys
from crm_whatsapp.web.auth import PresentedCredentials, Principal
from crm_whatsapp.web.errors import Forbidden

_PREFIX = "user:"
_AUDIENCE = "authenticated"
_ROLE = "authenticated"
_LONGEST_TOKEN = 8_192
_LOOK = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_MOST_PROOFS = 4_096
_LATEST_SECONDS = 253_402_300_799  # the last second that datetime knows
_SHARED_SECRET = "HS256"  # noqa: S105 - the name of the algorithm
_NO_COMPANY = "This user belongs to no company."
_NO_ROLE = "This user's role opens nothing here."
_PUBLIC_KEYS = frozenset({"ES256", "RS256"})
# PyJWT checks the signature; the claims are checked here, with their types and one clock.
_SIGNATURE_ALONE: Any = {
    "verify_signature": True,
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class UserTerms:
    """What a token must say, and what it opens.

    Attributes:
        issuer: of tokens that are signed with a published key.
        shared_issuer: of tokens signed with the shared secret; None takes any.
        secret: the project's legacy JWT secret; None refuses HS256.
        company_claim, role_claim: paths through the claims.
        role_scopes: what each role may; "" is a user without a role.
        leeway_seconds: how far clocks may be apart.
    """

    issuer: str
    role_scopes: Mapping[str, frozenset[Scope]]
    shared_issuer: str | None = None
    secret: str | None = field(default=None, repr=False)
    company_claim: tuple[str, ...] = ("app_metadata", "company_id")
    role_claim: tuple[str, ...] = ("app_metadata", "whatsapp_role")
    leeway_seconds: float = 10.0


class Memberships(Protocol):
    """Which companies users belong to, where their tokens do not say it."""

    def roles_of(self, user_id: str) -> Roles:
        """Return the roles of a user in each company; raises MembershipUnknown."""


@dataclass(slots=True, kw_only=True)
class _Proof:
    """A token that was checked.

    Attributes:
        principal: who it is; of no company where memberships decide.
        key: what it was signed with; None is the shared secret.
        member: the memberships last seen, and who it is by them. One value, for threads share it.
    """

    principal: Principal
    key: SigningKey | None
    member: tuple[Roles, Principal] | None = None


class _Refused(Exception):
    """The token is not one of a signed-in user of this project, or no longer."""


def _now() -> datetime:
    return datetime.now(UTC)


class UserTokenAuthenticator:
    """Signed-in users of the Supabase project, each within their companies."""

    def __init__(
        self,
        keys: SigningKeys,
        terms: UserTerms,
        now: Callable[[], datetime] = _now,
        memberships: Memberships | None = None,
    ) -> None:
        """Know users by these keys.

        Args:
            memberships: decide instead of the claims; None leaves it to the claims.
        """
        self._keys = keys
        self._terms = terms
        self._now = now
        self._memberships = memberships
        self._lock = threading.Lock()
        self._proofs: OrderedDict[str, _Proof] = OrderedDict()

    def authenticate(self, presented: PresentedCredentials) -> Principal | None:
        """Return the user; None when the token is not valid, or a key was sent with it.

        Raises:
            Forbidden: a user of the project, but of no company, or with a role that opens nothing.
            SigningKeysUnknown: the keys cannot be read, so it cannot be told.
            MembershipUnknown: who it is is known, but not of which companies.
        """
        token = presented.bearer_token
        if token is None or presented.api_key is not None:
            return None
        if len(token) > _LONGEST_TOKEN or not _LOOK.fullmatch(token):
            return None
        digest = hashlib.sha256(token.encode()).hexdigest()[:32]
        known = self._find(digest)
        if known is not None:
            return self._as_of_now(known)
        try:
            proof = self._verify(token, digest)
        except _Refused:
            return None
        with self._lock:
            self._proofs[digest] = proof
            while len(self._proofs) > _MOST_PROOFS:
                self._proofs.popitem(last=False)
        return self._as_of_now(proof)

    def find_principal(self, principal_id: str) -> Principal | None:
        """Return the user again while the token that was shown is valid.

        Raises:
            MembershipUnknown: of which companies they are cannot be told.
        """
        if not principal_id.startswith(_PREFIX):
            return None
        proof = self._find(principal_id.rpartition(":")[2])
        if proof is None or proof.principal.id != principal_id:
            return None
        try:
            return self._as_of_now(proof)
        except Forbidden:
            return None

    def _as_of_now(self, proof: _Proof) -> Principal:
        """Return the user with what they may do where now."""
        if self._memberships is None:
            return proof.principal
        roles = self._memberships.roles_of(proof.principal.user_id or "")
        known = proof.member
        # The same object as long as nothing was asked anew: then there is nothing to work out.
        if known is None or known[0] is not roles:
            known = proof.member = (roles, self._member(proof.principal, roles))
        if not known[1].companies:
            raise Forbidden(_NO_ROLE if roles else _NO_COMPANY)
        return known[1]

    def _member(self, principal: Principal, roles: Roles) -> Principal:
        """Return the user with the scopes that their roles open in each company."""
        companies = {
            company_id: frozenset().union(
                *(self._terms.role_scopes.get(name, frozenset()) for name in names)
            )
            for company_id, names in roles.items()
        }
        reached = {company_id: scopes for company_id, scopes in companies.items() if scopes}
        return replace(principal, companies=reached, scopes=frozenset().union(*reached.values()))

    def _find(self, digest: str) -> _Proof | None:
        """Return what was found out about this token, unless it has ended or lost its key."""
        with self._lock:
            proof = self._proofs.get(digest)
            if proof is None:
                return None
            if self._is_valid(proof):
                self._proofs.move_to_end(digest)
                return proof
            del self._proofs[digest]
        return None

    def _is_valid(self, proof: _Proof) -> bool:
        expires_at = proof.principal.expires_at
        if expires_at is None or self._now().timestamp() >= (
            expires_at.timestamp() + self._terms.leeway_seconds
        ):
            return False
        return proof.key is None or self._keys.is_current(proof.key)

    def _verify(self, token: str, digest: str) -> _Proof:
        header = _header(token)
        algorithm = header["alg"]
        if algorithm == _SHARED_SECRET:
            if self._terms.secret is None:
                raise _Refused
            claims = _signed(token, self._terms.secret, _SHARED_SECRET)
            key, issuer = None, self._terms.shared_issuer
        elif algorithm in _PUBLIC_KEYS:
            key, issuer = self._key(header, algorithm), self._terms.issuer
            claims = _signed(token, key.public_key, key.algorithm)
        else:
            raise _Refused
        self._check(claims, issuer)
        principal = self._principal(claims, digest)
        if self._memberships is None:
            principal = self._claimed(principal, claims)
        return _Proof(principal=principal, key=key)

    def _key(self, header: Mapping[str, Any], algorithm: str) -> SigningKey:
        key_id = header.get("kid")
        key = self._keys.find(key_id) if isinstance(key_id, str) else None
        # A key verifies its own algorithm alone, whatever the header wishes (RFC 8725, 3.1).
        if key is None or key.algorithm != algorithm:
            raise _Refused
        return key

    def _check(self, claims: Mapping[str, Any], issuer: str | None) -> None:
        """Refuse what is not the token of a signed-in user, now."""
        now, leeway = self._now().timestamp(), self._terms.leeway_seconds
        expires, issued = _seconds(claims, "exp"), _seconds(claims, "iat")
        begins = _seconds(claims, "nbf") if "nbf" in claims else issued
        is_now = now < expires + leeway and max(issued, begins) <= now + leeway
        is_user = (
            claims.get("role") == _ROLE
            and claims.get("aud") == _AUDIENCE
            and claims.get("is_anonymous", False) is False
            and (issuer is None or claims.get("iss") == issuer)
        )
        if not is_now or not is_user:
            raise _Refused

    def _principal(self, claims: Mapping[str, Any], digest: str) -> Principal:
        try:
            user_id = parse_company_id(claims.get("sub"), field="sub")
        except InvalidInput as exc:
            raise _Refused from exc
        return Principal(
            id=f"{_PREFIX}{user_id}:{digest}",
            scopes=frozenset(),
            companies={},
            expires_at=datetime.fromtimestamp(_seconds(claims, "exp"), UTC),
            user_id=user_id,
        )

    def _claimed(self, principal: Principal, claims: Mapping[str, Any]) -> Principal:
        """Return the user with what the token itself says of company and role."""
        try:
            company_id = parse_company_id(_at(claims, self._terms.company_claim))
        except InvalidInput as exc:
            raise Forbidden(_NO_COMPANY) from exc
        role = _at(claims, self._terms.role_claim)
        name = "" if role is None else role
        scopes = self._terms.role_scopes.get(name) if isinstance(name, str) else None
        if not scopes:
            raise Forbidden(_NO_ROLE)
        return replace(principal, scopes=scopes, companies={company_id: scopes})


def _header(token: str) -> dict[str, Any]:
    """Return the header of a token, which nobody has vouched for yet."""
    try:
        header: dict[str, Any] = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as exc:
        raise _Refused from exc
    # Extensions that must be understood, and detached or unencoded payloads: nobody sends them.
    if "crit" in header or "b64" in header or header.get("typ", "JWT") != "JWT":
        raise _Refused
    if not isinstance(header.get("alg"), str):
        raise _Refused
    return header


def _signed(token: str, key: str | PublicKey, algorithm: str) -> dict[str, Any]:
    try:
        claims: dict[str, Any] = jwt.decode(
            token, key, algorithms=[algorithm], options=_SIGNATURE_ALONE
        )
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as exc:
        raise _Refused from exc
    return claims


def _seconds(claims: Mapping[str, Any], name: str) -> float:
    """Return a time of the claims, in seconds since 1970."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Refused
    if not math.isfinite(value) or not 0 <= value <= _LATEST_SECONDS:
        raise _Refused
    return float(value)


def _at(claims: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = claims
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value
