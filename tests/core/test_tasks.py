"""A task that nobody awaits does not fail in silence."""

import asyncio
from typing import Any

from lab.core.tasks import background


async def told(*coroutines: Any) -> list[BaseException]:
    """What the loop's exception handler hears while the tasks are still referred to."""
    heard: list[BaseException] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: heard.append(context["exception"]))
    tasks = [background(coroutine) for coroutine in coroutines]
    await asyncio.wait(tasks)
    await asyncio.sleep(0)
    loop.set_exception_handler(None)
    return heard


async def test_a_failure_is_told_at_once() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    assert [type(error) for error in await told(fail())] == [ZeroDivisionError]


async def test_an_end_and_a_cancellation_are_no_failures() -> None:
    async def end() -> None: ...

    async def give_up() -> None:
        raise asyncio.CancelledError

    assert await told(end(), give_up()) == []
