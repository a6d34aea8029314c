"""The pieces that know the users of the CRM."""

from crm_whatsapp.config import Settings
from crm_whatsapp.outbound.key_list_reader import HttpKeyListReader
from crm_whatsapp.service.signing_keys import KeyTerms, SigningKeys
from crm_whatsapp.user_settings import claim_path, role_scopes
from crm_whatsapp.web.user_tokens import UserTerms, UserTokenAuthenticator


def build_user_tokens(settings: Settings) -> UserTokenAuthenticator:
    """Make what checks user tokens; asks nobody until a token with a published key comes.

    Raises:
        ConfigurationError: a variable is not usable.
    """
    secret = settings.supabase_jwt_secret
    auth_url = f"{settings.supabase_url}/auth/v1"
    reader = HttpKeyListReader(
        f"{auth_url}/.well-known/jwks.json", timeout_seconds=settings.user_keys_timeout_seconds
    )
    keys = SigningKeys(
        reader,
        KeyTerms(
            refresh_seconds=settings.user_keys_refresh_seconds,
            miss_seconds=settings.user_keys_miss_seconds,
            stale_seconds=settings.user_keys_stale_seconds,
        ),
    )
    terms = UserTerms(
        issuer=settings.user_token_issuer or auth_url,
        shared_issuer=settings.user_token_issuer,
        secret=secret.get_secret_value() if secret else None,
        company_claim=claim_path("USER_COMPANY_CLAIM", settings.user_company_claim),
        role_claim=claim_path("USER_ROLE_CLAIM", settings.user_role_claim),
        role_scopes=role_scopes(settings),
        leeway_seconds=settings.user_token_leeway_seconds,
    )
    return UserTokenAuthenticator(keys, terms)
