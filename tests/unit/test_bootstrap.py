"""The life of the service: started late, stopped early, failing, hanging, and always in time."""

import fcntl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crm_whatsapp.bootstrap import Parts, RunningService, WorkerLock, stop_parts
from crm_whatsapp.domain.connection import Reason, Status
from crm_whatsapp.domain.errors import ConfigurationError, StorageError
from crm_whatsapp.gunicorn_worker import boot_failure
from crm_whatsapp.jobs.job_board import JobBoard
from crm_whatsapp.service.event_stream import EventStream
from crm_whatsapp.sessions.store_pages import StorePages
from crm_whatsapp.web.app_factory import WebServices, WebSettings, create_app
from tests.unit.service.fakes import DEADLINE_SECONDS, HangingCalls
from tests.unit.service.pod import COMPANY, Pod
from tests.unit.web.fakes import STREAM_LIMITS


def no_keeper() -> Any:
    """Return a keeper without a key."""
    return SimpleNamespace(is_on=False, start=lambda: None, stop=lambda: None)


def parts_of(pod: Pod) -> Parts:
    """Return the fakes in the places of the real things."""
    values: dict[str, Any] = {
        "settings": SimpleNamespace(),
        "folders": pod.folders,
        "journal": pod.journal,
        "recorder": pod.recorder,
        "write_behind": pod.write_behind,
        "leases": pod.leases,
        "fleet": pod.fleet,
        "manager": pod.manager,
        "reconciliation": pod.reconciliation,
        "restore": pod.restore,
        "readiness": None,
        "messaging": None,
        "attachments": None,
        "jobs": JobBoard(),
        "snapshots": SimpleNamespace(keeper=no_keeper(), opener=pod.opener, pages=StorePages()),
        "retention": SimpleNamespace(stop=lambda: None),
        "clock": pod.clock,
        "alerts": SimpleNamespace(start=lambda: None, stop=lambda timeout_seconds: None),
        "notices": pod.notices,
        "metrics": None,
        "events": EventStream(STREAM_LIMITS, pod.clock),
        "reports": None,
        "backups": None,
        "webhooks": SimpleNamespace(start=lambda: None, stop=lambda timeout_seconds: True),
        "access": SimpleNamespace(start=lambda: None),
        "users": SimpleNamespace(),
    }
    return Parts(**values)


@pytest.fixture
def settings(tmp_path: Path) -> Any:
    (tmp_path / ".locks").mkdir()
    return SimpleNamespace(
        sessions_dir=tmp_path, graceful_shutdown_timeout=2_000, session_storage_retry_seconds=0.01
    )


@pytest.fixture
def pod() -> Iterator[Pod]:
    made = Pod()
    yield made
    made.store.before_call = lambda name: None
    made.write_behind.stop(DEADLINE_SECONDS)
    made.leases.stop(DEADLINE_SECONDS)


class Making:
    """Stands for `build`: waits, fails or makes, as the test says."""

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.failures: list[Exception] = []
        self.made = threading.Event()
        self.attempts = 0

    def __call__(self, settings: object) -> Parts:
        self.attempts += 1
        self.entered.set()
        assert self.go_on.wait(DEADLINE_SECONDS)
        if self.failures:
            raise self.failures.pop(0)
        self.made.set()
        return parts_of(self.pod)


def booted(service: RunningService) -> None:
    service._boot.join(DEADLINE_SECONDS)
    assert not service._boot.is_alive()


def test_it_starts_serves_and_stops(settings: Any, pod: Pod) -> None:
    pod.folders.save(COMPANY)
    service = RunningService(settings, Making(pod))
    service.start()
    booted(service)
    assert service.boot_error is None
    pod.await_status(Status.CONNECTED)
    service.stop()
    assert pod.journal.closed
    row = pod.row()
    assert row is not None
    assert row.reason is Reason.SERVICE_STOPPED
    assert pod.store.database.leases[COMPANY].expires_at <= pod.clock.monotonic()
    service.stop()  # a second time is no harm
    assert len(pod.fleet.shutdowns) == 1


def test_what_hinders_the_start_for_a_while_is_told_and_tried_again(
    settings: Any, pod: Pod
) -> None:
    making = Making(pod)
    making.failures = [StorageError("no space left"), StorageError("no space left")]
    service = RunningService(settings, making)
    service.start()
    booted(service)
    assert making.attempts == 3
    assert service.boot_error is None
    assert service.parts is not None
    service.stop()


def test_what_hinders_the_start_for_good_stays_visible(settings: Any, pod: Pod) -> None:
    making = Making(pod)
    making.failures = [ConfigurationError("SUPABASE_URL is not usable")]
    service = RunningService(settings, making)
    service.start()
    booted(service)
    assert service.boot_error == "SUPABASE_URL is not usable"
    assert (service.parts, making.attempts) == (None, 1)
    service.stop()


def test_a_defect_at_start_stays_visible_too(settings: Any, pod: Pod) -> None:
    making = Making(pod)
    making.failures = [RuntimeError()]
    service = RunningService(settings, making)
    service.start()
    booted(service)
    assert service.boot_error == "RuntimeError"


def test_readiness_says_why_the_service_is_not_up() -> None:
    def provider() -> WebServices | None:
        raise boot_failure("The state journal cannot be used: disk full.")

    app = create_app(provider, WebSettings(secret_key="0123456789abcdef"))
    client = app.test_client()
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json is not None
    assert answer.json["error"]["code"] == "not-ready"
    assert "disk full" in answer.json["error"]["message"]
    assert answer.json["ready"] is False
    assert answer.json["checks"][0]["name"] == "start"
    assert client.get("/healthz").status_code == 200
    status = client.get(
        f"/api/whatsapp/status?company_id={COMPANY}", headers={"X-API-Key": "whatever it is"}
    )
    assert status.status_code == 503


def test_a_stop_during_the_start_leaves_nothing_running(settings: Any, pod: Pod) -> None:
    pod.folders.save(COMPANY)
    making = Making(pod)
    making.go_on.clear()
    service = RunningService(settings, making)
    service.start()
    assert making.entered.wait(DEADLINE_SECONDS)
    stopping = threading.Thread(target=service.stop)
    stopping.start()
    assert service._stop_requested.wait(DEADLINE_SECONDS)
    making.go_on.set()
    stopping.join(DEADLINE_SECONDS)
    assert not stopping.is_alive()
    assert pod.fleet.orders == []
    assert pod.fleet.shutdowns
    assert pod.journal.closed


def test_a_stop_while_the_earlier_worker_still_holds_the_lock(settings: Any, pod: Pod) -> None:
    earlier = WorkerLock(settings.sessions_dir)
    earlier.acquire()
    making = Making(pod)
    service = RunningService(settings, making)
    service.start()
    service.stop()
    earlier.release()
    booted(service)
    assert making.attempts == 0
    assert pod.fleet.orders == []
    with (settings.sessions_dir / ".locks" / "worker.lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody holds it any more


def test_a_stop_without_a_start(settings: Any, pod: Pod) -> None:
    RunningService(settings, Making(pod)).stop()


def test_a_worker_that_was_told_to_stop_does_not_try_again(settings: Any, pod: Pod) -> None:
    settings.session_storage_retry_seconds = 3600.0
    making = Making(pod)
    making.failures = [StorageError("no space left")] * 100
    service = RunningService(settings, making)
    service.start()
    assert making.entered.wait(DEADLINE_SECONDS)
    service.stop()
    booted(service)
    assert making.attempts == 1


def slow_fleet(pod: Pod) -> None:
    """Make the engines use up all the time they are given."""
    shutdown: Callable[[float], list[str]] = pod.fleet.shutdown

    def slow(timeout_seconds: float) -> list[str]:
        threading.Event().wait(timeout_seconds)
        shutdown(timeout_seconds)
        return [COMPANY]

    pod.fleet.shutdown = slow  # type: ignore[method-assign]


def test_everything_hangs_and_the_stop_is_still_in_time(pod: Pod) -> None:
    """The database is frozen, the engines do not end, a message blocks a mailbox."""
    pod.start(restores=False)
    pod.connect_saved()
    pod.flush()
    hanging = HangingCalls("record", "list")
    pod.store.before_call = hanging
    release = pod.lease_store.release
    freed = threading.Event()

    def frozen_release(*arguments: Any) -> None:
        freed.wait(DEADLINE_SECONDS)
        release(*arguments)

    pod.lease_store.release = frozen_release  # type: ignore[method-assign]
    stuck, unstuck = threading.Event(), threading.Event()

    def block(_: object) -> None:
        stuck.set()
        unstuck.wait(DEADLINE_SECONDS)

    pod.manager.then("9d6f2061-60e5-4e93-a0df-f55dd5c3d40c", block)
    assert stuck.wait(DEADLINE_SECONDS)
    slow_fleet(pod)

    begun = time.monotonic()
    stop_parts(parts_of(pod), 1.0)
    took = time.monotonic() - begun

    for event in (unstuck, freed, hanging.let_go):
        event.set()
    assert took < 1.0 + 0.3, f"{took:.2f} s of 1 s"
    assert pod.journal.closed
    (last,) = [item for item in pod.journal.backlog if item.event == "ServiceStopping"]
    assert last.connection.reason is Reason.SERVICE_STOPPED
