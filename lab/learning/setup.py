"""Brings the lab to the state that a lesson needs, and back to the one that it found.

Both are one `Lab.apply`. The way back is taken whatever happened in between: the lab is the learner's.
"""

import asyncio
from pathlib import Path

import msgspec

from lab import paths
from lab.config.languages import Language, find_tool
from lab.config.languages import load as load_languages
from lab.core.errors import ConfigError, DeadlineError, UnavailableError
from lab.core.model import AppSpec, PoolSettings
from lab.core.snapshot import AppSnapshot
from lab.core.states import WorkerState
from lab.engine.lab import Lab, LabSpec
from lab.learning.format import App, Setup

_READY_TIMEOUT = 30.0
"""Seconds for all workers to become READY: a compiler may have to run first."""
_LOOK_AGAIN = 0.2
"""Seconds to wait for an event before the workers are looked at again."""


class Stage:
    """What the lab was before a lesson, and the way back there."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._before: LabSpec | None = None
        self._rate = 0.0

    async def set_up(self, setup: Setup) -> str:
        """Make the lab what `setup` says and wait until it is; returns the first app's language as people name it.

        Of an app's languages the first one that this machine can run is taken. Raises `UnavailableError` when it can
        run none of them, and `DeadlineError` when the workers are not READY in time.
        """
        self._rate = (await self._lab.snapshot()).own.rate
        known = load_languages()
        errors: list[UnavailableError] = []
        for language in setup.apps[0].language:
            try:
                find_tool(_language(language, known))
                await self._become(setup, language, known)
                return known[language].title
            except UnavailableError as error:
                errors.append(error)
        raise errors[-1]

    async def restore(self) -> None:
        """The lab becomes what it was before `set_up`, nobody frozen; nothing happens if it was not changed."""
        before, self._before = self._before, None
        if before is not None:
            await self._lab.heal()
            await self._lab.apply(before)
            await self._lab.traffic(self._rate)

    async def _become(self, setup: Setup, language: str, known: dict[str, Language]) -> None:
        apps = tuple(
            _spec(app, known[language if place == 0 else app.language[0]]) for place, app in enumerate(setup.apps)
        )
        now = await self._lab.spec()
        before = await self._lab.apply(msgspec.structs.replace(now, apps=apps, routes=(), own_rate=setup.traffic))
        self._before = self._before or before
        await self._lab.heal()  # a worker that somebody froze would never be READY
        await self._lab.traffic(setup.traffic, setup.apps[0].name)
        try:
            async with asyncio.timeout(_READY_TIMEOUT):
                cursor = 0
                while not all([await self._serves(app) for app in setup.apps]):
                    cursor = (await self._lab.events(cursor, wait=_LOOK_AGAIN)).next
        except TimeoutError as error:
            raise DeadlineError(f"The workers of this lesson were not ready within {_READY_TIMEOUT:g} s.") from error

    async def _serves(self, app: App) -> bool:
        """Whether exactly the wanted workers are there, all READY, and none is about to be replaced.

        Raises `UnavailableError` if they cannot be.
        """
        found = (await self._lab.snapshot()).app(app.name)
        if found is not None and found.unavailable is not None:
            raise UnavailableError(f"{app.name} cannot run here: {found.unavailable}")
        return found is not None and _complete(found, app.workers)


def _complete(app: AppSnapshot, workers: int) -> bool:
    ready = all(one.state is WorkerState.READY for one in app.workers)
    return ready and len(app.workers) == workers and not app.changing


def _language(name: str, known: dict[str, Language]) -> Language:
    if name not in known:
        raise ConfigError(f"Found the language {name!r}; expected one of: {', '.join(known)}.")
    return known[name]


def _spec(app: App, language: Language) -> AppSpec:
    return AppSpec(
        name=app.name,
        route=app.route,
        language=language.name,
        source=str(_source(app.sample, language)),
        concurrency=app.concurrency,
        selection=app.selection,
        pool=PoolSettings(policy=app.policy, max_workers=app.workers),
        liveness=app.liveness,
    )


def _source(sample: str, language: Language) -> Path:
    """`samples/search/c/search.c`: one folder a language, named as in languages.json."""
    folder = paths.content("samples") / sample / language.name
    for suffix in language.files:
        if (file := folder / f"{sample}{suffix}").is_file():
            return file
    raise ConfigError(f"Found no sample {sample!r} in {language.title}; expected {folder}/{sample}{language.files[0]}.")
