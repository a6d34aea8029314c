"""All figures of this process in one registry, and the page that a scraper gets."""

from functools import partial

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest
from prometheus_client.openmetrics.exposition import ALLOWUTF8

from crm_whatsapp.domain.ports import Clock
from crm_whatsapp.service.metrics.call_meters import DatabaseMeter, HttpMeter, LimitMeter
from crm_whatsapp.service.metrics.session_meter import SessionMeter
from crm_whatsapp.service.metrics.state_collector import Observed, StateCollector


class ServiceMetrics:
    """Made before the other parts, so that they can count; told of them when they are there.

    Attributes:
        sessions: a listener of the recorder.
        database: hears of every call to the database.
    """

    def __init__(self, clock: Clock) -> None:
        """Make a registry of its own: prometheus-client's global one is not used."""
        # A `_created` beside each counter would double the page.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._http = HttpMeter(self._registry)
        self._limits = LimitMeter(self._registry)
        self.sessions = SessionMeter(self._registry, clock)
        self.database = DatabaseMeter(self._registry)
        ProcessCollector(registry=self._registry)

    def observe(self, observed: Observed) -> StateCollector:
        """Read these parts at every scrape from now on; more may be added to what is returned."""
        collector = StateCollector(observed)
        self._registry.register(collector)
        return collector

    def note_request(
        self, route: str | None, method: str, status_code: int, seconds: float
    ) -> None:
        """Count an HTTP request; see HttpMeter."""
        self._http.note(route, method, status_code, seconds)

    def note_limited(self, limit: str) -> None:
        """Count a call that a limit refused; see LimitMeter."""
        self._limits.note(limit)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the page and its content type.

        Args:
            accept: the request's Accept header; OpenMetrics is spoken when it is asked for.
        """
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # the library compares versions that are none
            encode, content_type = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
        if isinstance(encode, partial):
            # Names here are legal in every scheme: nothing is to be escaped, letter by letter.
            encode = partial(encode, escaping=ALLOWUTF8)
        return encode(self._registry), content_type
