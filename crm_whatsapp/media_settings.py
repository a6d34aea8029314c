"""The settings of attachments. Part of Settings; held to `.env.example` as all others are."""

from pydantic import Field
from pydantic_settings import BaseSettings

from crm_whatsapp.outbound.address_guard import MEDIA_NETWORKS, AddressGuard, parse_networks
from crm_whatsapp.setting_types import Seconds


class MediaSettings(BaseSettings):
    """What attachments may be fetched from, and what they may cost."""

    media_allowed_networks: str = Field(
        default="", description="Networks that media.url may be in though they are not public."
    )
    media_image_max_mb: int = Field(default=16, ge=1, le=64, description="Largest picture, in MB.")
    media_video_max_mb: int = Field(default=16, ge=1, le=64, description="Largest film, in MB.")
    media_audio_max_mb: int = Field(default=16, ge=1, le=64, description="Largest sound, in MB.")
    media_document_max_mb: int = Field(
        default=32, ge=1, le=64, description="Largest document, in MB."
    )
    media_base64_max_mb: int = Field(
        default=16, ge=1, le=16, description="Largest attachment in a request itself, in MB."
    )
    media_in_flight: int = Field(
        default=4, ge=1, le=16, description="Attachments under way at the same time."
    )
    media_in_flight_per_company: int = Field(
        default=2, ge=1, le=16, description="Of these of one company at most."
    )
    media_body_timeout_seconds: Seconds = Field(
        default=60.0, description="Longest arrival of a body above 1 MB, in seconds; then 408."
    )
    media_connect_timeout_seconds: Seconds = Field(
        default=5.0, description="Longest wait for a connection to media.url, in seconds."
    )
    media_fetch_timeout_seconds: Seconds = Field(
        default=30.0, description="Longest fetch from media.url, all in all, in seconds."
    )
    media_upload_timeout_seconds: Seconds = Field(
        default=60.0, description="Longest wait for WhatsApp to take an attachment, in seconds."
    )


def media_address_guard(settings: MediaSettings) -> AddressGuard:
    """Return the guard of the addresses that attachments may be fetched from.

    Raises:
        ConfigurationError: MEDIA_ALLOWED_NETWORKS is not usable.
    """
    networks = parse_networks(settings.media_allowed_networks, MEDIA_NETWORKS)
    return AddressGuard(networks, allows_http=True, setting=MEDIA_NETWORKS)
