"""The pieces that know who may call."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from crm_whatsapp.config import Settings
from crm_whatsapp.domain.api_keys import ApiKey, Scope
from crm_whatsapp.domain.company import parse_company_id
from crm_whatsapp.domain.errors import InvalidInput
from crm_whatsapp.domain.ports import Clock
from crm_whatsapp.jobs.job_board import Job
from crm_whatsapp.service.api_key_desk import ApiKeyDesk
from crm_whatsapp.service.api_key_misses import KeyMisses, MissTerms
from crm_whatsapp.service.api_key_seal import KeySeal
from crm_whatsapp.service.api_keys import ApiKeyRing, KeptBook
from crm_whatsapp.service.readiness import ReadinessCheck
from crm_whatsapp.service.steady_clock import SteadyClock
from crm_whatsapp.sessions.api_key_files import KeyBookFile, load_pepper
from crm_whatsapp.stores.api_key_store import SupabaseApiKeyStore
from crm_whatsapp.stores.supabase_client import SupabaseClient, make_client

if TYPE_CHECKING:
    from crm_whatsapp.bootstrap.wiring import Parts

_SYNC = "api-key-sync"
_MOST_DAYS = 36_500


@dataclass(frozen=True, slots=True)
class AccessParts:
    """ring: answers who has a key. desk: makes and ends keys."""

    ring: ApiKeyRing
    desk: ApiKeyDesk

    def observe(self, parts: "Parts") -> None:
        """Read the keys by the clock, when one is not known, and when the database is back."""
        parts.jobs.add(
            Job(
                name=_SYNC,
                interval_seconds=parts.settings.sync_interval_seconds,
                function=self.ring.sync,
                at_once=True,
            )
        )
        self.ring.on_miss(lambda: parts.jobs.run_soon(_SYNC))
        parts.write_behind.on_return(lambda: parts.jobs.run_soon(_SYNC))
        parts.readiness.add(self._check)

    def start(self) -> None:
        """Take over the keys as they were last known."""
        self.ring.start()

    def _check(self) -> ReadinessCheck:
        strangers = self.ring.strangers()
        detail = "the keys are known" if self.ring.is_loaded else "no keys could be read yet"
        if strangers:
            detail = (
                f"{strangers} keys were made with another pepper and do not open this pod: give "
                "every pod the same API_KEY_PEPPER"
            )
        data = {"keys": len(self.ring.keys()), "loaded": self.ring.is_loaded}
        ok = self.ring.is_loaded and not strangers
        return ReadinessCheck(name="api-keys", ok=ok, detail=detail, data=data)


class _KeptNowhere:
    """For a command: the file belongs to the service, which has one writer at a time."""

    def find(self) -> str | None:
        return None

    def keep(self, text: str) -> None:
        """Keep nothing."""


def build_access(
    settings: Settings, client: SupabaseClient, clock: Clock, kept: KeptBook | None = None
) -> AccessParts:
    """Make the pieces; starts nothing.

    Args:
        kept: where the keys outlive the process; None is SESSIONS_DIR.

    Raises:
        ConfigurationError: API_KEY_PEPPER is not usable. StorageError: SESSIONS_DIR refuses.
    """
    given = settings.api_key_pepper
    if given is not None:
        seal = KeySeal.parse(given.get_secret_value())
    else:
        seal = KeySeal([load_pepper(settings.sessions_dir)])
    terms = MissTerms(
        longest_seconds=settings.sync_interval_seconds,
        first_seconds=settings.api_key_miss_seconds,
    )
    ring = ApiKeyRing(
        store=SupabaseApiKeyStore(client),
        seal=seal,
        kept=kept or KeyBookFile(settings.sessions_dir),
        clock=clock,
        misses=KeyMisses(clock, terms),
    )
    return AccessParts(ring=ring, desk=ApiKeyDesk(ring, seal, clock))


def create_key(
    settings: Settings, *, name: str, company: str | None, scopes: str, days: float | None
) -> tuple[ApiKey, str, int]:
    """Make a key from the command line.

    Returns:
        The key, its text, and how many valid keys have another pepper than this command.

    Raises:
        InvalidInput: an argument is malformed. Otherwise as ApiKeyDesk.create.
    """
    if not name.strip() or len(name) > 128:
        raise InvalidInput("--name must have 1 to 128 characters.")
    company_id = None if company is None else parse_company_id(company, field="--company")
    expires_at = None
    if days is not None:
        if not 0 < days <= _MOST_DAYS:
            raise InvalidInput(f"--expires-in-days must be above 0, at most {_MOST_DAYS}.")
        expires_at = datetime.now(UTC) + timedelta(days=days)
    access = _access(settings)
    access.ring.sync()
    key, text = access.desk.create(
        name=name.strip(),
        company_id=company_id,
        scopes=_scopes(scopes),
        expires_at=expires_at,
        created_by="cli",
    )
    return key, text, access.ring.strangers()


def list_keys(settings: Settings, company: str | None) -> list[ApiKey]:
    """Return the keys, the newest first."""
    company_id = None if company is None else parse_company_id(company, field="--company")
    return _access(settings).desk.listing(company_id)


def revoke_key(settings: Settings, key_id: str) -> ApiKey:
    """End a key; raises KeyUnknown."""
    return _access(settings).desk.revoke(key_id, by="cli", company_id=None)


def _access(settings: Settings) -> AccessParts:
    """Return the pieces for one command."""
    client = make_client(
        settings.supabase_url,
        settings.supabase_service_role_key.get_secret_value(),
        settings.database_timeout_seconds,
    )
    return build_access(settings, client, SteadyClock(), _KeptNowhere())


def _scopes(text: str) -> frozenset[Scope]:
    words = [word.strip().lower() for word in text.split(",") if word.strip()]
    try:
        return frozenset(Scope(word) for word in words)
    except ValueError as exc:
        raise InvalidInput("--scopes takes read, send and manage, separated by commas.") from exc
