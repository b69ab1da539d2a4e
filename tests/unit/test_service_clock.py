"""Wall-clock times of a session, and the limiter of error messages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from transcriber.service.clock import SessionClock
from transcriber.service.limiter import Limiter

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def test_no_audio_has_no_time() -> None:
    assert SessionClock().time_at(0) is None


def test_timestamps_give_the_time_across_a_pause() -> None:
    clock = SessionClock()
    clock.add_chunk(0, 1000, after(0), after(9))
    clock.add_chunk(1000, 1000, after(1.01), after(9))  # jitter
    clock.add_chunk(2000, 1000, after(12), after(20))  # ten seconds are missing
    assert clock.time_at(1500) == after(1.5)
    assert clock.time_at(2000) == after(12)
    assert clock.time_at(2500) == after(12.5)


def test_arrival_gives_the_time_where_there_are_no_timestamps() -> None:
    clock = SessionClock()
    clock.add_chunk(0, 100, None, after(0.1))
    assert clock.time_at(0) == after(0)
    clock.add_chunk(100, 100, None, after(0.5))  # network jitter changes nothing
    assert clock.time_at(100) == after(0.1)
    clock.add_chunk(200, 100, None, after(4.1))  # a pause does
    assert clock.time_at(200) == after(4)


def test_a_file_sent_faster_than_it_plays_keeps_its_own_time() -> None:
    clock = SessionClock()
    for i in range(10):
        clock.add_chunk(i * 1000, 1000, None, after(1 + i / 1000))
    assert clock.time_at(9000) == after(9)


def test_hostile_timestamps_cost_bounded_memory() -> None:
    clock = SessionClock()
    for i in range(1000):
        clock.add_chunk(i, 1, after(1000 * (i % 2)), NOON)
    assert len(clock._anchors) <= 64
    assert clock.time_at(0) is not None


def test_one_a_second_is_admitted_and_the_rest_counted() -> None:
    now = 0.0
    limiter = Limiter(now=lambda: now)
    assert limiter.admit("a") == 0
    assert limiter.admit("b") == 0
    assert [limiter.admit("a") for _ in range(3)] == [None] * 3
    now = 1.0
    assert limiter.admit("a") == 3
    assert limiter.admit("b") == 0


def test_a_flood_of_keys_is_bounded_and_passes() -> None:
    now = 0.0
    limiter = Limiter(max_keys=10, now=lambda: now)
    assert sum(limiter.admit(str(i)) is not None for i in range(100)) == 10
    now = 1.5
    assert limiter.admit("new") == 0
