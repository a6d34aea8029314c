"""Leases in Supabase, decided on the database clock."""

import math
from collections.abc import Sequence
from typing import Any

from supabase import Client

from crm_whatsapp.domain.errors import StoreRejected
from crm_whatsapp.domain.leases import InstanceReport, Lease, LeaseClaim
from crm_whatsapp.stores.connection_record import time_text
from crm_whatsapp.stores.supabase_client import DatabaseCalls


class SupabaseLeaseStore:
    """The LeaseStore on PostgREST."""

    def __init__(self, client: Client) -> None:
        self._calls = DatabaseCalls(client)

    def claim(
        self, owner_id: str, company_ids: Sequence[str], ttl_seconds: float
    ) -> list[LeaseClaim]:
        """Claim what is free, expired or already ours, each under a higher epoch.

        Made once: when the answer is lost the claim may hold, and it is left to lapse.

        Args:
            ttl_seconds: on the database clock, 0 < ttl <= 300.

        Source:
            migrations: whatsapp_claim_leases_v2.
        """
        if not company_ids:
            return []
        answer = self._calls.once(
            "whatsapp_claim_leases_v2",
            {
                "p_owner": owner_id,
                "p_company_ids": list(company_ids),
                "p_ttl_seconds": ttl_seconds,
            },
        )
        return [_claim(row, granted=row.get("granted") is True) for row in _rows(answer)]

    def tick(
        self, report: InstanceReport, leases: Sequence[Lease], ttl_seconds: float
    ) -> list[LeaseClaim]:
        """Renew exactly these terms and record the heartbeat; a missing one is lost.

        Safe to repeat: a term that was renewed already is renewed again, under the same epoch.

        Source:
            migrations: whatsapp_tick_v1.
        """
        answer = self._calls.repeatable(
            "whatsapp_tick_v1",
            {
                "p_instance": {
                    "instance_id": report.instance_id,
                    "started_at": time_text(report.started_at),
                    "capacity": report.capacity,
                    "session_count": report.session_count,
                    "draining": report.draining,
                },
                "p_leases": _terms(leases),
                "p_ttl_seconds": ttl_seconds,
            },
        )
        renewed = answer.get("renewed") if isinstance(answer, dict) else None
        return [
            _claim({"owner_id": report.instance_id, **row}, granted=True) for row in _rows(renewed)
        ]

    def release(self, owner_id: str, leases: Sequence[Lease]) -> None:
        """Let these terms end now; one that is lost already is no error."""
        if leases:
            self._calls.repeatable(
                "whatsapp_release_leases_v1", {"p_owner": owner_id, "p_leases": _terms(leases)}
            )


def _terms(leases: Sequence[Lease]) -> list[dict[str, Any]]:
    return [{"company_id": lease.company_id, "epoch": lease.epoch} for lease in leases]


def _rows(answer: Any) -> list[dict[str, Any]]:
    if not isinstance(answer, list) or not all(isinstance(row, dict) for row in answer):
        raise StoreRejected("The database gave an unknown answer about leases.")
    return answer


def _claim(row: dict[str, Any], *, granted: bool) -> LeaseClaim:
    try:
        seconds = float(row["expires_in_seconds"])
        return LeaseClaim(
            company_id=str(row["company_id"]),
            owner_id=str(row["owner_id"]),
            epoch=int(row["epoch"]),
            granted=granted,
            expires_in_seconds=max(0.0, seconds) if math.isfinite(seconds) else 0.0,
            snapshot_epoch=_number(row.get("snapshot_epoch")),
            snapshot_seq=_number(row.get("snapshot_seq")),
            last_version=_number(row.get("last_version")) or 0,
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise StoreRejected("The database gave an unknown answer about a lease.") from exc


def _number(raw: Any) -> int | None:
    return None if raw is None else int(raw)
