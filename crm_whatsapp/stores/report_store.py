"""The past, as the status report tells it: one call."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from supabase import Client

from crm_whatsapp.domain.errors import StoreRejected
from crm_whatsapp.domain.reports import CompanyUptime, ReportHistory
from crm_whatsapp.stores.supabase_client import DatabaseCalls


class SupabaseReportStore:
    """The ReportStore on PostgREST."""

    def __init__(self, client: Client) -> None:
        self._calls = DatabaseCalls(client)

    def read(
        self,
        since: datetime,
        until: datetime,
        *,
        company_ids: Sequence[str],
        running_ids: Sequence[str],
        worst: int,
    ) -> ReportHistory:
        """Return what happened from since to until; see ReportStore.

        Raises:
            StoreUnavailable, StoreRejected: as ConnectionStore.

        Source:
            migrations: whatsapp_report_v1.
        """
        answer = self._calls.repeatable(
            "whatsapp_report_v1",
            {
                "p_since": since.isoformat(),
                "p_until": until.isoformat(),
                "p_company_ids": list(company_ids),
                "p_running_ids": list(running_ids),
                "p_worst": worst,
            },
        )
        try:
            return _history(answer, since, until)
        except (KeyError, TypeError, ValueError) as exc:
            raise StoreRejected("The database gave a report of another form.") from exc


def _history(answer: Any, since: datetime, until: datetime) -> ReportHistory:
    restores, uptime, snapshots = answer["restores"], answer["uptime"], answer["snapshots"]
    oldest = snapshots["oldest_at"]
    return ReportHistory(
        since=since,
        until=until,
        succeeded=int(restores["succeeded"]),
        failed=int(restores["failed"]),
        p50_seconds=_number(restores["p50_seconds"]),
        p95_seconds=_number(restores["p95_seconds"]),
        companies=int(uptime["companies"]),
        average_percent=_number(uptime["average_percent"]),
        worst=tuple(
            CompanyUptime(
                company_id=str(item["company_id"]),
                percent=float(item["percent"]),
                connected_seconds=float(item["connected_seconds"]),
                wanted_seconds=float(item["wanted_seconds"]),
            )
            for item in answer["worst"]
        ),
        snapshot_companies=int(snapshots["companies"]),
        oldest_snapshot_at=datetime.fromisoformat(oldest).astimezone(UTC) if oldest else None,
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
