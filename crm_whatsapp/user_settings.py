"""What the settings say of users and of browsers, checked; the master refuses to start by it.

A module of its own beside the settings, so that the master loads nothing of the service for it.
"""

import json
import re
from urllib.parse import urlsplit

from crm_whatsapp.config import Settings
from crm_whatsapp.domain.api_keys import Scope
from crm_whatsapp.domain.errors import ConfigurationError

_CLAIM_NAME = re.compile(r"[A-Za-z0-9_:/-]{1,128}")
_SHORTEST_SECRET = 32
_MOST_ROLES = 100
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9.-]+|\[[0-9a-f:]+\]")


def cors_origins(settings: Settings) -> frozenset[str]:
    """Return the origins whose pages may call, each exactly as browsers write it.

    Raises:
        ConfigurationError: CORS_ORIGINS is not usable.
    """
    return _origins("CORS_ORIGINS", settings.cors_origins)


def embed_origins(settings: Settings) -> frozenset[str]:
    """Return the origins whose pages may hold the embed page in a frame.

    Raises:
        ConfigurationError: EMBED_ORIGINS is not usable.
    """
    origins = _origins("EMBED_ORIGINS", settings.embed_origins)
    for origin in sorted(origins):
        parts = urlsplit(origin)
        if "[" in parts.netloc:
            raise ConfigurationError(
                f"EMBED_ORIGINS: {origin[:80]!r}: frame-ancestors knows no IPv6 addresses; "
                "give the page a host name"
            )
        if parts.scheme != "https" and not _is_loopback(parts.hostname or ""):
            raise ConfigurationError(
                f"EMBED_ORIGINS: {origin[:80]!r} must be https: the page around the frame holds "
                "its user's token; http is for pages of this machine, such as "
                "http://127.0.0.1:3000"
            )
    return origins


def claim_path(variable: str, text: str) -> tuple[str, ...]:
    """Return the names on the way to a claim.

    Raises:
        ConfigurationError: it is no path, or one that users can write to themselves.
    """
    names = tuple(text.split("."))
    if not all(_CLAIM_NAME.fullmatch(name) for name in names):
        raise ConfigurationError(f"{variable} must be a path such as app_metadata.company_id")
    if names[0] in ("user_metadata", "raw_user_meta_data"):
        raise ConfigurationError(f"{variable}: users can change {names[0]} themselves")
    return names


def role_scopes(settings: Settings) -> dict[str, frozenset[Scope]]:
    """Return what each role of a user may; "" is a user without a role.

    Raises:
        ConfigurationError: USER_ROLE_SCOPES is not usable.
    """
    try:
        value = json.loads(settings.user_role_scopes)
        if not isinstance(value, dict) or len(value) > _MOST_ROLES:
            raise TypeError
        return {role: _scopes(words) for role, words in value.items()}
    except (ValueError, TypeError, RecursionError):
        raise ConfigurationError(
            "USER_ROLE_SCOPES must be JSON from roles to lists of read, send and manage, such as "
            '{"admin":["read","send","manage"],"":["read"]}'
        ) from None


def check_user_settings(settings: Settings) -> None:
    """Raise ConfigurationError, naming the variable, unless the settings are usable."""
    cors_origins(settings)
    embed_origins(settings)
    claim_path("USER_COMPANY_CLAIM", settings.user_company_claim)
    claim_path("USER_ROLE_CLAIM", settings.user_role_claim)
    role_scopes(settings)
    if settings.user_membership_stale_seconds < settings.user_membership_cache_seconds:
        raise ConfigurationError(
            "USER_MEMBERSHIP_STALE_SECONDS must not be below USER_MEMBERSHIP_CACHE_SECONDS"
        )
    secret = settings.supabase_jwt_secret
    if secret is not None and len(secret.get_secret_value()) < _SHORTEST_SECRET:
        raise ConfigurationError(
            f"SUPABASE_JWT_SECRET must have {_SHORTEST_SECRET} characters or more"
        )
    if secret is not None and "-----BEGIN" in secret.get_secret_value():
        raise ConfigurationError(
            "SUPABASE_JWT_SECRET is a public or private key, not the shared secret"
        )


def _scopes(words: object) -> frozenset[Scope]:
    if not isinstance(words, list):
        raise TypeError
    return frozenset(Scope(word) for word in words)


def _origins(variable: str, text: str) -> frozenset[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if not _is_origin(word):
            raise ConfigurationError(
                f"{variable}: {word[:80]!r} is not an origin such as https://crm.example.com: "
                "scheme and host in small letters, no path, no wildcard, no default port"
            )
    return frozenset(words)


def _is_loopback(host: str) -> bool:
    return host == "localhost" or re.fullmatch(r"127(?:\.\d{1,3}){3}", host) is not None


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    host = parts.netloc if port is None else parts.netloc.removesuffix(f":{port}")
    return (
        text == f"{parts.scheme}://{parts.netloc}"
        and parts.scheme in _DEFAULT_PORTS
        and port != _DEFAULT_PORTS[parts.scheme]
        and _HOST.fullmatch(host) is not None
    )
