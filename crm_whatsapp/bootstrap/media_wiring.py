"""The pieces that send attachments."""

from crm_whatsapp.config import Settings
from crm_whatsapp.domain.engines import EngineFleet
from crm_whatsapp.domain.media import MediaKind, MediaLimits
from crm_whatsapp.media_settings import media_address_guard
from crm_whatsapp.outbound.media_fetcher import FetchLimits, HttpMediaFetcher
from crm_whatsapp.service.media_messaging import MediaMessaging
from crm_whatsapp.service.messaging import Messaging
from crm_whatsapp.sessions.media_files import LocalMediaFiles
from crm_whatsapp.web.services import LargeBodyTerms

_MB = 1024 * 1024


def build_attachments(
    settings: Settings, *, messaging: Messaging, fleet: EngineFleet
) -> MediaMessaging:
    """Make the sender of attachments, and remove what an earlier run left on disk.

    Raises:
        ConfigurationError: MEDIA_ALLOWED_NETWORKS is not usable.
        StorageError: SESSIONS_DIR refuses.
    """
    files = LocalMediaFiles(settings.sessions_dir)
    files.clear()
    fetcher = HttpMediaFetcher(
        media_address_guard(settings),
        FetchLimits(
            connect_seconds=settings.media_connect_timeout_seconds,
            total_seconds=settings.media_fetch_timeout_seconds,
            connections=settings.media_in_flight,
        ),
    )
    return MediaMessaging(
        messaging=messaging, fleet=fleet, fetcher=fetcher, files=files, limits=_limits(settings)
    )


def large_body_terms(settings: Settings) -> LargeBodyTerms:
    """Return what bodies with attachments in them may cost."""
    return LargeBodyTerms(
        content_bytes=settings.media_base64_max_mb * _MB,
        at_once=settings.media_in_flight,
        seconds=settings.media_body_timeout_seconds,
    )


def _limits(settings: Settings) -> MediaLimits:
    return MediaLimits(
        most_bytes={
            MediaKind.IMAGE: settings.media_image_max_mb * _MB,
            MediaKind.VIDEO: settings.media_video_max_mb * _MB,
            MediaKind.AUDIO: settings.media_audio_max_mb * _MB,
            MediaKind.DOCUMENT: settings.media_document_max_mb * _MB,
        },
        most_sent_bytes=settings.media_base64_max_mb * _MB,
        in_flight=settings.media_in_flight,
        in_flight_per_company=settings.media_in_flight_per_company,
        upload_seconds=settings.media_upload_timeout_seconds,
    )
