"""Point 29: a trace in words answers why a request was slow."""

import pytest
from msgspec.structs import replace

from lab.core.trace import Attempt, Trace, Why
from lab.engine import timeline

TRACE = Trace(
    id="7f3a91-1c2",
    at=0.0,
    own=False,
    client="127.0.0.1",
    method="GET",
    target="/api/search?q=x",
    route="search",
    app="search",
    status=200,
    outcome="answered",
    kept=(Why.SLOW,),
    prepare_s=0.0,
    queue_s=0.75,
    connect_s=0.0,
    tried_s=0.0,
    worker_s=0.25,
    transfer_s=0.0,
    total_s=1.0,
    received=0,
    sent=12,
    attempts=(Attempt(worker="search/1", endpoint="127.0.0.1:9000", pid=41),),
)


def test_29_a_timeline_has_each_stage_that_there_was_where_it_lies_in_the_whole():
    lines = timeline.lines(TRACE)
    queue, worker = (next(line for line in lines if words in line) for words in ("waited for a place", "(pid 41) had"))
    assert 2 * worker.count("#") < queue.count("#") < 4 * worker.count("#")
    assert sum("#" in line for line in lines) == 2
    assert queue.index("#") < worker.index("#")
    assert queue.rstrip().endswith("750.0 ms")
    assert worker.lstrip().startswith("750.0 ms")
    assert not any("connection" in line for line in lines)
    assert not any("gateway itself" in line for line in timeline.lines(replace(TRACE, prepare_s=0.00001)))


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ({"queue_s": 0.9, "worker_s": 0.1}, "90% of the time, no worker had a place"),
        ({"queue_s": 0.1, "worker_s": 0.9}, "90% of the time, the worker took so long"),
        ({"queue_s": 0.1, "worker_s": 0.1, "connect_s": 0.8}, "80% of the time, the worker took no connection"),
        ({"queue_s": 0.1, "worker_s": 0.1, "tried_s": 0.8}, "80% of the time, those who were asked first failed it"),
        ({"queue_s": 0.4, "worker_s": 0.3, "transfer_s": 0.3}, "no stage alone"),
    ],
)
def test_29_the_verdict_names_the_stage_that_has_most_of_the_time(stages, words):
    assert words in timeline.lines(replace(TRACE, **stages))[-1]


def test_29_every_failed_attempt_is_told_with_its_reason():
    failed = Attempt(worker="search/0", endpoint="127.0.0.1:9001", pid=40, failure="no connection", seconds=0.01)
    lines = timeline.lines(replace(TRACE, kept=(Why.RETRIED,), attempts=(failed, *TRACE.attempts)))
    assert "  1. search/0 (pid 40) at 127.0.0.1:9001: no connection after 10.0 ms" in lines
    assert "  2. search/1 (pid 41) at 127.0.0.1:9000: answered" in lines
    assert not any("Why slow" in line for line in lines)
