"""The settings that say how long clients are waited for. Part of Settings."""

from pydantic import Field
from pydantic_settings import BaseSettings

from crm_whatsapp.serving.client_socket import ClientTerms
from crm_whatsapp.setting_types import Seconds


class ClientSettings(BaseSettings):
    """Slow clients end by these; what they do not send or take holds nobody else up."""

    request_head_seconds: Seconds = Field(
        default=10.0, description="A request's head must arrive within so long, in seconds."
    )
    client_patience_seconds: Seconds = Field(
        default=10.0, description="Longest standstill within a body or an answer, in seconds."
    )
    client_bytes_per_second: int = Field(
        default=8_192, ge=1, description="Slower clients use up that patience."
    )
    connection_idle_seconds: int = Field(
        default=75, ge=1, le=3_600, description="Idle connections are kept so long, in seconds."
    )

    def client_terms(self) -> ClientTerms:
        """Return what clients are granted."""
        return ClientTerms(
            head_seconds=self.request_head_seconds,
            patience_seconds=self.client_patience_seconds,
            bytes_per_second=self.client_bytes_per_second,
        )
