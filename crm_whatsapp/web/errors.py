"""Errors that only the HTTP edge knows."""

from crm_whatsapp.domain.errors import CrmWhatsappError, InvalidInput


class Unauthorized(CrmWhatsappError):
    """Send a valid key in the X-API-Key header, or a user's token as a bearer token."""

    code = "unauthorized"
    permanent = True


class Forbidden(CrmWhatsappError):
    """This key may not do that."""

    code = "forbidden"
    permanent = True


class CsrfFailed(Forbidden):
    """The page is out of date. Reload it and try again."""

    code = "csrf-failed"


class UnsupportedMediaType(InvalidInput):
    """Send JSON with the header Content-Type: application/json."""

    code = "unsupported-media-type"


class BodyTooLarge(InvalidInput):
    """The request body is too large."""

    code = "body-too-large"


class BodyTooSlow(CrmWhatsappError):
    """The request body did not arrive in time."""

    code = "request-timeout"


class BodyBroken(CrmWhatsappError):
    """The request body is malformed, or ended too early."""

    code = "bad-request"
    permanent = True


class Starting(CrmWhatsappError):
    """The service is starting; try again in a moment."""

    code = "starting"


class NotReady(CrmWhatsappError):
    """The service cannot serve now; the checks say why."""

    code = "not-ready"
