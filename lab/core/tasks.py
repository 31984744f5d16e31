"""Tasks that nobody awaits: one that fails is told at once to its loop's exception handler.

asyncio itself tells it when the task is forgotten, which may be never.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def background(coroutine: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    """Run `coroutine` as a task on the running loop. Keep a reference to it, as to any task."""
    task = asyncio.get_running_loop().create_task(coroutine)
    task.add_done_callback(_tell)
    return task


def _tell(task: "asyncio.Task[Any]") -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        task.get_loop().call_exception_handler({"message": f"{task.get_name()} failed", "exception": error})
