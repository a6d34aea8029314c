"""The event stream, and the terms on which clients are served."""

from crm_whatsapp.config import Settings
from crm_whatsapp.domain.ports import Clock
from crm_whatsapp.service.event_stream import EventStream, StreamLimits
from crm_whatsapp.web.services import StreamTerms


def build_events(settings: Settings, clock: Clock) -> EventStream:
    """Make the stream; it starts nothing."""
    limits = StreamLimits(
        streams=settings.sse_max_streams,
        streams_per_principal=settings.sse_max_streams_per_key,
        buffer_events=settings.sse_buffer_events,
        buffer_bytes=settings.sse_buffer_mb * 1024 * 1024,
        client_events=settings.sse_client_events,
    )
    return EventStream(limits, clock)


def stream_terms(settings: Settings) -> StreamTerms:
    """Return what one stream is given."""
    return StreamTerms(
        heartbeat_seconds=settings.sse_heartbeat_seconds,
        longest_seconds=settings.sse_max_seconds,
        patience_seconds=settings.sse_patience_seconds,
        retry_seconds=settings.sse_retry_seconds,
    )
