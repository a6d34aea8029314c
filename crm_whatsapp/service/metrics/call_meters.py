"""Counts of calls: those the service answers, and those it makes to the database."""

from prometheus_client import CollectorRegistry, Counter, Histogram

OTHER = "other"
_WHOSE = ("", "company-", "all-companies-")

LIMITS = (
    *(f"{whose}{calls}" for calls in ("reads", "sends", "manage") for whose in _WHOSE),
    "failed-logins",
    "pairings",
)

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_HTTP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)
_DATABASE_BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)


class HttpMeter:
    """Counts requests by the template of their route, never by their path."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "whatsapp_http_requests",
            "HTTP requests answered.",
            ["route", "method", "status"],
            registry=registry,
        )
        self._durations = Histogram(
            "whatsapp_http_request_duration_seconds",
            "Time from the request to the head of its answer.",
            ["route", "method"],
            buckets=_HTTP_BUCKETS,
            registry=registry,
        )

    def note(self, route: str | None, method: str, status_code: int, seconds: float) -> None:
        """Count an answer.

        Args:
            route: the template, such as `/api/whatsapp/sessions/<company_id>`; None when no route
                matched.
        """
        template = route or OTHER
        verb = method if method in _METHODS else OTHER
        self._requests.labels(template, verb, f"{status_code // 100}xx").inc()
        self._durations.labels(template, verb).observe(seconds)


class LimitMeter:
    """Counts what limits refuse, by the limit: not by whom, of whom there may be any number."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._refused = Counter(
            "whatsapp_http_limited",
            "Calls refused because there were too many, by the limit that they met.",
            ["limit"],
            registry=registry,
        )
        for word in LIMITS:
            self._refused.labels(word)

    def note(self, limit: str) -> None:
        """Count a refusal."""
        self._refused.labels(limit if limit in LIMITS else OTHER).inc()


class DatabaseMeter:
    """Counts HTTP calls to the database by SQL function or table."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "whatsapp_database_calls",
            "Calls to the database; outcome is ok, unavailable or rejected.",
            ["call", "outcome"],
            registry=registry,
        )
        self._durations = Histogram(
            "whatsapp_database_call_duration_seconds",
            "Time of a call to the database, whatever its outcome.",
            ["call"],
            buckets=_DATABASE_BUCKETS,
            registry=registry,
        )

    def note(self, call: str, outcome: str, seconds: float) -> None:
        """Count a call.

        Args:
            call: the SQL function or the table.
            outcome: ok; unavailable, trying again can help; rejected, it cannot.
        """
        self._calls.labels(call, outcome).inc()
        self._durations.labels(call).observe(seconds)
