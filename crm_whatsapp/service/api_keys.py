"""The key ring: the keys of the database in memory, so that no request waits for it.

What is known stays valid while the database is away, over a restart too: it is kept in a file. A
key that is not known may have been made a moment ago by another pod or by the command line, so the
first miss has the keys read again, but seldom, and less and less often while that finds nothing.
"""

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

from crm_whatsapp.domain.api_keys import (
    ApiKey,
    ApiKeyStore,
    KeysUnknown,
    find_key_id,
    read_api_key,
    write_api_key,
)
from crm_whatsapp.domain.errors import CrmWhatsappError, InvalidInput, ServiceBusy, StorageError
from crm_whatsapp.domain.ports import Clock
from crm_whatsapp.service.api_key_misses import KeyMisses
from crm_whatsapp.service.api_key_seal import KeySeal

_LOG = logging.getLogger(__name__)

_TURN_SECONDS = 10.0


class KeptBook(Protocol):
    """Where the keys last known outlive the process. Raises StorageError."""

    def find(self) -> str | None:
        """Return what was kept."""

    def keep(self, text: str) -> None:
        """Replace what is kept."""


class ApiKeyRing:
    """Knows every key. Threads share it."""

    def __init__(
        self,
        *,
        store: ApiKeyStore,
        seal: KeySeal,
        kept: KeptBook,
        clock: Clock,
        misses: KeyMisses,
    ) -> None:
        self._store = store
        self._seal = seal
        self._kept = kept
        self._clock = clock
        self._turn = threading.Lock()  # one at a time reads the keys, or changes one
        self._book: Mapping[str, ApiKey] = {}  # replaced as a whole
        self._fingerprint: str | None = None
        self._is_loaded = False
        self._used: dict[str, datetime] = {}
        self._ask: Callable[[], None] = self._sync_quietly
        self._misses = misses
        self._nobody = _nobody(seal)

    def on_miss(self, ask: Callable[[], None]) -> None:
        """Have this called when the keys should be read soon; it must not wait."""
        self._ask = ask

    def start(self) -> None:
        """Take over what was known when the process ended."""
        try:
            text = self._kept.find()
        except StorageError as exc:
            _LOG.warning("The keys last known cannot be read: %s", exc.message)
            return
        if text is None or self._is_loaded:
            return
        try:
            book = [read_api_key(row) for row in json.loads(text)["keys"]]
        except (ValueError, KeyError, TypeError, RecursionError, InvalidInput):
            _LOG.warning("The keys last known are damaged; they are read from the database.")
            return
        self._book = {key.id: key for key in book}
        self._is_loaded = True

    @property
    def is_loaded(self) -> bool:
        """Tell whether the keys are known, from the database or as they last were."""
        return self._is_loaded

    def keys(self) -> list[ApiKey]:
        """Return the keys that are known, from memory."""
        return list(self._book.values())

    def strangers(self) -> int:
        """Return how many valid keys were made with a pepper that this pod does not have."""
        now = self._clock.now()
        return sum(k.is_valid(now) and not self._seal.knows(k.pepper_id) for k in self.keys())

    def authenticate(self, text: str) -> ApiKey | None:
        """Return the valid key with this text.

        Raises:
            KeysUnknown: no keys could be read since the start.
        """
        key_id = find_key_id(text)
        if key_id is None:
            return None
        key = self._book.get(key_id) or self._look_again(key_id)
        # The same work for a key that does not exist.
        fits = self._seal.fits(key or self._nobody, text)
        if key is None or not fits:
            return None
        now = self._clock.now()
        if not key.is_valid(now):
            return None
        self._used[key.id] = now
        return key

    def find(self, key_id: str) -> ApiKey | None:
        """Return the key if it is valid, from memory."""
        key = self._book.get(key_id)
        return key if key is not None and key.is_valid(self._clock.now()) else None

    def sync(self) -> None:
        """Write when keys were used, and read the keys again.

        Raises:
            StoreUnavailable, StoreRejected: what was known stays. ServiceBusy.
        """
        with self._in_turn():
            number = self._misses.begin()
            succeeded = found_news = False
            try:
                found_news = self._read()
                succeeded = True
            finally:
                self._misses.end(number, succeeded=succeeded, found_news=found_news)

    def add(self, key: ApiKey) -> None:
        """Write a new key; it is valid here at once. Raises as sync."""
        with self._in_turn():
            self._store.add(key)
            self._put(key)

    def revoke(self, key_id: str, by: str) -> ApiKey | None:
        """End a key, here at once; return it, None when there is none. Raises as sync."""
        with self._in_turn():
            revoked = self._store.revoke(key_id, by)
            if revoked is not None:
                self._put(revoked)
            return revoked

    def listing(self, company_id: str | None) -> list[ApiKey]:
        """Return the keys of a company, or all, as the database has them, the newest first."""
        used = dict(self._used)
        return [
            replace(key, last_used_at=max(key.last_used_at or used[key.id], used[key.id]))
            if key.id in used
            else key
            for key in self._store.listing(company_id)
        ]

    def _read(self) -> bool:
        """Read the keys; tell whether they are others than those known."""
        used, self._used = self._used, {}
        try:
            book = self._store.sync(dict(used), self._fingerprint)
        except BaseException:
            self._used = used | self._used
            raise
        found_news = book.keys is not None
        if book.keys is not None:
            self._book = {key.id: key for key in book.keys}
            self._keep()
        self._fingerprint = book.fingerprint
        self._is_loaded = True
        return found_news

    def _put(self, key: ApiKey) -> None:
        self._book = {**self._book, key.id: key}
        self._fingerprint = None  # the next sync reads them all
        self._keep()

    def _keep(self) -> None:
        rows = [write_api_key(key) for key in self._book.values()]
        try:
            self._kept.keep(json.dumps({"keys": rows}))
        except StorageError as exc:
            _LOG.warning("The keys are not kept for a restart: %s", exc.message)

    def _look_again(self, key_id: str) -> ApiKey | None:
        """Have the keys read again if that is due, and wait for it within limits."""
        was_read = self._misses.consult(key_id, self._ask)
        key = self._book.get(key_id)
        if key is None and not self._is_loaded:
            raise KeysUnknown()
        if key is None and was_read:
            self._misses.note_absent(key_id)
        return key

    def _sync_quietly(self) -> None:
        try:
            self.sync()
        except CrmWhatsappError as exc:
            _LOG.warning("The keys cannot be read: %s", exc.message)

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        if not self._turn.acquire(timeout=_TURN_SECONDS):
            raise ServiceBusy("Others wait for the database already; try again in a moment.")
        try:
            yield
        finally:
            self._turn.release()


def _nobody(seal: KeySeal) -> ApiKey:
    """Return a key that no text fits."""
    return ApiKey(
        id="aaaaaaaaaaaa",
        name="nobody",
        company_id=None,
        scopes=frozenset(),
        pepper_id=seal.first_id,
        mac="0" * 64,
        created_at=datetime.fromtimestamp(0, UTC),
        created_by="nobody",
    )
