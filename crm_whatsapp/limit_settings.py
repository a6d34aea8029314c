"""The settings that say how often callers may call. Part of Settings.

Names and bounds are held to `.env.example` as all others are.
"""

from pydantic import Field
from pydantic_settings import BaseSettings


class LimitSettings(BaseSettings):
    """0 switches a limit off."""

    limit_reads_per_minute: int = Field(
        default=1_200, ge=0, le=100_000, description="Reads of one key or user for a company."
    )
    limit_sends_per_minute: int = Field(
        default=600, ge=0, le=100_000, description="Sends of one key or user for a company."
    )
    limit_manage_per_minute: int = Field(
        default=600, ge=0, le=100_000, description="Calls that manage, likewise; QR codes too."
    )
    limit_company_factor: int = Field(
        default=5, ge=1, le=100, description="All callers of a company together, in multiples."
    )
    limit_all_companies_factor: int = Field(
        default=100, ge=1, le=100, description="One caller for all companies, in multiples."
    )
    limit_failed_logins_per_minute: int = Field(
        default=60, ge=0, le=100_000, description="Wrong keys of one client address."
    )
    trusted_proxies: int = Field(
        default=0,
        ge=0,
        le=10,
        description="Proxies in front that add to X-Forwarded-For; 0: the header is not believed.",
    )
    pairing_attempts_per_hour: int = Field(
        default=10, ge=0, le=1_000, description="New pairings of a company; restores never count."
    )
