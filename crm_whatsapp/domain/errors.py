"""The one error tree.

Each error has a stable `code` for programs, a `message` for people and `permanent`: True when
trying the same call again cannot help. HTTP numbers are not known here.
"""

from typing import Any, ClassVar


class CrmWhatsappError(Exception):
    """Something went wrong in crm_whatsapp."""

    code: ClassVar[str] = "internal-error"
    permanent: ClassVar[bool] = False

    def __init__(self, message: str | None = None, **details: Any) -> None:
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        self.details = details
        super().__init__(self.message)


class InvalidInput(CrmWhatsappError):
    """The request is malformed."""

    code = "invalid-input"
    permanent = True


class ConfigurationError(CrmWhatsappError):
    """The configuration is not usable."""

    code = "configuration"
    permanent = True


class NotFound(CrmWhatsappError):
    """There is no such thing."""

    code = "not-found"
    permanent = True


class WrongState(CrmWhatsappError):
    """The session is not in a state that allows this."""

    code = "wrong-state"


class SessionNotConnected(WrongState):
    """The session is not connected. Please reconnect the session."""

    code = "session-not-connected"


class NothingToScan(WrongState):
    """There is no QR code or pairing code to show now."""

    code = "nothing-to-scan"


class NothingSaved(WrongState):
    """There is no saved session to restore. Connect the company first."""

    code = "nothing-saved"


class PairingConflict(CrmWhatsappError):
    """A pairing of the other method is in progress."""

    code = "pairing-conflict"


class RateLimited(CrmWhatsappError):
    """That was too often; try again later."""

    code = "rate-limited"

    def __init__(
        self,
        message: str | None = None,
        *,
        limit: str = "calls",
        retry_after_seconds: int = 1,
        **details: Any,
    ) -> None:
        """Name the limit, by one of few words, and say when the next call is let in."""
        super().__init__(message, limit=limit, retry_after_seconds=retry_after_seconds, **details)


class ServiceStopping(CrmWhatsappError):
    """The service is shutting down; try again in a moment."""

    code = "stopping"


class ServiceBusy(CrmWhatsappError):
    """The service is at its limit; try again in a moment."""

    code = "busy"


class TooManyStreams(CrmWhatsappError):
    """All event streams are taken; try again in a moment, or poll."""

    code = "too-many-streams"


class StoreUnavailable(CrmWhatsappError):
    """The database cannot be reached."""

    code = "database-unavailable"


class StoreRejected(CrmWhatsappError):
    """The database refused the request."""

    code = "database-rejected"
    permanent = True


class StorageError(CrmWhatsappError):
    """The sessions folder cannot be used."""

    code = "storage"


class EngineError(CrmWhatsappError):
    """The WhatsApp engine could not do this."""

    code = "engine"


class EngineUnavailable(EngineError):
    """The engine of this session is not running."""

    code = "engine-unavailable"


class SendUnconfirmed(EngineError):
    """WhatsApp did not confirm the message in time; it may still arrive."""

    code = "send-unconfirmed"


class SendRejected(EngineError):
    """WhatsApp refused the message."""

    code = "send-rejected"
    permanent = True
