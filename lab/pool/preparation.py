"""Finds or builds an app's program, off the loop, and tells what came of it.

What is asked for last counts. A program that is being prepared goes on, unless another one is wanted by now; if the
same was asked for again meanwhile, it is looked at once more: its source may have been written after it was read, or
while it was.
"""

import asyncio
from collections.abc import Callable

from lab.core.errors import LabError, UnavailableError
from lab.core.model import AppSpec
from lab.core.tasks import background
from lab.pool import build
from lab.pool.build import Builder, Program


class Preparation:
    """Of one app, for as long as its pool lives."""

    def __init__(
        self, builder: Builder, on_build: Callable[[], None], on_prepared: Callable[[Program | LabError], None]
    ) -> None:
        """`on_build` is called when something has to be compiled; `on_prepared` with what it is, or why it is not."""
        self._builder = builder
        self._on_build = on_build
        self._on_prepared = on_prepared
        self._task: asyncio.Task[None] | None = None
        self._preparing: tuple[object, ...] = ()
        self._again = False

    def begin(self, spec: AppSpec) -> None:
        """Prepare the program of `spec`."""
        wanted = build.needs(spec)
        if self._task is not None and self.is_busy:
            if wanted == self._preparing:
                self._again = True
                return
            self._task.cancel()
        self._preparing, self._again = wanted, False
        self._task = background(self._prepare(spec))

    @property
    def is_busy(self) -> bool:
        """Something was asked for, and nothing came of it yet."""
        return self._task is not None and not self._task.done()

    def cancel(self) -> None:
        """Nothing is wanted any more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _prepare(self, spec: AppSpec) -> None:
        prepared = await self._try(spec)
        while self._again:
            self._again = False
            prepared = await self._try(spec)
        self._on_prepared(prepared)

    async def _try(self, spec: AppSpec) -> Program | LabError:
        try:
            return await self._builder.program(spec, self._on_build)
        except LabError as error:
            return error
        except OSError as error:
            return UnavailableError(f"{spec.name} cannot be prepared: {error}.")
