"""The page for Prometheus."""

from flask import Response, request
from flask_openapi3.models.tag import Tag

from crm_whatsapp.web.auth import CompanyKeeping, Scope, requires
from crm_whatsapp.web.request_context import current_principal, current_services
from crm_whatsapp.web.schemas import ErrorBody
from crm_whatsapp.web.strict_blueprint import StrictBlueprint

metrics_api = StrictBlueprint(
    "metrics_api",
    __name__,
    abp_tags=[Tag(name="operations", description="For load balancers and operators.")],
    abp_security=[{"metrics_token": []}, {"api_key": []}],
    abp_responses={400: ErrorBody, 401: ErrorBody, 403: ErrorBody, 503: ErrorBody},
)


@metrics_api.get(
    "/metrics",
    summary="Figures for Prometheus",
    responses={
        200: {
            "description": "The text format, or OpenMetrics when it is asked for.",
            "content": {
                "text/plain": {"schema": {"type": "string"}},
                "application/openmetrics-text": {"schema": {"type": "string"}},
            },
        }
    },
)
@requires(Scope.READ, takes_metrics_token=True, keeping=CompanyKeeping.SERVICE_ONLY)
def get_metrics() -> Response:
    """Answer from memory. Needs METRICS_TOKEN as a bearer token, or a service key."""
    current_principal().require_service("The page of metrics")
    page, content_type = current_services().metrics.render(request.headers.get("Accept", ""))
    return Response(page, content_type=content_type)
