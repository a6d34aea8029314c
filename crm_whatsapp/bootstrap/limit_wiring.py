"""How often callers may call."""

from crm_whatsapp.config import Settings
from crm_whatsapp.web.limits import LimitTerms


def limit_terms(settings: Settings) -> LimitTerms:
    """Return what the settings say of requests."""
    return LimitTerms(
        reads_per_minute=settings.limit_reads_per_minute,
        sends_per_minute=settings.limit_sends_per_minute,
        manage_per_minute=settings.limit_manage_per_minute,
        company_factor=settings.limit_company_factor,
        all_companies_factor=settings.limit_all_companies_factor,
        failed_logins_per_minute=settings.limit_failed_logins_per_minute,
    )
