"""Who is calling, and what they may do.

Every route declares the scope it needs; a route that declares nothing is refused.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from crm_whatsapp.domain.api_keys import ApiKey, Scope
from crm_whatsapp.web.errors import Forbidden

__all__ = [
    "METRICS_READER",
    "Access",
    "ApiKeyAuthenticator",
    "Authenticator",
    "CompanyKeeping",
    "CompositeAuthenticator",
    "KeyRingAuthenticator",
    "PresentedCredentials",
    "Principal",
    "Scope",
    "declared_access",
    "hash_api_key",
    "public",
    "requires",
]

_ACCESS = "crm_whatsapp_access"
_View = TypeVar("_View", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A caller who proved who they are.

    id: stable and not secret; finds the same caller again as long as the credential is valid.
    scopes: what they may do, in one company at least.
    companies: what they may do in each company within reach; None reaches all of them (a service
        key).
    expires_at: when the credential ends by itself; None when it does not.
    makes_keys: may list, make and revoke API keys, given the scope manage. Not said of credentials
        that a browser holds: a key outlives them.
    user_id: the user of the CRM whose token this is; None for keys.
    """

    id: str
    scopes: frozenset[Scope]
    companies: Mapping[str, frozenset[Scope]] | None = None
    expires_at: datetime | None = None
    makes_keys: bool = False
    user_id: str | None = None

    @property
    def holder(self) -> str:
        """Whose limits count: a user has many tokens, one after another."""
        return self.id if self.user_id is None else f"user:{self.user_id}"

    @property
    def is_service(self) -> bool:
        return self.companies is None

    def may(self, scope: Scope, company_id: str | None) -> bool:
        """Tell whether they may do this in a company; None is what belongs to all of them."""
        if self.companies is None:
            return scope in self.scopes
        return company_id is not None and scope in self.companies.get(company_id, frozenset())

    def companies_where(self, scope: Scope) -> frozenset[str] | None:
        """Return the companies in which they may do this; None: all of them."""
        if self.companies is None:
            return None if scope in self.scopes else frozenset()
        return frozenset(
            company_id for company_id, scopes in self.companies.items() if scope in scopes
        )

    def within(self, company_id: str) -> "Principal":
        """Return the caller as they are in this company, with nothing beyond it.

        Raises:
            Forbidden: it is not within reach.
        """
        if self.companies is None:
            return self
        scopes = self.companies.get(company_id)
        if scopes is None:
            raise Forbidden(
                "This key belongs to another company."
                if self.user_id is None
                else "This user does not belong to that company."
            )
        return replace(self, scopes=scopes, companies={company_id: scopes})

    def only_company(self) -> str | None:
        """Return the one company within reach; None: all of them.

        Raises:
            Forbidden: there are several, and they are no single one.
        """
        if self.companies is None:
            return None
        if len(self.companies) != 1:
            raise Forbidden("This is asked of one company. Name it: company_id.")
        return next(iter(self.companies))

    def require_scope(self, scope: Scope) -> None:
        """Raise Forbidden unless they may do this somewhere."""
        if scope not in self.scopes:
            who = "key" if self.user_id is None else "user"
            raise Forbidden(f"This {who} lacks the scope {scope.value}.")

    def require_service(self, what: str) -> None:
        """Raise Forbidden unless this is a service key."""
        if not self.is_service:
            raise Forbidden(f"{what} needs a service key.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentedCredentials:
    """What a request carries, unchecked."""

    api_key: str | None = None
    bearer_token: str | None = None


METRICS_READER = Principal(id="metrics-token", scopes=frozenset({Scope.READ}))
"""Who presents METRICS_TOKEN; made only for routes that take it."""


class Authenticator(Protocol):
    """Turns credentials into a principal."""

    def authenticate(self, presented: PresentedCredentials) -> Principal | None:
        """Return who presents these credentials, None when they are not valid."""

    def find_principal(self, principal_id: str) -> Principal | None:
        """Return the principal again, None once its credential is no longer valid."""


def hash_api_key(key: str) -> str:
    """Return what is kept of a key: SHA-256, hex. Keys are long and random, so no salt."""
    return hashlib.sha256(key.encode()).hexdigest()


class ApiKeyAuthenticator:
    """Service keys of the configuration, known by their hashes; valid without a database."""

    def __init__(self, key_hashes: Iterable[str]) -> None:
        self._principals = {
            key_hash.lower(): Principal(
                id=hashlib.sha256(f"principal:{key_hash.lower()}".encode()).hexdigest()[:32],
                scopes=frozenset(Scope),
                makes_keys=True,
            )
            for key_hash in key_hashes
        }

    def authenticate(self, presented: PresentedCredentials) -> Principal | None:
        if presented.api_key is None:
            return None
        # Headers arrive decoded as latin-1: back to the bytes that were sent.
        raw = presented.api_key.encode("latin-1", errors="replace")
        digest = hashlib.sha256(raw).hexdigest()
        found = None
        for key_hash, principal in self._principals.items():
            if hmac.compare_digest(key_hash, digest):
                found = principal
        return found

    def find_principal(self, principal_id: str) -> Principal | None:
        return next((p for p in self._principals.values() if p.id == principal_id), None)


class KeyRing(Protocol):
    """The keys that the API and the command line make."""

    def authenticate(self, text: str) -> ApiKey | None:
        """Return the valid key with this text; raises KeysUnknown while none could be read."""

    def find(self, key_id: str) -> ApiKey | None:
        """Return the key if it is valid."""


class KeyRingAuthenticator:
    """Service and company keys of the key ring."""

    _PREFIX = "key:"

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring

    def authenticate(self, presented: PresentedCredentials) -> Principal | None:
        key = self._ring.authenticate(presented.api_key) if presented.api_key else None
        return self._principal(key)

    def find_principal(self, principal_id: str) -> Principal | None:
        if not principal_id.startswith(self._PREFIX):
            return None
        return self._principal(self._ring.find(principal_id.removeprefix(self._PREFIX)))

    def _principal(self, key: ApiKey | None) -> Principal | None:
        if key is None:
            return None
        return Principal(
            id=self._PREFIX + key.id,
            scopes=key.scopes,
            companies=None if key.company_id is None else {key.company_id: key.scopes},
            expires_at=key.expires_at,
            makes_keys=True,
        )


class CompositeAuthenticator:
    """Asks one after another; the first that recognises the credential answers."""

    def __init__(self, authenticators: Iterable[Authenticator]) -> None:
        self._authenticators = tuple(authenticators)

    def authenticate(self, presented: PresentedCredentials) -> Principal | None:
        for authenticator in self._authenticators:
            if (principal := authenticator.authenticate(presented)) is not None:
                return principal
        return None

    def find_principal(self, principal_id: str) -> Principal | None:
        for authenticator in self._authenticators:
            if (principal := authenticator.find_principal(principal_id)) is not None:
                return principal
        return None


class CompanyKeeping(StrEnum):
    """How a route without a company_id in its models keeps companies apart."""

    SHOWS_OWN = "shows-own"  # a collection: a company key is shown its own rows
    BY_RESOURCE = "by-resource"  # the view looks whose thing the path names
    SERVICE_ONLY = "service-only"  # the view asks for a service key
    NOT_OF_COMPANIES = "not-of-companies"  # says and does nothing about any company


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a route asks of its caller.

    scope: None is open to everybody.
    is_page: a page for people: without a login they are sent to the login page.
    takes_metrics_token: METRICS_TOKEN as a bearer token opens it too.
    keeping: how companies are kept apart; None leaves it to the company_id in the models, which
        StrictBlueprint checks.
    """

    scope: Scope | None
    is_page: bool = False
    takes_metrics_token: bool = False
    keeping: CompanyKeeping | None = None


def public(view: _View) -> _View:
    """Declare a route open to everybody."""
    return _declare(view, Access(scope=None))


def requires(
    scope: Scope,
    *,
    is_page: bool = False,
    takes_metrics_token: bool = False,
    keeping: CompanyKeeping | None = None,
) -> Callable[[_View], _View]:
    """Declare the scope that a route needs, and how it keeps companies apart."""
    access = Access(
        scope=scope, is_page=is_page, takes_metrics_token=takes_metrics_token, keeping=keeping
    )
    return lambda view: _declare(view, access)


def declared_access(view: Callable[..., Any]) -> Access | None:
    """Return what the route declares; None when somebody forgot to."""
    access = getattr(view, _ACCESS, None)
    return access if isinstance(access, Access) else None


def _declare(view: _View, access: Access) -> _View:
    setattr(view, _ACCESS, access)
    return view
