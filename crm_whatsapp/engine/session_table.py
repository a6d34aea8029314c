"""The sessions of the fleet as the supervisor knows them; used on its control thread only."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from crm_whatsapp.domain.engines import PairOrder, StartOrder
from crm_whatsapp.domain.events import ClientStopped, EngineEvent
from crm_whatsapp.engine.frames import Frame, Order

if TYPE_CHECKING:
    from crm_whatsapp.engine.engine_unit import Engine

Key = tuple[str, int]
"""company_id, generation"""


class Stage(StrEnum):
    """How far a start has come."""

    PARKED = "parked"  # waits until an older client of the company is gone
    QUEUED = "queued"  # waits for an isolation engine
    ORDERED = "ordered"  # given to an engine
    STARTING = "starting"  # its engine said that it dials now
    SETTLED = "settled"  # its login was answered


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """One start of one company's client.

    final: what is to be said when its engine has ended, instead of EngineDied.
    closing: its engine is being ended on purpose; nothing is to be said, unless `final` is set.
    """

    order: StartOrder | PairOrder
    stage: Stage = Stage.ORDERED
    engine: "Engine | None" = None
    settled_at: float | None = None
    connected_at: float | None = None
    stop_requested: bool = False
    closing: bool = False
    final: EngineEvent | None = None
    handover_requested_at: float | None = None

    @property
    def company_id(self) -> str:
        return self.order.company_id

    @property
    def generation(self) -> int:
        return self.order.generation

    @property
    def key(self) -> Key:
        return self.order.company_id, self.order.generation

    @property
    def is_suspicious(self) -> bool:
        """Say whether its start may be what ends its engine."""
        return self.stage is Stage.STARTING

    @property
    def was_dialed(self) -> bool:
        return self.stage in (Stage.STARTING, Stage.SETTLED)

    def stopped_event(self) -> ClientStopped:
        return ClientStopped(company_id=self.company_id, generation=self.generation)

    def order_frame(self) -> Frame:
        """Return the frame that starts it."""
        order = self.order
        frame: Frame = {
            "type": Order.START,
            "company_id": order.company_id,
            "generation": order.generation,
            "store_path": str(order.store_path),
            "lock_path": str(order.lock_path),
            "proxy": order.proxy,
        }
        if isinstance(order, PairOrder):
            frame |= {"type": Order.PAIR, "phone_number": order.phone_number}
        return frame


class SessionTable:
    """Sessions by company and generation."""

    def __init__(self) -> None:
        self._sessions: dict[str, dict[int, Session]] = {}

    def add(self, session: Session) -> None:
        self._sessions.setdefault(session.company_id, {})[session.generation] = session

    def remove(self, session: Session) -> None:
        generations = self._sessions.get(session.company_id, {})
        generations.pop(session.generation, None)
        if not generations:
            self._sessions.pop(session.company_id, None)

    def find(self, company_id: str, generation: int) -> Session | None:
        return self._sessions.get(company_id, {}).get(generation)

    def of_company(self, company_id: str) -> list[Session]:
        return list(self._sessions.get(company_id, {}).values())

    def all(self) -> list[Session]:
        return [s for generations in self._sessions.values() for s in generations.values()]
