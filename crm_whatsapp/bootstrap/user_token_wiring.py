"""The pieces that know the users of the CRM."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crm_whatsapp.config import Settings
from crm_whatsapp.jobs.job_board import Job
from crm_whatsapp.outbound.key_list_reader import HttpKeyListReader
from crm_whatsapp.service.memberships import Memberships, MembershipTerms
from crm_whatsapp.service.readiness import ReadinessCheck
from crm_whatsapp.service.signing_keys import KeyTerms, SigningKeys
from crm_whatsapp.stores.membership_store import SupabaseMembershipStore
from crm_whatsapp.stores.supabase_client import SupabaseClient
from crm_whatsapp.user_settings import claim_path, role_scopes
from crm_whatsapp.web.user_tokens import UserTerms, UserTokenAuthenticator

if TYPE_CHECKING:
    from crm_whatsapp.bootstrap.wiring import Parts

_CHECK = "membership-check"


@dataclass(frozen=True, slots=True)
class UserParts:
    """tokens: tells users by their tokens. memberships: where they belong; None: tokens say it."""

    tokens: UserTokenAuthenticator
    memberships: Memberships | None

    def observe(self, parts: "Parts") -> None:
        """Ask by the clock, and when the database is back, whether memberships can be used."""
        if self.memberships is None:
            return
        parts.jobs.add(
            Job(
                name=_CHECK,
                interval_seconds=parts.settings.sync_interval_seconds,
                function=self.memberships.check,
                at_once=True,
            )
        )
        parts.write_behind.on_return(lambda: parts.jobs.run_soon(_CHECK))
        parts.readiness.add(self._check)

    def _check(self) -> ReadinessCheck:
        assert self.memberships is not None  # noqa: S101 - added only then
        problem = self.memberships.problem
        return ReadinessCheck(
            name="membership",
            ok=problem is None,
            detail=problem or "the CRM's table says which companies users reach",
            data={"users": self.memberships.known_users},
        )


def build_users(settings: Settings, client: SupabaseClient) -> UserParts:
    """Make what checks user tokens; asks nobody until one comes.

    Raises:
        ConfigurationError: a variable is not usable.
    """
    memberships = None
    if settings.user_company_source == "membership":
        memberships = Memberships(
            SupabaseMembershipStore(client),
            MembershipTerms(
                cache_seconds=settings.user_membership_cache_seconds,
                stale_seconds=settings.user_membership_stale_seconds,
                retry_seconds=settings.user_membership_retry_seconds,
                wait_seconds=2 * settings.database_timeout_seconds,
            ),
        )
    tokens = UserTokenAuthenticator(
        _signing_keys(settings), _user_terms(settings), memberships=memberships
    )
    return UserParts(tokens=tokens, memberships=memberships)


def _signing_keys(settings: Settings) -> SigningKeys:
    reader = HttpKeyListReader(
        f"{_auth_url(settings)}/.well-known/jwks.json",
        timeout_seconds=settings.user_keys_timeout_seconds,
    )
    return SigningKeys(
        reader,
        KeyTerms(
            refresh_seconds=settings.user_keys_refresh_seconds,
            miss_seconds=settings.user_keys_miss_seconds,
            stale_seconds=settings.user_keys_stale_seconds,
        ),
    )


def _user_terms(settings: Settings) -> UserTerms:
    secret = settings.supabase_jwt_secret
    return UserTerms(
        issuer=settings.user_token_issuer or _auth_url(settings),
        shared_issuer=settings.user_token_issuer,
        secret=secret.get_secret_value() if secret else None,
        company_claim=claim_path("USER_COMPANY_CLAIM", settings.user_company_claim),
        role_claim=claim_path("USER_ROLE_CLAIM", settings.user_role_claim),
        role_scopes=role_scopes(settings),
        leeway_seconds=settings.user_token_leeway_seconds,
    )


def _auth_url(settings: Settings) -> str:
    return f"{settings.supabase_url}/auth/v1"
