"""Which companies a user of the CRM belongs to, as the CRM's own table says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from crm_whatsapp.domain.company import parse_company_id
from crm_whatsapp.domain.errors import InvalidInput, StoreRejected, StoreUnavailable

MOST_COMPANIES = 5_000

Roles = Mapping[str, frozenset[str]]
"""The roles of a user in each company; "" is a member without a role."""


class MembershipSource(StrEnum):
    """Whose the function is that decides."""

    OWN = "own"  # the CRM's
    OPEN = "open"  # the CRM's, but users may call it, about others too
    SHIPPED = "shipped"  # nobody has replaced it, so it knows nobody
    MISSING = "missing"  # it was dropped

    @property
    def decides(self) -> bool:
        """Tell whether its answer says anything about users."""
        return self in (MembershipSource.OWN, MembershipSource.OPEN)


class MembershipUnknown(StoreUnavailable):
    """Which companies this user belongs to cannot be told now; try again in a moment."""

    code = "membership-unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipAnswer:
    """What the database said. roles: empty for a user of no company."""

    source: MembershipSource
    roles: Roles = field(default_factory=dict)


class MembershipStore(Protocol):
    """Where memberships are. Raises StoreUnavailable or StoreRejected."""

    def read(self, user_id: str | None) -> MembershipAnswer:
        """Return the companies of a user; None asks for the source alone."""


def read_memberships(value: Any) -> MembershipAnswer:
    """Read an answer of whatsapp_memberships_v1.

    Raises:
        StoreRejected: it has another form, or more companies than one user may have here.
    """
    try:
        source = MembershipSource(value["source"])
        rows = list(value["companies"])
        if len(rows) > MOST_COMPANIES:
            raise StoreRejected(f"A user belongs to more than {MOST_COMPANIES} companies.")
        roles: dict[str, frozenset[str]] = {}
        for company, role in rows:
            if not isinstance(role, str):
                raise TypeError
            company_id = parse_company_id(company)
            known = roles.get(company_id, frozenset())
            roles[company_id] = known | {role}
    except (KeyError, TypeError, ValueError, InvalidInput) as exc:
        raise StoreRejected("The database gave an unknown answer about memberships.") from exc
    return MembershipAnswer(source=source, roles=roles)
