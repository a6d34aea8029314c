"""The dashboard's login: a signed cookie that holds no key, and the tokens of its forms."""

import secrets
from dataclasses import dataclass

from itsdangerous import BadSignature, URLSafeSerializer, URLSafeTimedSerializer

SESSION_COOKIE = "crm_whatsapp_session"
LOGIN_COOKIE = "crm_whatsapp_login"
CSRF_HEADER = "X-CSRF-Token"
CSRF_FIELD = "csrf_token"


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardSession:
    """One login. id: random; ties the form tokens to this login."""

    id: str
    principal_id: str


class DashboardSessions:
    """Makes and reads the tokens. Nothing is stored: a token is valid until it is too old."""

    def __init__(self, secret_key: str, *, max_age_seconds: int) -> None:
        if len(secret_key) < 16:
            raise ValueError("the secret key of the dashboard is shorter than 16 characters")
        self.max_age_seconds = max_age_seconds
        self._sessions = URLSafeTimedSerializer(secret_key, salt="dashboard-session")
        self._csrf = URLSafeSerializer(secret_key, salt="dashboard-csrf")

    def open(self, principal_id: str) -> str:
        """Return the cookie of a new login."""
        return self._sessions.dumps([secrets.token_urlsafe(16), principal_id])

    def find(self, cookie: str | None) -> DashboardSession | None:
        """Return the login of this cookie; None when it is forged or too old."""
        if not cookie:
            return None
        try:
            session_id, principal_id = self._sessions.loads(cookie, max_age=self.max_age_seconds)
        except (BadSignature, TypeError, ValueError):
            return None
        return DashboardSession(id=session_id, principal_id=principal_id)

    def csrf_token(self, bound_to: str) -> str:
        """Return the form token of a login, or of a login attempt."""
        return self._csrf.dumps(bound_to)

    def is_csrf_token(self, token: str | None, bound_to: str | None) -> bool:
        """Tell whether the token was made for exactly this login."""
        if not token or not bound_to:
            return False
        try:
            return secrets.compare_digest(str(self._csrf.loads(token)), bound_to)
        except (BadSignature, TypeError):
            return False
