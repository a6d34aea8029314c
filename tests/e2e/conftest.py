"""One local Supabase and one sandbox for all end-to-end tests; every test starts from nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment import Deployment, SandboxAdmin, empty_database

from local_supabase import LocalSupabase
from sandbox import Sandbox


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSupabase]:
    """Real Postgres and PostgREST, migrated."""
    with LocalSupabase.start(tmp_path_factory.mktemp("supabase")) as running:
        yield running


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """The local WhatsApp edge."""
    with Sandbox.start(tmp_path_factory.mktemp("sandbox")) as running:
        yield running


@pytest.fixture
def phones(sandbox: Sandbox) -> SandboxAdmin:
    """The sandbox's admin API, with no phone, device or fault left from an earlier test."""
    admin = SandboxAdmin(sandbox.admin_url)
    admin.reset()
    return admin


@pytest.fixture
def deployment(
    stack: LocalSupabase, sandbox: Sandbox, phones: SandboxAdmin, tmp_path: Path
) -> Iterator[Deployment]:
    """A service to be started by the test; everything it started is ended afterwards."""
    empty_database(stack.db_url)
    world = Deployment(stack=stack, sandbox=sandbox, phones=phones, folder=tmp_path)
    try:
        yield world
    finally:
        world.end()


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show the end of the service's log with a failure."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    world = getattr(item, "funcargs", {}).get("deployment")
    if report.failed and isinstance(world, Deployment):
        report.sections.append(("service log", world.log_tail()))
