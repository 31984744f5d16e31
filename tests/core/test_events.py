"""A reader with a cursor gets every event once, in order, or is told how many it missed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.clock import ManualClock
from lab.core.events import Event, EventKind, EventRing
from lab.core.states import WorkerState


def ring(count: int, capacity: int = 10) -> EventRing:
    """A ring in which `count` events happened."""
    made = EventRing(ManualClock(), capacity)
    for number in range(1, count + 1):
        made.emit(EventKind.NOTE, f"event {number}")
    return made


def numbers(made: EventRing, since: int = 0, limit: int = 1000) -> list[int]:
    return [event.seq for event in made.read(since, limit).events]


def test_events_are_numbered_from_1_without_gaps() -> None:
    assert numbers(ring(5)) == [1, 2, 3, 4, 5]
    assert ring(5).next == 6


def test_a_cursor_reads_on_where_the_last_batch_ended() -> None:
    made = ring(3)
    batch = made.read()
    made.emit(EventKind.NOTE, "event 4")
    assert (batch.next, batch.missed) == (4, 0)
    assert numbers(made, batch.next) == [4]


def test_a_cursor_at_or_beyond_the_end_reads_nothing_and_misses_nothing() -> None:
    made = ring(3)
    for since in (4, 5, 10**9):
        batch = made.read(since)
        assert (batch.events, batch.next, batch.missed) == ((), 4, 0)


def test_an_empty_ring_reads_nothing() -> None:
    batch = ring(0).read()
    assert (batch.events, batch.next, batch.missed) == ((), 1, 0)


def test_a_slow_reader_is_told_how_many_were_overwritten() -> None:
    made = ring(25, capacity=10)
    for since, missed in ((0, 15), (1, 15), (10, 6), (15, 1), (16, 0), (20, 0)):
        batch = made.read(since)
        assert batch.missed == missed
        assert batch.events[0].seq == max(since, 16)
        assert batch.next == 26


def test_a_limit_gives_the_oldest_and_the_cursor_goes_on_behind_them() -> None:
    made = ring(10)
    batch = made.read(3, limit=4)
    assert [event.seq for event in batch.events] == [3, 4, 5, 6]
    assert numbers(made, batch.next) == [7, 8, 9, 10]


@given(st.integers(1, 20), st.lists(st.integers(0, 15), max_size=30), st.integers(1, 7))
def test_whatever_the_pace_every_event_is_read_once_or_counted_as_missed(
    capacity: int, bursts: list[int], limit: int
) -> None:
    made = EventRing(ManualClock(), capacity)
    cursor, read, missed = 1, [], 0
    for burst in (*bursts, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0):
        for _ in range(burst):
            made.emit(EventKind.NOTE, "")
        batch = made.read(cursor, limit)
        read += [event.seq for event in batch.events]
        missed += batch.missed
        cursor = batch.next
    assert read == sorted(set(read))
    assert len(read) + missed == sum(bursts)


def test_an_event_that_happened_earlier_carries_the_time_of_day_it_had_then() -> None:
    clock = ManualClock(monotonic=100.0, wall=5000.0)
    made = EventRing(clock)
    clock.advance(10)
    earlier = made.emit(EventKind.STATE, "ready", at=107.5, app="search", state=WorkerState.READY)
    assert (earlier.at, earlier.wall) == (107.5, pytest.approx(5007.5))
    assert made.emit(EventKind.NOTE, "now").wall == 5010.0


def test_memory_is_bounded_by_the_capacity() -> None:
    assert len(ring(1000, capacity=7).read().events) == 7


def test_a_watcher_that_fails_keeps_nobody_from_hearing_and_is_complained_of():
    complaints: list[Exception] = []
    heard: list[Event] = []
    ring = EventRing(ManualClock(), complain=complaints.append)

    def fail(event: Event) -> None:
        raise ZeroDivisionError

    ring.watch(fail)
    ring.watch(heard.append)
    event = ring.emit(EventKind.NOTE, "one")
    assert heard == [event]
    assert [type(error) for error in complaints] == [ZeroDivisionError]


@pytest.mark.parametrize("limit", [0, -5])
def test_a_limit_below_one_reads_one(limit):
    ring = EventRing(ManualClock())
    for text in ("one", "two"):
        ring.emit(EventKind.NOTE, text)
    batch = ring.read(1, limit)
    assert ([event.seq for event in batch.events], batch.next) == ([1], 2)
