"""Reads the keys of user tokens from Supabase Auth."""

import time

import httpx

from crm_whatsapp import __version__
from crm_whatsapp.domain.user_keys import KeysUnreadable

_MOST_BYTES = 65_536


class HttpKeyListReader:
    """The KeyListReader of the service. Follows no redirect."""

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        self._url = url
        self._timeout_seconds = timeout_seconds

    def read(self) -> bytes:
        """Return the document; raises KeysUnreadable after the time limit, all in all."""
        ends_at = time.monotonic() + self._timeout_seconds
        headers = {"Accept": "application/json", "User-Agent": f"crm-whatsapp/{__version__}"}
        document = bytearray()
        try:
            with (
                httpx.Client(timeout=self._timeout_seconds) as client,
                client.stream("GET", self._url, headers=headers) as answer,
            ):
                if answer.status_code != httpx.codes.OK:
                    raise KeysUnreadable(f"the answer is HTTP {answer.status_code}")
                for piece in answer.iter_bytes():
                    document += piece
                    if len(document) > _MOST_BYTES:
                        raise KeysUnreadable(f"the answer is longer than {_MOST_BYTES} bytes")
                    if time.monotonic() > ends_at:
                        raise KeysUnreadable("the answer took too long")
        except httpx.HTTPError as exc:
            raise KeysUnreadable(f"no answer: {type(exc).__name__}") from exc
        return bytes(document)
