"""The dashboard's login: a signed cookie that holds no key, and the tokens of its forms."""

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass

from itsdangerous import BadSignature, URLSafeSerializer, URLSafeTimedSerializer

SESSION_COOKIE = "crm_whatsapp_session"
LOGIN_COOKIE = "crm_whatsapp_login"
CSRF_HEADER = "X-CSRF-Token"
CSRF_FIELD = "csrf_token"

_MOST_CLOSED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardSession:
    """One login. id: random; ties the form tokens to this login."""

    id: str
    principal_id: str


class DashboardSessions:
    """Makes and reads the tokens. A login is valid until it is too old, or has been closed here.

    What is closed is remembered in memory alone: after a restart, and in other pods, a cookie that
    somebody has copied is valid until it is too old.
    """

    def __init__(self, secret_key: str, *, max_age_seconds: int) -> None:
        if len(secret_key) < 16:
            raise ValueError("the secret key of the dashboard is shorter than 16 characters")
        self.max_age_seconds = max_age_seconds
        self._sessions = URLSafeTimedSerializer(secret_key, salt="dashboard-session")
        self._csrf = URLSafeSerializer(secret_key, salt="dashboard-csrf")
        # Of its own: whoever asks for the form chooses what its token is bound to.
        self._forms = URLSafeSerializer(secret_key, salt="dashboard-login-form")
        self._lock = threading.Lock()
        self._closed: OrderedDict[str, None] = OrderedDict()

    def open(self, principal_id: str) -> str:
        """Return the cookie of a new login."""
        return self._sessions.dumps([secrets.token_urlsafe(16), principal_id])

    def find(self, cookie: str | None) -> DashboardSession | None:
        """Return the login of this cookie; None when it is forged, too old or closed."""
        if not cookie:
            return None
        try:
            session_id, principal_id = self._sessions.loads(cookie, max_age=self.max_age_seconds)
        except (BadSignature, TypeError, ValueError):
            return None
        session = DashboardSession(id=session_id, principal_id=principal_id)
        return None if self.is_closed(session) else session

    def is_closed(self, session: DashboardSession) -> bool:
        """Tell whether this login was ended here."""
        with self._lock:
            return session.id in self._closed

    def close(self, session: DashboardSession) -> None:
        """End a login for every copy of its cookie."""
        with self._lock:
            self._closed[session.id] = None
            if len(self._closed) > _MOST_CLOSED:
                self._closed.popitem(last=False)

    def csrf_token(self, session_id: str) -> str:
        """Return the form token of a login."""
        return self._csrf.dumps(session_id)

    def is_csrf_token(self, token: str | None, session_id: str | None) -> bool:
        """Tell whether the token was made for exactly this login."""
        return _is_made_for(self._csrf, token, session_id)

    def login_token(self, attempt: str) -> str:
        """Return the token of a sign-in form."""
        return self._forms.dumps(attempt)

    def is_login_token(self, token: str | None, attempt: str | None) -> bool:
        """Tell whether the token was made for exactly this attempt to sign in."""
        return _is_made_for(self._forms, token, attempt)


def _is_made_for(serializer: URLSafeSerializer, token: str | None, bound_to: str | None) -> bool:
    if not token or not bound_to:
        return False
    try:
        made_for = str(serializer.loads(token))
    except (BadSignature, TypeError):
        return False
    # As bytes: it raises for text beyond ASCII, which a cookie may hold.
    return secrets.compare_digest(made_for.encode(), bound_to.encode("utf-8", "surrogatepass"))
