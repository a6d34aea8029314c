"""One real Postgres and PostgREST for all contract tests; a company of its own for each test."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from local_supabase import LocalSupabase

DEADLINE_SECONDS = 20
POLL_SECONDS = 0.02


class Rest:
    """Calls to PostgREST through the gateway, as one kind of client."""

    def __init__(self, stack: LocalSupabase, key: str, token: str | None = None) -> None:
        headers = {"apikey": key, "Authorization": f"Bearer {token or key}"}
        self.client = httpx.Client(base_url=f"{stack.url}/rest/v1", headers=headers, timeout=20)

    def rpc(self, function: str, **parameters: Any) -> Any:
        """Call a function; an error answer fails the test with PostgREST's words."""
        response = self.try_rpc(function, **parameters)
        assert response.is_success, f"{function}: {response.status_code} {response.text}"
        return response.json()

    def try_rpc(self, function: str, **parameters: Any) -> httpx.Response:
        """Call a function and return whatever was answered."""
        return self.client.post(f"/rpc/{function}", json=parameters)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSupabase]:
    """The stack that all tests share: use fresh company ids, expect foreign rows."""
    with LocalSupabase.start(tmp_path_factory.mktemp("supabase")) as running:
        yield running


@pytest.fixture
def make_rest(stack: LocalSupabase) -> Iterator[Callable[..., Rest]]:
    """Give clients for an API key and, if other than it, an access token."""
    opened: list[Rest] = []

    def make(key: str, token: str | None = None) -> Rest:
        opened.append(Rest(stack, key, token))
        return opened[-1]

    yield make
    for rest in opened:
        rest.client.close()


@pytest.fixture
def service(stack: LocalSupabase, make_rest: Callable[..., Rest]) -> Rest:
    """The client that the service is."""
    return make_rest(stack.service_key)


@pytest.fixture
def database(stack: LocalSupabase) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    """A direct connection of the schema's owner; every statement commits by itself."""
    with psycopg.connect(stack.db_url, autocommit=True, row_factory=dict_row) as connection:
        yield connection


@pytest.fixture
def company_id() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def owner_id() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def eventually() -> Callable[[Callable[[], object], str], None]:
    """Wait for a condition of another process, up to a deadline."""

    def wait(condition: Callable[[], object], expectation: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        pause = threading.Event()
        while not condition():
            assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS} s: {expectation}"
            pause.wait(POLL_SECONDS)

    return wait
