"""The event stream over HTTP: Server-Sent Events."""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated

from flask import Response, request
from flask_openapi3.models.tag import Tag
from pydantic import Field

from crm_whatsapp.domain.errors import StoreUnavailable
from crm_whatsapp.service.event_subscription import Audience, Subscription
from crm_whatsapp.web.auth import Principal, Scope, requires
from crm_whatsapp.web.event_peer import MOST_WRITTEN_BYTES, Peer, socket_of
from crm_whatsapp.web.field_types import CompanyId
from crm_whatsapp.web.request_context import (
    current_principal,
    current_services,
    find_dashboard_session,
    web_state,
)
from crm_whatsapp.web.schemas import ErrorBody, Request
from crm_whatsapp.web.services import StreamTerms, WebServices
from crm_whatsapp.web.strict_blueprint import StrictBlueprint

_MEDIA_TYPE = "text/event-stream"
_JITTER = 0.1
_EXAMPLE = (
    "retry: 1000\n\n"
    "id: 5f1c0a9e-17\n"
    "event: status\n"
    'data: {"company_id":"3b1bee0c-cbee-4de1-88f1-d6e890f4c995","status":"connected", ...}\n\n'
)

events_api = StrictBlueprint(
    "events_api",
    __name__,
    url_prefix="/api/whatsapp",
    abp_tags=[Tag(name="events", description="Hear of every change at once.")],
    abp_security=[{"api_key": []}, {"user_token": []}, {"dashboard": []}],
    abp_responses={400: ErrorBody, 401: ErrorBody, 403: ErrorBody, 503: ErrorBody},
)


class EventsRequest(Request):
    """Whose events, and from where on."""

    company_id: CompanyId | None = Field(
        default=None, description="Absent: of every company that the key reaches."
    )
    last_event_id: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="For clients that cannot send the header Last-Event-ID."
    )
    snapshot: bool = Field(default=True, description="Begin by telling how things are.")


@events_api.get(
    "/events",
    summary="Server-Sent Events",
    responses={
        200: {
            "description": "Events `status`, `qr`, `pairing_code`, `message`, `receipt`, and "
            "`snapshot` in front of statuses that tell how things are. Send `Last-Event-ID` to go "
            "on where an earlier stream ended.",
            "content": {_MEDIA_TYPE: {"schema": {"type": "string"}, "example": _EXAMPLE}},
        }
    },
)
@requires(Scope.READ)
def get_events(query: EventsRequest) -> Response:
    """Stream until the client leaves. QR and pairing codes need the scope manage."""
    if request.method == "HEAD":
        return _response(iter(()))
    services, principal = current_services(), current_principal()
    login, logins = find_dashboard_session(), web_state().dashboard_sessions
    terms = web_state().settings.streams
    subscription = _subscribe(query, services, principal)
    try:
        connection = socket_of(request.environ)
        peer = Peer(connection, subscription, patience_seconds=terms.patience_seconds)
    except OSError:  # the client has left already
        subscription.close()
        raise

    def is_admitted() -> bool:
        if login is not None and logins.is_closed(login):
            return False
        try:
            now = services.authenticator.find_principal(principal.id)
        except StoreUnavailable:  # the client comes back, and is told what cannot be told now
            return False
        return now is not None and _audience(query, now) == subscription.audience

    stream = EventText(subscription, peer, terms, is_admitted)
    response = _response(stream.pieces())
    response.call_on_close(stream.close)
    return response


def _subscribe(query: EventsRequest, services: WebServices, principal: Principal) -> Subscription:
    audience = _audience(query, principal)
    company_id = audience.only_company
    return services.events.subscribe(
        audience,
        last_event_id=request.headers.get("Last-Event-ID") or query.last_event_id,
        snapshot=query.snapshot,
        # Opening the stream of a company is a poll of its status: it restores when that is due.
        unknown=services.sessions.status(company_id) if company_id else None,
    )


def _audience(query: EventsRequest, principal: Principal) -> Audience:
    """Return whom the caller hears of: of the company that was asked for, or all they may read."""
    companies = principal.companies_where(Scope.READ)
    codes_of = principal.companies_where(Scope.MANAGE)
    if query.company_id is not None:
        asked = frozenset({query.company_id})
        companies = asked if companies is None else asked & companies
        codes_of = asked if codes_of is None else asked & codes_of
    return Audience(
        principal_id=principal.holder,
        companies=companies,
        codes_of=codes_of,
        is_limited=not principal.is_service,
    )


def _response(pieces: Iterator[bytes]) -> Response:
    response = Response(pieces, mimetype=_MEDIA_TYPE)
    response.headers["X-Accel-Buffering"] = "no"  # nginx would gather events until it has 4 KB
    return response


class EventText:
    """The text of one stream, piece by piece, as the client takes it."""

    def __init__(
        self,
        subscription: Subscription,
        peer: Peer,
        terms: StreamTerms,
        is_admitted: Callable[[], bool],
    ) -> None:
        self._subscription = subscription
        self._peer = peer
        self._terms = terms
        self._is_admitted = is_admitted
        self._hangs_up = False

    def pieces(self) -> Iterator[bytes]:
        """Yield what to write next, once the client takes it."""
        now = time.monotonic()
        ends_at = now + self._terms.longest_seconds * _jitter()
        beats_at = now + self._terms.heartbeat_seconds
        yield b"retry: %d\n\n" % (self._terms.retry_seconds * 1000)
        while True:
            taken = self._subscription.take()
            for piece in _pieces_of(taken.blocks):
                if not self._peer.is_writable():
                    return self._abandon()
                yield piece
            now = time.monotonic()
            if taken.end is not None or now >= ends_at:
                if not self._peer.is_writable():
                    return self._abandon()
                self._hangs_up = taken.end is not None
                yield f": {taken.end or 'come again'}\n\n".encode()
                return None
            if now >= beats_at:
                if not self._is_admitted() or not self._peer.is_writable():
                    return self._abandon()
                yield f": alive\nid: {taken.position}\n\n".encode()
                beats_at = now + self._terms.heartbeat_seconds
            if taken.blocks:
                continue  # more may have come while this was written
            if not self._peer.wait(min(beats_at, ends_at) - now):
                return self._abandon()

    def close(self) -> None:
        """Leave the stream; called when the last piece is written, or cannot be."""
        self._subscription.close()
        if self._hangs_up:
            self._peer.hang_up()

    def _abandon(self) -> None:
        """Hang up before the server writes the end of the answer: nobody takes that either."""
        self._peer.hang_up()


def _pieces_of(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the blocks, joined or cut to what fits into the send buffer."""
    gathered = bytearray()
    for block in blocks:
        gathered += block
        while len(gathered) >= MOST_WRITTEN_BYTES:
            yield bytes(gathered[:MOST_WRITTEN_BYTES])
            del gathered[:MOST_WRITTEN_BYTES]
    if gathered:
        yield bytes(gathered)


def _jitter() -> float:
    """Return a factor around 1, so that clients do not all come again at the same moment."""
    return 1 + _JITTER * (secrets.randbelow(2001) / 1000 - 1)
