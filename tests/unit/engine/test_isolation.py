"""Suspects start alone, one after the other."""

import time
from pathlib import Path

from crm_whatsapp.domain.engines import StartOrder
from crm_whatsapp.engine.engine_unit import Engine
from crm_whatsapp.engine.isolation import IsolationWard
from crm_whatsapp.engine.session_table import Session, Stage
from crm_whatsapp.engine.settings import EngineSettings


class Ward:
    """The ward, and what it asked for."""

    def __init__(self, **settings: float) -> None:
        self.opened: list[Engine] = []
        self.asked: list[str] = []
        self.ward = IsolationWard(
            EngineSettings(**{"isolation_engines_max": 1, **settings}),  # type: ignore[arg-type]
            lambda engine, wait: self.opened.append(engine),
            lambda session, engine: engine.take(session),
            lambda session: self.asked.append(session.company_id),
        )

    def admit(self, company_id: str) -> Session:
        order = StartOrder(
            company_id=company_id,
            generation=1,
            store_path=Path("store.db"),
            lock_path=Path("lock"),
            isolated=True,
        )
        session = Session(order=order)
        self.ward.admit(session)
        return session


def test_one_at_a_time() -> None:
    ward = Ward()
    first, second = ward.admit("a"), ward.admit("b")
    assert first.engine is ward.opened[0]
    assert second.stage is Stage.QUEUED
    assert second.engine is None
    ward.opened[0].drop(first)
    ward.ward.advance()
    assert second.engine is ward.opened[0]
    assert len(ward.opened) == 1


def test_a_stopped_session_leaves_the_queue() -> None:
    ward = Ward()
    first, second, third = ward.admit("a"), ward.admit("b"), ward.admit("c")
    ward.ward.forget(second)
    ward.opened[0].drop(first)
    ward.ward.advance()
    assert third.engine is ward.opened[0]
    assert second.engine is None


def test_proof_is_shorter_while_others_wait() -> None:
    ward = Ward(isolation_proof_seconds=60, isolation_proof_queued_seconds=1)
    first = ward.admit("a")
    first.connected_at = now = time.monotonic()
    ward.ward.tick(now + 30)
    assert ward.asked == []
    ward.admit("b")
    ward.ward.tick(now + 30)
    assert ward.asked == ["a"]
    ward.ward.tick(now + 31)
    assert ward.asked == ["a"], "asked once"
    ward.ward.tick(now + 61)
    assert ward.asked == ["a", "a"], "and again when nothing came of it"


def test_a_session_that_hangs_after_its_login_blocks_nobody() -> None:
    ward = Ward()
    first = ward.admit("a")
    second = ward.admit("b")
    first.settled_at = time.monotonic() - 11
    ward.ward.tick(time.monotonic())
    assert second.engine is ward.opened[1]


def test_a_dead_engine_is_replaced_for_the_next() -> None:
    ward = Ward()
    ward.admit("a")
    second = ward.admit("b")
    ward.ward.engine_ended(ward.opened[0])
    ward.ward.advance()
    assert second.engine is ward.opened[1]
