"""One registry for all figures of this process, and the page that a scraper gets."""

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest


class MetricsPage:
    """Renders the registry. Nothing is shared with prometheus-client's global registry."""

    def __init__(self) -> None:
        """Make the registry, with the figures of this process (process_*) in it."""
        # A `_created` beside each counter would double the page.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the page and its content type.

        Args:
            accept: the request's Accept header; OpenMetrics is spoken when it is asked for.
        """
        try:
            encode, content_type = choose_encoder(accept)
        except ValueError:  # a version that is no version
            encode, content_type = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
        return encode(self.registry), content_type
