"""One engine of the fleet, from the decision to have it until its process has ended."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from crm_whatsapp.domain.engines import EngineHealth, EngineRole, PairOrder
from crm_whatsapp.engine.child_settings import ChildSettings
from crm_whatsapp.engine.engine_process import EngineProcess
from crm_whatsapp.engine.frames import Frame, Order
from crm_whatsapp.engine.session_table import Key, Session
from crm_whatsapp.engine.settings import EngineSettings

_MIB = 1024 * 1024
_MOST = 2**62  # of a count; above it arithmetic with fractions fails


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """The last heartbeat."""

    starts: int = 0
    open_descriptors: int = 0
    hanging_uploads: int = 0
    rss_bytes: int = 0
    pss_bytes: int | None = None

    @property
    def memory_mb(self) -> float:
        return (self.pss_bytes if self.pss_bytes is not None else self.rss_bytes) / _MIB

    @classmethod
    def from_frame(cls, frame: Frame) -> "Pulse":
        """Return what a HEARTBEAT frame says; what is no number counts as nothing."""
        values: dict[str, Any] = {
            name: _count(frame.get(name)) or 0
            for name in ("starts", "open_descriptors", "hanging_uploads", "rss_bytes")
        }
        return cls(**values, pss_bytes=_count(frame.get("pss_bytes")))


def _count(value: object) -> int | None:
    """Return a figure that an engine may well have; whatever has taken it over may say anything."""
    return value if isinstance(value, int) and 0 <= value <= _MOST else None


class Engine:
    """Holds the sessions given to it, also before its process runs.

    Args:
        slot: the place of a shard engine; None for pairing and isolation engines.
    """

    def __init__(
        self,
        *,
        name: str,
        role: EngineRole,
        slot: int | None,
        settings: EngineSettings,
        careful: bool = False,
        deaths: int = 0,
    ) -> None:
        self.name = name
        self.role = role
        self.slot = slot
        self.careful = careful
        self.deaths = deaths
        self.sessions: dict[Key, Session] = {}
        self.process: EngineProcess | None = None
        self.ready = False
        self.retiring = False
        self.ending = False
        self.unusable: str | None = None
        self.modules: frozenset[str] = frozenset()
        self.pulse = Pulse()
        self.abandoned: dict[Key, float] = {}
        self.spawn_due_at = time.monotonic()
        self.spawned_at: float | None = None
        self.heard_at = time.monotonic()
        self.empty_since: float | None = time.monotonic()
        self._settings = settings

    def spawn(
        self,
        environment: dict[str, str],
        *,
        on_frame: Callable[["Engine", Frame], None],
        on_end: Callable[["Engine", int], None],
    ) -> None:
        """Start the process and give it what waits for it.

        Raises:
            OSError: the process could not be started.
        """
        self.process = EngineProcess(
            name=self.name,
            environment=environment,
            on_frame=lambda frame: on_frame(self, frame),
            on_end=lambda return_code: on_end(self, return_code),
        )
        self.spawned_at = self.heard_at = time.monotonic()
        self.process.send(self._child_settings().frame())
        for session in self.sessions.values():
            self.process.send(session.order_frame())

    def take(self, session: Session) -> None:
        """Hold a session, and start it as soon as there is a process."""
        self.sessions[session.key] = session
        self.empty_since = None
        session.engine = self
        if self.process is not None:
            self.process.send(session.order_frame())

    def drop(self, session: Session) -> None:
        self.sessions.pop(session.key, None)
        self.abandoned.pop(session.key, None)
        if not self.sessions:
            self.empty_since = time.monotonic()

    def send(self, frame: Frame) -> None:
        if self.process is not None:
            self.process.send(frame)

    def kill(self) -> None:
        """End it now and on purpose."""
        self.ending = True
        if self.process is not None:
            self.process.kill()

    def shut_down(self, timeout_seconds: float) -> None:
        """Ask it to stop everything and to exit; an engine that has not loaded yet is killed."""
        self.ending = True
        if self.process is None:
            return
        if not self.ready:
            self.process.kill()
            return
        self.process.send({"type": Order.SHUTDOWN, "timeout_seconds": timeout_seconds})

    def set_careful(self, on: bool) -> None:
        self.careful = on
        self.send({"type": Order.CAREFUL, "on": on})

    @property
    def holds_only_abandoned(self) -> bool:
        return bool(self.abandoned) and all(key in self.abandoned for key in self.sessions)

    def suspects(self) -> set[Key]:
        """Return the sessions that may have ended the process: in mid-start, or alone in it."""
        suspects = {key for key, session in self.sessions.items() if session.is_suspicious}
        if not suspects and self.ready and len(self.sessions) == 1:
            (session,) = self.sessions.values()
            if session.was_dialed and isinstance(session.order, PairOrder) is False:
                suspects = {session.key}
        return suspects

    def health(self, now: float) -> EngineHealth:
        waits = self.process is None
        return EngineHealth(
            name=self.name,
            role=self.role,
            pid=self.process.pid if self.process else None,
            alive=self.ready,
            retiring=self.retiring,
            sessions=len(self.sessions),
            abandoned=len(self.abandoned),
            starts=self.pulse.starts,
            deaths=self.deaths,
            open_descriptors=self.pulse.open_descriptors,
            memory_mb=round(self.pulse.memory_mb, 1),
            heartbeat_age_seconds=0.0 if waits else max(0.0, now - self.heard_at),
            retry_in_seconds=max(0.0, self.spawn_due_at - now) if waits else None,
        )

    def _child_settings(self) -> ChildSettings:
        settings = self._settings
        return ChildSettings(
            device_name=settings.device_name,
            log_level=settings.log_level,
            careful=self.careful,
            start_gate_max_seconds=settings.start_gate_max_ms / 1000,
            call_entry_max_seconds=settings.call_entry_max_ms / 1000,
            dials_at_once=settings.dials_at_once,
            lock_wait_seconds=settings.lock_wait_seconds,
            slow_stop_seconds=settings.slow_stop_seconds,
            calls_per_client=settings.calls_per_client,
            calls_per_engine=settings.calls_per_engine,
            uploads_per_client=settings.uploads_per_client,
            uploads_per_engine=settings.uploads_per_engine,
            upload_bytes_at_once=settings.upload_bytes_at_once,
            heartbeat_seconds=settings.heartbeat_seconds,
            memory_check_seconds=settings.memory_check_seconds,
        )
