"""Figures come from differences between reports."""

import msgspec
import pytest

from lab.load.profiles import Profile
from lab.load.results import Ending, Report, Result, Sample, Tally, line, table


def report(at: float, answered: int, latencies: dict[int, int], **fields: float) -> Report:
    return Report(at=at, users=20, sent=answered, answered=answered, failed=0, latencies=latencies, **fields)


def finish(tally: Tally) -> Result:
    return tally.result(Profile(target="search"), "http://127.0.0.1:1/api/search", Ending.FINISHED, "")


def test_a_rate_is_the_difference_of_counts_over_the_difference_of_times() -> None:
    tally = Tally()
    tally.add(report(100.0, 0, {}))
    assert tally.add(report(100.5, 60, {500: 60})).rps == pytest.approx(120.0)


def test_old_latencies_leave_the_sample_after_two_seconds_but_stay_in_the_result() -> None:
    tally = Tally()
    tally.add(report(0.0, 0, {}))
    tally.add(report(0.5, 100, {90_000: 100}))
    for step in range(2, 6):
        sample = tally.add(report(step * 0.5, 100 + step, {1_000: 1}))
    assert sample.p99_ms == pytest.approx(1.0, rel=0.02)
    result = finish(tally)
    assert result.p95_ms == pytest.approx(90.0, rel=0.02)
    assert result.max_ms == 90.0


def test_no_percentile_is_above_the_slowest_request() -> None:
    tally = Tally()
    tally.add(report(0.0, 0, {}))
    sample = tally.add(report(0.5, 1, {17_500: 1}))  # its bucket reaches further up
    result = finish(tally)
    assert sample.p99_ms == result.p50_ms == result.p99_ms == result.max_ms == 17.5


def test_time_spent_warming_up_does_not_count() -> None:
    tally = Tally()
    for at in (0.0, 0.5, 1.0):
        assert tally.add(report(at, 0, {})).warming_up
    tally.add(report(2.0, 50, {1_000: 50}))
    result = finish(tally)
    assert result.seconds == pytest.approx(1.0)
    assert result.rps == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("last", "warned"),
    [
        (report(2.0, 1_900, {}, cpu_s=1.2), ""),
        (report(2.0, 2_100, {}, cpu_s=1.2), "1050 requests/s"),
        (report(2.0, 100, {}, cpu_s=1.5), "75 % of a core"),
    ],
)
def test_a_generator_that_measures_itself_is_told(last: Report, warned: str) -> None:
    tally = Tally()
    tally.add(report(0.0, 0, {}))
    sample = tally.add(last)
    assert warned in sample.warning
    assert bool(sample.warning) == bool(warned) == bool(finish(tally).warnings)


def test_when_all_users_have_left_time_ends_with_the_last_answer() -> None:
    tally = Tally()
    tally.add(report(10.0, 0, {}))
    last = msgspec.structs.replace(report(14.0, 100, {1_000: 100}, began_at=10.5, ended_at=12.5), users=0)
    assert tally.add(last).elapsed_s == 2.0
    assert finish(tally).rps == 50.0


def test_no_measurement_gives_no_figures_instead_of_zeros() -> None:
    result = finish(Tally())
    assert (result.sent, result.p50_ms, result.max_ms) == (0, None, None)


def test_a_sample_is_one_line() -> None:
    sample = Sample(elapsed_s=12.5, users=20, sent=9, rps=201.4, p50_ms=0.51, p95_ms=3.44, p99_ms=152.0, failed=3)
    assert line(sample) == "  12.5 s    20 users     201 req/s  p50 0.51  p95 3.4  p99 152 ms  3 failed"
    assert line(Sample(elapsed_s=0.0)) == "   0.0 s  warming up"


def test_the_table_adds_up_and_names_each_reason_of_failure() -> None:
    tally = Tally()
    tally.add(report(0.0, 0, {}))
    tally.add(
        Report(
            at=1.0,
            users=2,
            sent=10,
            answered=6,
            failed=3,
            latencies={2_000: 9},
            errors={"status 503": 2, "no answer: ConnectionResetError": 1},
        )
    )
    rows = table(finish(tally)).splitlines()
    assert "requests  10 sent = 6 answered + 3 failed + 1 cut off" in rows
    assert "failed    2 x status 503" in rows
    assert "failed    1 x no answer: ConnectionResetError" in rows


def test_a_report_is_one_json_line_with_latencies_in_whole_microseconds() -> None:
    text = msgspec.json.encode(report(1.0, 5, {1_230: 5}))
    assert b'"latencies":{"1230":5}' in text
    assert b"\n" not in text
    assert msgspec.json.decode(text, type=Report).latencies == {1_230: 5}
