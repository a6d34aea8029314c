"""What is known about the end of an engine."""

import random

from crm_whatsapp.engine.death_record import DeathRecord, LastWords, describe_death


def make_record() -> DeathRecord:
    return DeathRecord(
        careful_window_seconds=60,
        backoff_max_seconds=60,
        reset_seconds=300,
        rng=random.Random(1),  # noqa: S311 - jitter
    )


def test_signals_and_exit_codes_have_names() -> None:
    assert describe_death(-9, None) == "the engine was ended by SIGKILL"
    assert describe_death(None, None) == "the engine was lost"
    assert describe_death(-250, None) == "the engine was ended by signal 250"


def test_a_go_panic_is_quoted() -> None:
    words = LastWords()
    for line in ["Press Ctrl+C to exit", "fatal error: concurrent map writes", "goroutine 12:"]:
        words.hear(line)
    for number in range(10_000):
        words.hear(f"goroutine {number}:")
    assert len(words.lines) == 40
    assert describe_death(134, words.cause) == (
        "the engine ended with exit code 134: fatal error: concurrent map writes"
    )


def test_the_first_respawn_is_immediate_then_it_backs_off() -> None:
    record = make_record()
    waits = [record.add(now, lived_seconds=1, had_suspect=True) for now in range(9)]
    assert waits[0] == 0
    assert 0.5 <= waits[1] <= 1
    assert 1 <= waits[2] <= 2
    assert 30 <= waits[8] <= 60
    assert record.total == 9


def test_a_long_life_makes_the_next_death_a_first_one() -> None:
    record = make_record()
    record.add(0, lived_seconds=1, had_suspect=True)
    assert record.add(1, lived_seconds=1, had_suspect=True) > 0
    assert record.add(400, lived_seconds=301, had_suspect=True) == 0


def test_two_unexplained_deaths_in_a_minute_call_for_care() -> None:
    record = make_record()
    record.add(0, lived_seconds=1, had_suspect=False)
    assert not record.calls_for_care(0)
    record.add(30, lived_seconds=1, had_suspect=True)
    assert not record.calls_for_care(30)
    record.add(59, lived_seconds=1, had_suspect=False)
    assert record.calls_for_care(59)
    record.add(200, lived_seconds=1, had_suspect=False)
    assert not record.calls_for_care(200)
