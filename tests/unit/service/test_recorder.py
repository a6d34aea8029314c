"""A change is recorded first and once, in order, whatever the disk and the listeners do."""

import threading
from dataclasses import replace

import pytest

from crm_whatsapp.domain.connection import Connection, DesiredState, Status
from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.domain.notices import Notice, NoticeKind
from crm_whatsapp.domain.transitions import Transition
from crm_whatsapp.service import recorder as module
from crm_whatsapp.service.recorder import Recorder
from tests.unit.service.fakes import DEADLINE_SECONDS, NOON, FakeJournal
from tests.unit.service.pod import COMPANY, OTHER


@pytest.fixture
def journal() -> FakeJournal:
    return FakeJournal()


@pytest.fixture
def recorder(journal: FakeJournal) -> Recorder:
    return Recorder(journal)


def record(recorder: Recorder, number: int, event: str = "Event") -> None:
    before = Connection(company_id=COMPANY, version=number - 1)
    recorder.record(before, replace(before, version=number), event, NOON)


def notice(number: int, kind: NoticeKind = NoticeKind.MESSAGE) -> Notice:
    return Notice(
        id=f"00000000-0000-4000-8000-{number:012d}",
        kind=kind,
        company_id=COMPANY,
        occurred_at=NOON,
        data={"number": number},
    )


def numbers(journal: FakeJournal) -> list[int]:
    """Return the versions of transitions and the numbers of notices, as the journal has them."""
    return [
        item.data["number"] if isinstance(item, Notice) else item.connection.version
        for item in journal.backlog
    ]


def versions(journal: FakeJournal) -> list[int]:
    return [transition.connection.version for transition in journal.written]


def test_what_a_full_disk_refused_is_written_in_order_and_once(
    recorder: Recorder, journal: FakeJournal
) -> None:
    heard: list[int] = []
    recorder.listen(lambda transition: heard.append(transition.connection.version))
    record(recorder, 1)
    journal.refusal = StorageError("full")
    record(recorder, 2)
    record(recorder, 3)
    assert recorder.held_count == 2
    assert recorder.retry_held() == 0

    journal.refusal = None
    record(recorder, 4)

    assert versions(journal) == [1, 2, 3, 4]
    assert heard == [1, 2, 3, 4]
    assert recorder.held_count == 0
    assert recorder.retry_held() == 0


def test_the_sweep_writes_what_was_held_and_says_how_much(
    recorder: Recorder, journal: FakeJournal
) -> None:
    journal.refusal = StorageError("full")
    record(recorder, 1)
    record(recorder, 2)
    journal.refusal = None
    assert recorder.retry_held() == 2
    assert versions(journal) == [1, 2]


def test_one_that_cannot_be_written_at_all_does_not_hold_up_the_others(
    recorder: Recorder, journal: FakeJournal
) -> None:
    journal.refused_events.add("Poison")
    record(recorder, 1, "Poison")
    record(recorder, 2)
    assert versions(journal) == [2]
    assert (recorder.lost, recorder.held_count) == (1, 0)


def test_what_no_longer_fits_into_memory_is_counted(
    recorder: Recorder, journal: FakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_HELD", 3)
    journal.refusal = StorageError("full")
    for number in range(1, 6):
        record(recorder, number)
    journal.refusal = None
    recorder.retry_held()
    assert versions(journal) == [3, 4, 5]
    assert recorder.lost == 2


def test_a_failing_listener_keeps_nobody_from_the_change(
    recorder: Recorder, journal: FakeJournal
) -> None:
    heard: list[Transition] = []

    def fail(transition: Transition) -> None:
        raise RuntimeError("a listener's own trouble")

    recorder.listen(fail)
    recorder.listen(heard.append)
    record(recorder, 1)
    assert versions(journal) == [1]
    assert len(heard) == 1


@pytest.mark.parametrize(
    ("before", "after", "wish", "final"),
    [
        ({}, {"status": Status.CONNECTING}, False, False),
        ({}, {"status": Status.BANNED}, False, True),
        ({}, {"status": Status.LOGGED_OUT}, False, True),
        ({"desired_state": DesiredState.RUN}, {"desired_state": DesiredState.STOP}, True, True),
    ],
)
def test_wishes_and_final_words_survive_a_power_cut(
    recorder: Recorder, journal: FakeJournal, before: dict, after: dict, wish: bool, final: bool
) -> None:
    first = Connection(company_id=OTHER, **before)
    recorder.record(first, replace(first, **after), "Event", NOON)
    transition = journal.written[0]
    assert (transition.sets_desired_state, transition.final) == (wish, final)


def test_notices_keep_their_place_among_the_changes_on_a_full_disk(
    recorder: Recorder, journal: FakeJournal
) -> None:
    record(recorder, 1)
    recorder.record_notice(notice(2), keep=True)
    journal.refusal = StorageError("full")
    record(recorder, 3)
    recorder.record_notice(notice(4, NoticeKind.QR), keep=False)
    record(recorder, 5)
    assert recorder.held_count == 2, "a notice is no change that the row lacks"
    journal.refusal = None
    assert recorder.retry_held() == 3
    assert numbers(journal) == [1, 2, 3, 4, 5]
    assert [keep for _, keep in journal.notices] == [True, False]


def test_notices_that_no_longer_fit_into_memory_cost_no_change(
    recorder: Recorder, journal: FakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_NOTICES_HELD", 2)
    journal.refusal = StorageError("full")
    record(recorder, 1)
    for number, kept in ((2, True), (3, False), (4, True), (5, True)):
        recorder.record_notice(notice(number), keep=kept)
    record(recorder, 6)
    journal.refusal = None
    recorder.retry_held()
    assert numbers(journal) == [1, 4, 5, 6], "the passing one went first, then the oldest"
    assert (recorder.lost, recorder.lost_notices) == (0, 2)


def test_a_notice_that_cannot_be_written_holds_up_nothing(
    recorder: Recorder, journal: FakeJournal
) -> None:
    journal.refused_events.add(NoticeKind.MESSAGE)
    recorder.record_notice(notice(1), keep=True)
    record(recorder, 2)
    assert numbers(journal) == [2]
    assert recorder.lost_notices == 1


def test_what_is_held_is_told_by_kind(recorder: Recorder, journal: FakeJournal) -> None:
    journal.refusal = StorageError("full")
    record(recorder, 1)
    recorder.record_notice(notice(2), keep=True)
    recorder.record_notice(notice(3), keep=True)
    assert recorder.held == (1, 2)

    journal.refusal = None
    recorder.retry_held()

    assert recorder.held == (0, 0)


def test_what_is_held_is_told_while_the_disk_hangs(
    recorder: Recorder, journal: FakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, go_on = threading.Event(), threading.Event()

    def hang(transition: Transition) -> None:
        writing.set()
        assert go_on.wait(DEADLINE_SECONDS)

    monkeypatch.setattr(journal, "append", hang)
    recording = threading.Thread(target=record, args=(recorder, 1))
    recording.start()
    assert writing.wait(DEADLINE_SECONDS)

    assert recorder.held == (0, 0)
    go_on.set()
    recording.join()
