"""Ends engines that say nothing, and those that have nothing to do; control thread only."""

from collections.abc import Iterable

import structlog

from crm_whatsapp.domain.engines import EngineRole
from crm_whatsapp.engine.engine_unit import Engine
from crm_whatsapp.engine.settings import EngineSettings
from crm_whatsapp.engine.shard_slots import ShardSlots

_log = structlog.get_logger(__name__)

_END_SECONDS = 2.0


class EngineWatch:
    """Looks at every engine once a tick."""

    def __init__(self, settings: EngineSettings, slots: ShardSlots, now: float) -> None:
        self._settings = settings
        self._slots = slots
        self._looked_at = now

    def tick(self, engines: Iterable[Engine], now: float, tick_seconds: float) -> None:
        stood_still = now - self._looked_at > 4 * tick_seconds
        self._looked_at = now
        for engine in engines:
            if engine.process is None:
                continue
            if stood_still:  # this process did; hear what the engines have said meanwhile
                engine.heard_at = max(engine.heard_at, now - self._settings.heartbeat_seconds)
            if self._is_silent(engine, now):
                _log.error(
                    "engine_silent", engine=engine.name, seconds=round(now - engine.heard_at, 1)
                )
                engine.process.kill()
            elif self._is_idle(engine, now):
                if engine.role is EngineRole.SHARD:
                    self._slots.vacate(engine)
                engine.shut_down(_END_SECONDS)

    def _is_silent(self, engine: Engine, now: float) -> bool:
        settings = self._settings
        limit = settings.heartbeat_loss_seconds if engine.ready else settings.hello_seconds
        return now - engine.heard_at > limit

    def _is_idle(self, engine: Engine, now: float) -> bool:
        return (
            engine.role is not EngineRole.PAIRING
            and engine.ready
            and not engine.ending
            and not engine.retiring
            and engine.empty_since is not None
            and now - engine.empty_since >= self._settings.idle_engine_seconds
        )
