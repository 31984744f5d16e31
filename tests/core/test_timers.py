"""A timer holds its delay also where its loop was held up just before it was set."""

import asyncio
import time

import pytest
import uvloop

from lab.core.clock import SystemClock
from lab.core.timers import EARLY, Timer


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_it_is_not_early_though_the_turn_in_which_it_was_set_took_longer_than_it(new_loop) -> None:
    clock = SystemClock()

    def stop_for_a_while() -> None:
        """As a busy machine stops a process."""
        time.sleep(0.2)

    async def waited() -> float:
        over = asyncio.Event()
        stop_for_a_while()
        began = clock.monotonic()
        Timer(clock, 0.1, over.set)
        await asyncio.wait_for(over.wait(), 30)
        return clock.monotonic() - began

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(waited()) >= 0.1 - EARLY


async def test_one_that_was_cancelled_calls_nobody() -> None:
    called = []
    timer = Timer(SystemClock(), 0.0, lambda: called.append("it"))
    timer.cancel()
    await asyncio.sleep(0.01)
    assert called == []
