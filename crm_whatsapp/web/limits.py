"""How often callers may call, and what they are told about it.

Reads, sends and managing are counted apart, by the scope of the route:

- each caller, for one company: a key or a user has its own
- each company, whoever calls for it
- each caller of many companies, a service key above all, for all of them together

Wrong keys are counted by the client's address. A good key is let in whatever its neighbours do: it
is looked up before anything is counted.

Headers: `RateLimit` and `RateLimit-Policy`, draft-ietf-httpapi-ratelimit-headers-10.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from crm_whatsapp.domain.api_keys import Scope
from crm_whatsapp.domain.errors import RateLimited
from crm_whatsapp.web.auth import Principal
from crm_whatsapp.web.token_buckets import Quota, Taken, TokenBuckets, Wish

MOST_CALLERS = 20_000
MOST_ADDRESSES = 10_000
_NETWORK_BITS = 64
_UNKNOWN_ADDRESS = "unknown"
_Wishes = tuple[Wish, ...]
_WORDS = {Scope.READ: "reads", Scope.SEND: "sends", Scope.MANAGE: "manage"}
_CALLS = {Scope.READ: "reads", Scope.SEND: "sends", Scope.MANAGE: "calls that manage"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitTerms:
    """How much is allowed; 0 switches a limit off.

    company_factor: all callers of a company together, as a multiple of one caller.
    all_companies_factor: one caller for all companies together, likewise.
    """

    reads_per_minute: int = 0
    sends_per_minute: int = 0
    manage_per_minute: int = 0
    company_factor: int = 5
    all_companies_factor: int = 100
    failed_logins_per_minute: int = 0


NO_LIMITS = LimitTerms()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quotas:
    """What applies to the calls of one scope."""

    caller: Quota
    company: Quota
    all_companies: Quota
    calls: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A call that was let in so far, and what it took.

    awaits_company: the caller has many companies; whom the call is for is yet to be counted.
    """

    taken: Taken
    wishes: tuple[Wish, ...]
    awaits_company: bool = False

    def headers(self) -> dict[str, str]:
        """Return what the caller is told."""
        return _headers(self.taken)


class RequestLimits:
    """Lets calls in, or raises RateLimited. Thread-safe; knows nothing of other pods."""

    def __init__(self, terms: LimitTerms, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._quotas = _quotas(terms)
        failures = terms.failed_logins_per_minute
        self._failures = Quota(name="failed-logins", amount=failures) if failures else None
        self._callers = TokenBuckets(most=MOST_CALLERS, now_ns=now_ns)
        self._addresses = TokenBuckets(most=MOST_ADDRESSES, now_ns=now_ns)

    def enter(self, principal: Principal, scope: Scope) -> Entry | None:
        """Count a call of somebody who may make it, before anything is done for it.

        Returns:
            None when calls like this are not limited.
        """
        quotas = self._quotas.get(scope)
        if quotas is None:
            return None
        if principal.companies is not None and len(principal.companies) == 1:
            company = next(iter(principal.companies))
            return Entry(*self._take(quotas, _for_company(quotas, principal.holder, company)))
        name = quotas.all_companies.name
        wish = ((name, principal.holder), quotas.all_companies)
        return Entry(*self._take(quotas, (wish,)), awaits_company=True)

    def enter_company(
        self, entry: Entry, principal: Principal, scope: Scope, company: str
    ) -> Entry:
        """Count whom a call is for, once that is known.

        Args:
            company: empty for calls that are for no company in particular.
        """
        quotas = self._quotas[scope]
        try:
            taken, wishes = self._take(quotas, _for_company(quotas, principal.holder, company))
        except RateLimited:
            self._callers.put_back(entry.wishes)
            raise
        nearer = min(entry.taken, taken, key=lambda it: it.left / it.quota.amount)
        return Entry(nearer, (*entry.wishes, *wishes))

    def note_wrong_key(self, address: str | None) -> None:
        """Count a wrong key or token.

        Raises:
            RateLimited: this address has shown too many.
        """
        if self._failures is None:
            return
        wish = (("failed-logins", client_network(address)), self._failures)
        taken = self._addresses.take((wish,))
        if taken.wait_seconds:
            raise _refusal(taken, "Too many wrong keys came from your address.")

    def _take(self, quotas: _Quotas, wishes: _Wishes) -> tuple[Taken, _Wishes]:
        taken = self._callers.take(wishes)
        if taken.wait_seconds:
            raise _refusal(taken, _why(quotas, taken.quota))
        return taken, wishes


def client_network(address: str | None) -> str:
    """Return whom an address counts for: itself, or the /64 that one IPv6 customer has.

    Args:
        address: as the socket or a proxy tells it; some proxies add a port.
    """
    text = (address or "").strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return _UNKNOWN_ADDRESS
    if not isinstance(found, IPv6Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(IPv6Address(int(found) >> _NETWORK_BITS << _NETWORK_BITS))


def _quotas(terms: LimitTerms) -> Mapping[Scope, _Quotas]:
    amounts = {
        Scope.READ: terms.reads_per_minute,
        Scope.SEND: terms.sends_per_minute,
        Scope.MANAGE: terms.manage_per_minute,
    }
    return {
        scope: _Quotas(
            caller=Quota(name=_WORDS[scope], amount=amount),
            company=Quota(name=f"company-{_WORDS[scope]}", amount=amount * terms.company_factor),
            all_companies=Quota(
                name=f"all-companies-{_WORDS[scope]}", amount=amount * terms.all_companies_factor
            ),
            calls=_CALLS[scope],
        )
        for scope, amount in amounts.items()
        if amount
    }


def _for_company(quotas: _Quotas, holder: str, company: str) -> _Wishes:
    caller = ((quotas.caller.name, holder, company), quotas.caller)
    if not company:
        return (caller,)
    return caller, ((quotas.company.name, company), quotas.company)


def _why(quotas: _Quotas, quota: Quota) -> str:
    whose = {
        quotas.caller.name: "one caller may make for a company",
        quotas.company.name: "all callers together may make for a company",
        quotas.all_companies.name: "one caller may make for all companies",
    }[quota.name]
    return f"More than the {quota.amount} {quotas.calls} a minute that {whose}."


def _refusal(taken: Taken, why: str) -> RateLimited:
    wait = taken.wait_seconds
    return RateLimited(
        f"{why} Try again in {wait} second{'' if wait == 1 else 's'}.",
        limit=taken.quota.name,
        retry_after_seconds=wait,
        headers=_headers(taken),
    )


def _headers(taken: Taken) -> dict[str, str]:
    quota = taken.quota
    return {
        "RateLimit-Policy": f'"{quota.name}";q={quota.amount};w={quota.seconds}',
        "RateLimit": f'"{quota.name}";r={taken.left};t={taken.wait_seconds or taken.full_seconds}',
    }
