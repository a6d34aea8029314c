"""An entry is given up for what it holds, never for a database that refuses everything."""

from crm_whatsapp.domain.connection import Connection, Status
from crm_whatsapp.domain.transitions import Transition
from crm_whatsapp.service.refusals import Refusals
from tests.unit.service.fakes import NOON
from tests.unit.service.pod import COMPANY

KIND = "transition"


def entry(number: int = 1) -> Transition:
    return Transition(
        id=str(number),
        connection=Connection(company_id=COMPANY, version=number),
        event="Event",
        from_status=Status.CONNECTED,
        occurred_at=NOON,
    )


def refuse(refusals: Refusals, *, others_taken: bool, at_once: bool = False) -> bool:
    """Let a pass refuse the entry; tell whether it is given up."""
    since = refusals.now(KIND)
    refusals.note(entry(), since)
    if others_taken:
        refusals.accept(KIND, ["2"])
    return refusals.strike(KIND, entry(), at_once=at_once)


def test_while_everything_is_refused_nothing_is_given_up() -> None:
    refusals = Refusals()
    refusals.accept(KIND, ["0"])
    assert not any(refuse(refusals, others_taken=False) for _ in range(1000))
    assert not refusals.is_suspect(KIND, entry())


def test_refused_beside_others_that_are_taken_it_is_given_up_at_the_fourth_time() -> None:
    refusals = Refusals()
    assert [refuse(refusals, others_taken=True) for _ in range(4)] == [False, False, False, True]


def test_others_taken_once_after_it_was_refused_are_enough() -> None:
    refusals = Refusals()
    assert [refuse(refusals, others_taken=turn == 0) for turn in range(4)][-1]


def test_what_was_taken_of_another_kind_says_nothing() -> None:
    refusals = Refusals()
    refusals.note(entry(), refusals.now(KIND))
    refusals.accept("notice", ["2"])
    assert not refusals.is_suspect(KIND, entry())


def test_the_next_of_the_same_company_goes_at_once_if_others_are_taken() -> None:
    assert refuse(Refusals(), others_taken=True, at_once=True)
    assert not refuse(Refusals(), others_taken=False, at_once=True)


def test_what_is_taken_after_all_begins_anew() -> None:
    refusals = Refusals()
    for _ in range(3):
        refuse(refusals, others_taken=True)
    refusals.accept(KIND, [entry().id])
    assert not refusals.is_suspect(KIND, entry())
    assert not refuse(refusals, others_taken=True)
