"""The secrets of one stack: made once, kept in a file only its owner can read."""

from __future__ import annotations

import base64
import json
import os
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import jwt

KEY_LIFETIME_SECONDS = 10 * 365 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class StackKeys:
    """Every secret of a stack.

    Attributes:
        anon_key, service_key: HS256 JWTs with a role claim, Supabase's legacy API keys.
        publishable_key, secret_key: the newer opaque API keys of the same two roles.
        postgres_password: of the role that owns the schema and runs migrations.
        snapshot_encryption_keys: SNAPSHOT_ENCRYPTION_KEYS of the service that uses this stack;
            empty in a folder of an earlier release, until its next start.
    """

    jwt_secret: str
    anon_key: str
    service_key: str
    publishable_key: str
    secret_key: str
    admin_password: str
    postgres_password: str
    authenticator_password: str
    snapshot_encryption_keys: str = ""


def sign_token(jwt_secret: str, role: str, claims: dict[str, object] | None = None) -> str:
    """Sign an access token as Supabase Auth does with a project's JWT secret."""
    now = int(time.time())
    payload = {"iss": "supabase", "role": role, "iat": now, "exp": now + KEY_LIFETIME_SECONDS}
    return jwt.encode(payload | (claims or {}), jwt_secret, algorithm="HS256")


def load_keys(path: Path) -> StackKeys:
    """Read the secrets of a stack, making those that are missing. For whoever holds its lock."""
    stored = json.loads(path.read_text()) if path.exists() else {}
    keys = StackKeys(**{**asdict(_new_keys()), **stored})
    if asdict(keys) != stored:
        write_private(path, json.dumps(asdict(keys), indent=2))
    return keys


def read_keys(path: Path) -> StackKeys:
    """Read the secrets of a stack that was started before."""
    return StackKeys(**json.loads(path.read_text()))


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step; only its owner can read it at any time."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)


def _new_keys() -> StackKeys:
    jwt_secret = secrets.token_hex(32)
    return StackKeys(
        jwt_secret=jwt_secret,
        anon_key=sign_token(jwt_secret, "anon"),
        service_key=sign_token(jwt_secret, "service_role"),
        publishable_key=f"sb_publishable_{secrets.token_urlsafe(24)}",
        secret_key=f"sb_secret_{secrets.token_urlsafe(24)}",
        admin_password=secrets.token_hex(16),
        postgres_password=secrets.token_hex(16),
        authenticator_password=secrets.token_hex(16),
        snapshot_encryption_keys=f"local:{base64.b64encode(secrets.token_bytes(32)).decode()}",
    )
