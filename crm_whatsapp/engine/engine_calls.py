"""Calls on their way through an engine: probes, logouts, sends. Control thread only."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from crm_whatsapp.engine.control_loop import ControlLoop, Timer
from crm_whatsapp.engine.engine_unit import Engine
from crm_whatsapp.engine.frames import Frame, Order
from crm_whatsapp.engine.session_table import Session

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEnd:
    """How a call ended.

    fields: what the engine answered; None without an answer.
    detail: why there is none.
    """

    fields: Fields | None
    detail: str = ""


@dataclass(slots=True, kw_only=True, eq=False)
class _Pending:
    engine: Engine
    done: Callable[[CallEnd], None]
    timer: Timer


class EngineCalls:
    """Gives each call to its engine and ends it: with the answer, in time, or with the engine."""

    def __init__(self, loop: ControlLoop) -> None:
        self._loop = loop
        self._numbers = itertools.count(1)
        self._pending: dict[int, _Pending] = {}

    def make(
        self,
        session: Session,
        order: Order,
        *,
        engine_seconds: float,
        limit_seconds: float,
        done: Callable[[CallEnd], None],
        **fields: Any,
    ) -> None:
        """Call; `done` is called once, within limit_seconds.

        Args:
            engine_seconds: what the engine gives the call.
        """
        assert session.engine is not None  # noqa: S101 - callers have looked
        call_id = next(self._numbers)
        timer = self._loop.call_in(
            limit_seconds,
            lambda: self._end(call_id, CallEnd(fields=None, detail="The engine did not answer.")),
        )
        self._pending[call_id] = _Pending(engine=session.engine, done=done, timer=timer)
        session.engine.send(
            {
                "type": order,
                "call_id": call_id,
                "company_id": session.company_id,
                "generation": session.generation,
                "timeout_seconds": engine_seconds,
                **fields,
            }
        )

    def answered(self, frame: Frame) -> None:
        """Take a CALLED frame."""
        call_id, fields = frame.get("call_id"), frame.get("fields")
        if isinstance(call_id, int) and isinstance(fields, dict):
            self._end(call_id, CallEnd(fields=fields))

    def engine_ended(self, engine: Engine) -> None:
        """End what was on its way through this engine."""
        for call_id, pending in list(self._pending.items()):
            if pending.engine is engine:
                self._end(call_id, CallEnd(fields=None, detail="The engine ended."))

    def _end(self, call_id: int, end: CallEnd) -> None:
        pending = self._pending.pop(call_id, None)
        if pending is not None:
            pending.timer.cancel()
            pending.done(end)
