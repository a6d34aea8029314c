"""The route of the status report."""

import math
from datetime import datetime
from typing import Annotated

from flask import Response
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from crm_whatsapp.domain.connection import Reason, Status, UserAction
from crm_whatsapp.domain.reports import Report, ReportHistory
from crm_whatsapp.web.auth import Scope, requires
from crm_whatsapp.web.field_types import CompanyId
from crm_whatsapp.web.json_answer import json_answer
from crm_whatsapp.web.request_context import current_principal, current_services
from crm_whatsapp.web.schemas import ErrorBody, Request
from crm_whatsapp.web.strict_blueprint import StrictBlueprint

_MOST_HOURS = 720


def _hours(value: object) -> int:
    if isinstance(value, int):
        return value  # the default
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 4:
        hours = int(value)
        if 1 <= hours <= _MOST_HOURS:
            return hours
    raise PydanticCustomError("crm_hours", "hours must be a whole number from 1 to 720.")


class ReportRequest(Request):
    """Which window, and whose."""

    hours: Annotated[int, BeforeValidator(_hours)] = Field(
        default=24,
        description="Length of the window that ends now, in hours: 1 to 720.",
        json_schema_extra={"minimum": 1, "maximum": _MOST_HOURS},
    )
    company_id: CompanyId | None = Field(
        default=None, description="Only this company; a company key sees its own in any case."
    )


class SessionCountsBody(BaseModel):
    """How many sessions there are now. should_run: those that people want connected."""

    total: int
    should_run: int
    by_status: dict[Status, int]


class WindowBody(BaseModel):
    """The time that the figures of the past are of."""

    since: datetime
    until: datetime


class RestoresBody(BaseModel):
    """Restores that ended in the window. success_rate: from 0 to 1, null when there were none."""

    attempted: int
    succeeded: int
    failed: int
    success_rate: float | None
    p50_seconds: float | None
    p95_seconds: float | None


class CompanyUptimeBody(BaseModel):
    """One session: connected time by wanted time."""

    company_id: str
    push_name: str | None
    percent: float
    connected_seconds: float
    wanted_seconds: float


class UptimeBody(BaseModel):
    """Over the sessions that should run. worst: the lowest five, worst first."""

    companies: int
    average_percent: float | None
    worst: list[CompanyUptimeBody]


class SnapshotsBody(BaseModel):
    """Over the linked sessions that should run. oldest_seconds: null when it is not known."""

    enabled: bool
    companies_covered: int
    without: int
    oldest_seconds: float | None


class ProblemBody(BaseModel):
    """A session that should be connected and is not."""

    company_id: str
    push_name: str | None
    status: Status
    reason: Reason
    since: datetime | None
    user_action: UserAction


class EnginesBody(BaseModel):
    """The engine processes of this pod. deaths: since its start."""

    total: int
    running: int
    deaths: int
    memory_mb: float


class DatabaseBody(BaseModel):
    """Whether the database can be used; detail: why not."""

    reachable: bool
    detail: str | None


class ReportBody(BaseModel):
    """How the sessions are, and how they have been.

    history, restores and uptime are null when the database cannot be read, as history_problem says.
    engines and database.detail are for service keys.
    """

    generated_at: datetime
    since: datetime
    hours: int
    company_id: str | None
    sessions: SessionCountsBody
    history: WindowBody | None
    history_problem: str | None
    restores: RestoresBody | None
    uptime: UptimeBody | None
    snapshots: SnapshotsBody
    problems: list[ProblemBody]
    engines: EnginesBody | None
    database: DatabaseBody


report_api = StrictBlueprint(
    "report_api",
    __name__,
    url_prefix="/api/whatsapp",
    abp_tags=[Tag(name="report", description="How the sessions are, and how they have been.")],
    abp_security=[{"api_key": []}, {"user_token": []}, {"dashboard": []}],
    abp_responses={400: ErrorBody, 401: ErrorBody, 403: ErrorBody, 503: ErrorBody},
)


@report_api.get("/report", summary="The status report", responses={200: ReportBody})
@requires(Scope.READ)
def get_report(query: ReportRequest) -> Response:
    """Tell how the sessions are and how they have been; a company key sees its own company.

    The past is read from the database, at most every ten seconds. Without it the present is told
    all the same, and `history` is null.
    """
    principal = current_principal()
    if query.company_id is not None:
        companies: frozenset[str] | None = frozenset({query.company_id})
    else:
        companies = principal.companies_where(Scope.READ)
    report = current_services().reports.report(hours=query.hours, companies=companies)
    return json_answer(_shown(report, query.hours, companies, is_service=principal.is_service))


def _shown(
    report: Report, hours: int, companies: frozenset[str] | None, *, is_service: bool
) -> ReportBody:
    history = report.history
    engines = report.engines
    return ReportBody(
        generated_at=report.generated_at,
        since=report.since,
        hours=hours,
        company_id=next(iter(companies)) if companies and len(companies) == 1 else None,
        sessions=SessionCountsBody(
            total=report.total, should_run=report.should_run, by_status=dict(report.by_status)
        ),
        history=WindowBody(since=history.since, until=history.until) if history else None,
        history_problem=report.history_problem,
        restores=_restores(history) if history else None,
        uptime=_uptime(history, report) if history else None,
        snapshots=SnapshotsBody(
            enabled=report.snapshots.enabled,
            companies_covered=report.snapshots.covered,
            without=report.snapshots.without,
            oldest_seconds=_rounded(report.snapshots.oldest_seconds),
        ),
        problems=[
            ProblemBody(
                company_id=item.connection.company_id,
                push_name=item.connection.push_name,
                status=item.connection.status,
                reason=item.connection.reason,
                since=item.since,
                user_action=item.connection.user_action,
            )
            for item in report.troubles
        ],
        engines=EnginesBody(
            total=engines.total,
            running=engines.running,
            deaths=engines.deaths,
            memory_mb=round(engines.memory_mb, 1),
        )
        if is_service
        else None,
        database=DatabaseBody(
            reachable=report.database_problem is None,
            detail=report.database_problem if is_service else None,
        ),
    )


def _restores(history: ReportHistory) -> RestoresBody:
    attempted = history.succeeded + history.failed
    return RestoresBody(
        attempted=attempted,
        succeeded=history.succeeded,
        failed=history.failed,
        success_rate=_cut(history.succeeded / attempted, 4) if attempted else None,
        p50_seconds=_rounded(history.p50_seconds),
        p95_seconds=_rounded(history.p95_seconds),
    )


def _uptime(history: ReportHistory, report: Report) -> UptimeBody:
    return UptimeBody(
        companies=history.companies,
        average_percent=None
        if history.average_percent is None
        else _cut(history.average_percent, 3),
        worst=[
            CompanyUptimeBody(
                company_id=item.company_id,
                push_name=report.names.get(item.company_id),
                percent=_cut(item.percent, 3),
                connected_seconds=round(item.connected_seconds, 3),
                wanted_seconds=round(item.wanted_seconds, 3),
            )
            for item in history.worst
        ],
    )


def _cut(value: float, digits: int) -> float:
    """Return a share that is not rounded up: all of it is told of all of it alone."""
    scale: float = 10.0**digits
    return math.floor(value * scale + 1e-6) / scale


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
