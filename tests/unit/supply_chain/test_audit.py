"""What the audit makes of the replies of its databases."""

import pytest

import audit
from supply_chain.asking import CouldNotAsk, UnclearAnswer
from supply_chain.components import Ecosystem, LockError
from supply_chain.findings import Finding

HOLE = Finding(
    ecosystem=Ecosystem.PYPI,
    package="flask",
    version="3",
    names=frozenset({"CVE-2026-1"}),
    summary="is broken",
    remedy="no fix known",
)


class FakeDatabase:
    """Answers as told."""

    ecosystem = Ecosystem.PYPI

    def __init__(self, proof: Exception | None = None, answer: Exception | None = None) -> None:
        self.proof = proof
        self.answer = answer
        self.calls: list[object] = []

    def prove(self, seconds: float) -> None:
        self.calls.append(seconds)
        if self.proof is not None:
            raise self.proof

    def ask(self) -> tuple[Finding, ...]:
        self.calls.append("ask")
        if self.answer is not None:
            raise self.answer
        return (HOLE,)


def test_findings_count_once_the_database_is_proven() -> None:
    database = FakeDatabase()
    reply = audit.consult(database, 8)

    assert reply.is_answer
    assert reply.findings == (HOLE,)
    assert database.calls == [8, "ask"]


@pytest.mark.parametrize("error", [CouldNotAsk("is away"), UnclearAnswer("babbles")])
def test_nothing_is_asked_of_a_database_that_is_not_proven(error: Exception) -> None:
    database = FakeDatabase(proof=error)
    reply = audit.consult(database, 8)

    assert not reply.is_answer
    assert database.calls == [8]
    assert str(error) in (reply.not_asked, reply.unclear)


@pytest.mark.parametrize("error", [UnclearAnswer("babbles"), LockError("is not locked")])
def test_a_proven_database_must_answer(error: Exception) -> None:
    reply = audit.consult(FakeDatabase(answer=error), 8)

    assert reply.unclear == str(error)
    assert not reply.is_answer
