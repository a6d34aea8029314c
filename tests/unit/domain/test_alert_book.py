"""When alerts open, when they are over, and how often people hear of it."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crm_whatsapp.domain.alert_book import (
    Advance,
    AlertBook,
    AlertGroup,
    AlertTerms,
    advance,
)
from crm_whatsapp.domain.alerts import Alert, AlertKind, AlertState, Sightings

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
TERMS = AlertTerms(
    hold_seconds={AlertKind.UNREACHABLE: 300.0, AlertKind.DATABASE_AWAY: 120.0},
    clear_seconds=60.0,
    group_seconds=15.0,
    pause_seconds=120.0,
    cool_down_seconds=1800.0,
    resolve_wait_seconds=900.0,
)


def session(
    number: int, kind: AlertKind = AlertKind.LOGGED_OUT, since: datetime | None = None
) -> Alert:
    company_id = f"company-{number}"
    return Alert(kind=kind, subject=company_id, company_id=company_id, since=since or NOON)


def database() -> Alert:
    return Alert(kind=AlertKind.DATABASE_AWAY, since=NOON)


def seen(*alerts: Alert, unsure: Iterable[str] = ()) -> Sightings:
    return Sightings(present={alert.key: alert for alert in alerts}, unsure=frozenset(unsure))


class Story:
    """A book through time."""

    def __init__(self, terms: AlertTerms = TERMS) -> None:
        self.terms = terms
        self.book = AlertBook()
        self.seconds = 0.0
        self.groups: list[AlertGroup] = []
        self.changes: list[tuple[str, AlertState]] = []

    @property
    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.seconds)

    def look(self, sightings: Sightings, after_seconds: float = 0.0) -> Advance:
        self.seconds += after_seconds
        step = advance(self.book, sightings, self.now, self.terms)
        self.book = step.book
        self.groups += step.groups
        self.changes += [(change.alert.key, change.state) for change in step.changes]
        return step

    def stay(self, sightings: Sightings, seconds: float, every: float = 5.0) -> None:
        """Look again and again for so long."""
        end = self.seconds + seconds
        while self.seconds < end:
            self.look(sightings, every)

    def told(self) -> list[tuple[str, str, int]]:
        """Return the messages: kind, state, how many alerts in it."""
        return [(item.kind.value, item.state.value, len(item.alerts)) for item in self.groups]


def test_an_alert_is_noted_at_once_and_told_when_others_had_time_to_join_it() -> None:
    story = Story()
    assert [change.state for change in story.look(seen(session(1))).changes] == ["open"]
    assert story.groups == []
    story.look(seen(session(1), session(2)), 10)
    assert story.groups == []
    story.look(seen(session(1), session(2), session(3)), 5)
    assert story.told() == [("session-logged-out", "open", 3)]
    story.stay(seen(session(1), session(2), session(3)), 7200)
    assert story.told() == [("session-logged-out", "open", 3)], "told once, however long it lasts"


def test_what_comes_later_makes_another_message_after_the_pause() -> None:
    story = Story()
    story.stay(seen(session(1)), 20)
    story.stay(seen(session(1), session(2)), 60)
    assert story.told() == [("session-logged-out", "open", 1)]
    story.stay(seen(session(1), session(2)), 60)
    assert story.told() == [("session-logged-out", "open", 1)] * 2


def test_a_kind_that_has_to_last_is_nothing_before() -> None:
    story = Story()
    story.stay(seen(session(1, AlertKind.UNREACHABLE)), 295)
    story.look(seen(), 1)
    story.stay(seen(session(1, AlertKind.UNREACHABLE)), 295)
    assert story.changes == []
    story.stay(seen(session(1, AlertKind.UNREACHABLE)), 30)
    assert story.told() == [("session-unreachable", "open", 1)]


def test_that_it_began_earlier_is_kept() -> None:
    story = Story()
    story.look(seen(session(1)))
    later = session(1, since=NOON + timedelta(hours=1))
    story.look(seen(later), 15)
    assert story.groups[0].alerts[0].since == NOON


def test_it_is_over_once_it_has_been_gone_for_a_while_and_that_is_told_once() -> None:
    story = Story()
    story.stay(seen(session(1)), 200)
    story.stay(seen(), 55)
    story.look(seen(session(1)), 1)
    assert story.changes == [("session-logged-out:company-1", "open")]
    story.stay(seen(), 65)
    assert story.changes[-1] == ("session-logged-out:company-1", "resolved")
    story.stay(seen(), 3600)
    assert story.told() == [
        ("session-logged-out", "open", 1),
        ("session-logged-out", "resolved", 1),
    ]
    assert story.book == AlertBook()


def test_many_that_are_over_one_by_one_are_told_together() -> None:
    story = Story()
    everyone = [session(number) for number in range(12)]
    story.stay(seen(*everyone), 60)
    for number in range(12):
        story.stay(seen(*everyone[number + 1 :]), 30)
    story.stay(seen(), 120)
    assert story.told() == [
        ("session-logged-out", "open", 12),
        ("session-logged-out", "resolved", 12),
    ]


def test_those_that_are_over_do_not_wait_for_ever_for_the_others() -> None:
    story = Story()
    story.stay(seen(session(1), session(2), session(3)), 60)
    story.stay(seen(session(3)), 60 + 880)
    assert len(story.groups) == 1
    story.stay(seen(session(3)), 60)
    assert story.told()[1:] == [("session-logged-out", "resolved", 2)]
    assert story.groups[1].still_open == 1


def test_one_that_was_over_before_it_was_told_is_not_told_at_all() -> None:
    story = Story(replace(TERMS, clear_seconds=5.0))
    story.look(seen(session(1)))
    story.stay(seen(), 600)
    assert story.groups == []
    assert [state for _, state in story.changes] == ["open", "resolved"]


def test_flapping_is_told_once_in_a_cool_down() -> None:
    story = Story()
    for _ in range(40):
        story.stay(seen(session(1)), 90)
        story.stay(seen(), 90)
    hours = story.seconds / 3600
    opened = [item for item in story.groups if item.state is AlertState.OPEN]
    assert 1 <= len(opened) <= 1 + hours * 3600 / TERMS.cool_down_seconds
    assert len(story.groups) <= 2 * len(opened)


def test_flicker_shorter_than_the_time_to_clear_is_nothing() -> None:
    story = Story()
    for _ in range(100):
        story.stay(seen(session(1)), 10)
        story.stay(seen(), 30)
    assert len(story.changes) == 1
    assert story.told() == [("session-logged-out", "open", 1)]


def test_an_alert_that_came_back_is_told_when_its_cool_down_is_over() -> None:
    story = Story()
    story.stay(seen(session(1)), 60)
    story.stay(seen(), 300)
    assert story.told()[-1][1] == "resolved"
    story.stay(seen(session(1)), 1200)
    assert len(story.groups) == 2
    story.stay(seen(session(1)), 600)
    assert story.told()[-1][1] == "open"


def test_another_trouble_of_the_same_session_is_no_good_news() -> None:
    story = Story()
    story.stay(seen(session(1, AlertKind.UNREACHABLE)), 400)
    story.stay(seen(session(1, AlertKind.FAILED)), 3600)
    assert story.told() == [("session-unreachable", "open", 1), ("session-failed", "open", 1)]
    assert ("session-unreachable:company-1", "resolved") in story.changes


def test_a_session_that_is_tried_again_is_not_over() -> None:
    story = Story()
    story.stay(seen(session(1, AlertKind.FAILED)), 60)
    failed = session(1, AlertKind.FAILED)
    for _ in range(20):
        trying = seen(session(1, AlertKind.UNREACHABLE), unsure=[failed.key])
        story.stay(trying, 100)
        story.stay(seen(failed), 200)
    assert story.told() == [("session-failed", "open", 1)]
    assert len(story.changes) == 1


def test_nothing_is_over_while_nobody_can_say() -> None:
    story = Story()
    alert = session(1)
    story.stay(seen(alert), 60)
    story.stay(seen(unsure=[alert.key]), 7200)
    assert len(story.changes) == 1
    story.stay(seen(), 120)
    assert story.told()[-1] == ("session-logged-out", "resolved", 1)


def test_a_restart_repeats_nothing_and_forgets_nothing() -> None:
    story = Story()
    story.stay(seen(session(1), session(2), database()), 400)
    story.stay(seen(session(1), session(2)), 30)
    before = story.told()
    story.book = story.book.lasting()
    story.stay(seen(session(1), session(2)), 3600)
    assert story.told()[: len(before)] == before
    assert story.told()[len(before) :] == [("database-away", "resolved", 1)]


def test_a_clock_that_was_set_back_does_not_silence_anything() -> None:
    story = Story()
    story.stay(seen(session(1)), 60)
    story.stay(seen(), 300)
    ahead = story.book
    story.seconds = -365 * 86_400
    story.book = ahead.lasting().not_after(story.now)
    story.stay(seen(session(1)), TERMS.cool_down_seconds + 60)
    assert story.told()[-1] == ("session-logged-out", "open", 1)


def test_kinds_do_not_wait_for_each_other() -> None:
    story = Story()
    story.stay(seen(session(1), session(2, AlertKind.BANNED)), 20)
    assert sorted(story.told()) == [
        ("session-banned", "open", 1),
        ("session-logged-out", "open", 1),
    ]


def test_looking_twice_at_one_time_changes_nothing() -> None:
    story = Story()
    story.look(seen(session(1)))
    before = story.book
    step = story.look(seen(session(1)))
    assert (step.book, step.changes, step.groups) == (before, (), ())


KINDS = [AlertKind.LOGGED_OUT, AlertKind.FAILED, AlertKind.UNREACHABLE, AlertKind.DATABASE_AWAY]
LOOKS = st.lists(
    st.tuples(
        st.floats(min_value=0.5, max_value=400),
        st.frozensets(st.tuples(st.integers(0, 3), st.sampled_from(KINDS)), max_size=6),
        st.frozensets(st.tuples(st.integers(0, 3), st.sampled_from(KINDS)), max_size=3),
        st.booleans(),
    ),
    max_size=60,
)


def alert_of(number: int, kind: AlertKind) -> Alert:
    return database() if kind is AlertKind.DATABASE_AWAY else session(number, kind)


@settings(max_examples=150, deadline=None, print_blob=True)
@given(looks=LOOKS)
def test_whatever_happens_changes_alternate_and_messages_are_bounded(
    looks: list[
        tuple[float, frozenset[tuple[int, AlertKind]], frozenset[tuple[int, AlertKind]], bool]
    ],
) -> None:
    story = Story()
    told: dict[str, list[tuple[float, AlertState]]] = {}
    for after, present, unsure, restart in looks:
        if restart:
            story.book = story.book.lasting().not_after(story.now)
        alerts = {alert_of(*item).key: alert_of(*item) for item in present}
        keys = {alert_of(*item).key for item in unsure} - alerts.keys()
        step = story.look(Sightings(present=alerts, unsure=frozenset(keys)), after)
        for group in step.groups:
            assert group.alerts
            for alert in group.alerts:
                told.setdefault(alert.key, []).append((story.seconds, group.state))
        for entry in step.book.entries.values():
            assert entry.is_open or entry.is_told or entry.told_at or entry.leaning_since
    for key in {key for key, _ in story.changes}:
        states = [state for other, state in story.changes if other == key]
        expected = [AlertState.OPEN, AlertState.RESOLVED] * len(states)
        assert states == expected[: len(states)], key
    for key, messages in told.items():
        opened = [at for at, state in messages if state is AlertState.OPEN]
        assert messages[0][1] is AlertState.OPEN, key
        gaps = [later - at for at, later in pairwise(opened)]
        assert all(gap >= TERMS.cool_down_seconds - 1e-3 for gap in gaps), (key, gaps)
        resolved = sum(state is AlertState.RESOLVED for _, state in messages)
        assert resolved <= len(opened), key


@pytest.mark.parametrize("kind", list(AlertKind))
def test_keys_tell_kinds_and_subjects_apart(kind: AlertKind) -> None:
    one = Alert(kind=kind, subject="a", since=NOON)
    assert one.key == Alert(kind=kind, subject="a", since=NOON + timedelta(days=1)).key
    assert one.key != Alert(kind=kind, subject="b", since=NOON).key
