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
    """The answer for one company of a claim: granted, or held by somebody else.

    The rest only a claim tells, not a renewal:
    snapshot_epoch, snapshot_seq: the newest live snapshot; None when there is none. Under a
        granted claim nothing older than the claim can be added any more.
    last_version: the newest version known of the company, 0 when it is unknown.
    """

    company_id: str
    owner_id: str
    epoch: int
    granted: bool
    expires_in_seconds: float
    snapshot_epoch: int | None = None
    snapshot_seq: int | None = None
    last_version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceReport:
    """What a pod tells with every tick."""

    instance_id: str
    started_at: datetime
    capacity: int
    session_count: int
    draining: bool
