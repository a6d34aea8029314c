"""The routes of those who run the service."""

from typing import Any

from flask import Response, jsonify
from flask_openapi3.models.tag import Tag

from crm_whatsapp.web.auth import public
from crm_whatsapp.web.errors import NotReady
from crm_whatsapp.web.request_context import current_services
from crm_whatsapp.web.schemas import ErrorBody, HealthBody, ReadinessBody
from crm_whatsapp.web.services import ReadinessReport
from crm_whatsapp.web.strict_blueprint import StrictBlueprint

operations_api = StrictBlueprint(
    "operations_api",
    __name__,
    abp_tags=[Tag(name="operations", description="For load balancers and operators.")],
    abp_responses={400: ErrorBody, 503: ErrorBody},
)


@operations_api.get("/healthz", summary="Does the process live?", responses={200: HealthBody})
@public
def get_health() -> Response:
    """Answer as long as the process serves requests at all."""
    return jsonify(HealthBody().model_dump())


@operations_api.get("/readyz", summary="Can it serve?", responses={200: ReadinessBody})
@public
def get_readiness() -> Response:
    """Answer 200, also when degraded, unless it cannot serve; per-check detail."""
    body = _readiness(current_services().readiness.report())
    if not body["ready"]:
        raise NotReady(**body)
    return jsonify(body)


def _readiness(report: ReadinessReport) -> dict[str, Any]:
    return {
        "ready": report.ready,
        "degraded": report.degraded,
        "checks": [
            {**check.data, "name": check.name, "ok": check.ok, "detail": check.detail}
            for check in report.checks
        ],
    }
