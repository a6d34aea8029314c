"""Leases: which pod may run a company's session."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One term of ownership.

    epoch: rises with every claim; a write under an older epoch is fenced off.
    trusted_until_monotonic: start of the claiming call + ttl - margin, on this process's
        monotonic clock, so that a slow answer or a wrong wall clock cannot lengthen it.
    """

    company_id: str
    owner_id: str
    epoch: int
    trusted_until_monotonic: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseClaim:
    """The answer for one company of a claim: granted, or held by somebody else."""

    company_id: str
    owner_id: str
    epoch: int
    granted: bool
    expires_in_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceReport:
    """What a pod tells with every tick."""

    instance_id: str
    started_at: datetime
    capacity: int
    session_count: int
    draining: bool
