"""Request bodies that carry content: larger than others, and only a few at once.

Such a body is in memory up to four times while it is read, so there is a bounded number of places
for them; who finds none is told to come again. A body within the usual bound needs no place.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, cast

from flask import Flask, current_app, request

from crm_whatsapp.domain.errors import ServiceBusy
from crm_whatsapp.web.errors import BodyTooLarge, BodyTooSlow
from crm_whatsapp.web.services import MOST_CONTENT_BYTES, LargeBodyTerms
from crm_whatsapp.web.strict_blueprint import StrictBlueprint

USUAL_BYTES = 1024 * 1024
MOST_BODY_BYTES = MOST_CONTENT_BYTES * 4 // 3 + USUAL_BYTES
"""Base64 is a third longer than what it stands for."""

_EXTENSION = "crm_whatsapp.large_bodies"


class _Places:
    def __init__(self, terms: LargeBodyTerms) -> None:
        self.most_bytes = terms.content_bytes * 4 // 3 + USUAL_BYTES
        self.seconds = terms.seconds
        self._free = threading.BoundedSemaphore(terms.at_once)

    @contextmanager
    def hold(self) -> Iterator[None]:
        if not self._free.acquire(blocking=False):
            raise ServiceBusy("Too many attachments are being received; try again soon.")
        try:
            yield
        finally:
            self._free.release()


class _TimedInput:
    """A body that has to arrive within a time: it holds a place."""

    def __init__(self, body: Any, seconds: float) -> None:
        self._body = body
        self._deadline = time.monotonic() + seconds

    def read(self, size: int | None = None) -> bytes:
        if time.monotonic() >= self._deadline:
            raise BodyTooSlow()
        return cast(bytes, self._body.read(size))


def install_large_bodies(app: Flask, terms: LargeBodyTerms) -> None:
    """Give the app its places."""
    app.extensions[_EXTENSION] = _Places(terms)


class ContentBlueprint(StrictBlueprint):
    """A StrictBlueprint whose bodies may carry content.

    A place is taken before the first byte of a large body is read, and given back with the answer.
    """

    @staticmethod
    def create_view_func(func: Callable[..., Any], *args: Any, **more: Any) -> Callable[..., Any]:
        """Wrap a view; called by flask-openapi3 for every route."""
        strict = StrictBlueprint.create_view_func(func, *args, **more)

        @wraps(strict)
        def view(**path_values: str) -> Any:
            length = request.content_length
            if length is not None and length <= USUAL_BYTES:
                return strict(**path_values)
            places = cast(_Places, current_app.extensions[_EXTENSION])
            if length is not None and length > places.most_bytes:
                raise BodyTooLarge(max_bytes=places.most_bytes)
            with places.hold():
                request.environ["wsgi.input"] = _TimedInput(
                    request.environ["wsgi.input"], places.seconds
                )
                return strict(**path_values)

        return view
