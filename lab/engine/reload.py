"""Reloading: an app's program, a language's definition or the manifest was edited, and the lab takes it over.

What counts is what files hold, not when they were touched: each look compares contents. A changed program is handed to
the pool, which builds it, tries it and rolls it out worker by worker. A changed manifest is read whole and checked
before anything of it holds; what it says anew is taken over, and what was set while the lab ran stays where the file
says nothing new. A file that is wrong changes nothing, and the person is told why.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec

from lab.config import languages, manifest, watch
from lab.config.languages import Language
from lab.core.errors import LabError
from lab.core.events import EventKind, EventRing
from lab.core.model import AppSpec, RouteSpec, ServiceSpec, is_file
from lab.core.tasks import background
from lab.engine.lab import LabSpec
from lab.pool.build import sources

Contents = Mapping[Path, bytes | None]
"""What files hold; None for one that cannot be read."""


def spec_of(read: manifest.Manifest) -> LabSpec:
    """The desired state that a manifest asks for."""
    return LabSpec(
        name=read.name,
        listener=read.listener,
        apps=read.apps,
        processes=read.processes,
        routes=read.routes,
        proxy=read.proxy,
    )


def merged(before: LabSpec, after: LabSpec, now: LabSpec) -> LabSpec:
    """`now`, with everything that is other in `after` than it was in `before`."""
    return msgspec.convert(_listed(_merge(*map(_named, (before, after, now)))), LabSpec)


class Reloader:
    """Watches what a lab is made from. `start` and `close` bracket its life."""

    def __init__(self, file: Path | None, known: dict[str, Language]) -> None:
        """`file` is the manifest, if there is one. `known` are the languages: they change as their definitions do."""
        self.known = known
        self._manifest = file
        self._spec = LabSpec()
        self._written: LabSpec | None = None
        """What the manifest said when it was right last."""
        self._seen: dict[str, Contents] = {}
        """For each app what its program was made from."""
        self._policies: Contents = {}
        """Files with a selection policy."""
        self._others: Contents = {}
        """The manifest and the definitions of languages."""
        self._moved = asyncio.Event()
        """There are other files to watch now."""
        self._watching: asyncio.Task[None] | None = None

    def start(
        self,
        spec: LabSpec,
        events: EventRing,
        take_over: Callable[[LabSpec], Awaitable[None]],
        look_again: Callable[[], Awaitable[None]],
        read_again: Callable[[frozenset[str]], Awaitable[None]],
    ) -> None:
        """Watch from now on.

        `take_over` makes a spec the desired state, or raises `LabError` and changes nothing; `look_again` has the pool
        compare the programs that run with those that there are; `read_again` is told which files with a selection
        policy are new or other than they were.
        """
        self._spec = spec
        self._events = events
        self._take_over = take_over
        self._look_again = look_again
        self._read_again = read_again
        self._watching = background(self._watch())

    def follow(self, spec: LabSpec) -> None:
        """This is the desired state now."""
        before, self._spec = self._spec, spec
        if _watched(before) != _watched(spec):
            self._moved.set()

    async def close(self) -> None:
        """Watch no more."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait((self._watching,))

    async def _watch(self) -> None:
        self._others = await asyncio.to_thread(_contents, self._documents)
        if self._manifest is not None:
            self._written = await asyncio.to_thread(_read, self._manifest)
        while True:
            self._moved = asyncio.Event()
            await self._look()
            files = self._files
            async with aclosing(watch.looks(files, self._moved, self._complain)) as looks:
                async for _ in looks:
                    await self._look()
                    if self._files != files:
                        break

    @property
    def _documents(self) -> frozenset[Path]:
        return frozenset({languages.FACTS, *([self._manifest] if self._manifest is not None else [])})

    @property
    def _files(self) -> frozenset[Path]:
        return self._documents.union(self._policies, *self._seen.values())

    async def _look(self) -> None:
        """Compare what files hold with what they held, and act on it."""
        found = await asyncio.to_thread(_contents, self._documents)
        changed = {file for file in found if found[file] != self._others.get(file)}
        self._others = found
        if self._manifest in changed:
            await self._reload_manifest(self._manifest)
        renewed = await self._reload_languages() if languages.FACTS in changed else frozenset()
        apps = self._spec.apps
        seen = await asyncio.to_thread(lambda: {app.name: _contents(sources(Path(app.source))) for app in apps})
        before, self._seen = self._seen, seen
        told = [self._notice(app, before.get(app.name, {}), seen[app.name], renewed) for app in apps]
        if any(told) or seen.keys() - before.keys():  # a new one may have been edited since the pool read it
            await self._look_again()
        await self._look_at_policies()

    async def _look_at_policies(self) -> None:
        files = frozenset(Path(app.selection) for app in self._spec.apps if is_file(app.selection))
        before, self._policies = self._policies, await asyncio.to_thread(_contents, files)
        other = frozenset(str(file) for file in files if file not in before or self._policies[file] != before[file])
        if other:  # a new one may have been edited since the proxy read it
            await self._read_again(other)

    def _notice(self, app: AppSpec, before: Contents, now: Contents, renewed: frozenset[str]) -> bool:
        """Tell of a program that is another than it was."""
        changed = sorted(file.name for file in now if file in before and now[file] != before[file])
        if changed:
            gone = all(now[file] is None for file in now if file.name in changed)
            what = f"{', '.join(changed)} {'is gone' if gone else 'changed'}"
        elif app.language in renewed:
            what = f"the definition of {app.language} changed"
        else:
            return False
        self._tell("noticed", f"{app.name}: {what}", app.name)
        return True

    async def _reload_languages(self) -> frozenset[str]:
        """Take the definitions over; the names of those that changed. Wrong ones change nothing."""
        try:
            defined = await asyncio.to_thread(languages.load)
        except (msgspec.MsgspecError, OSError) as error:
            self._tell("refused", f"{languages.FACTS.name} is not taken over: {error}")
            return frozenset()
        renewed = {name for name in defined.keys() | self.known.keys() if defined.get(name) != self.known.get(name)}
        self.known.clear()
        self.known.update(defined)
        return frozenset(renewed)

    async def _reload_manifest(self, file: Path) -> None:
        self._tell("noticed", f"{file.name} changed")
        try:
            written = spec_of(await asyncio.to_thread(manifest.load, file))
            before = self._written or written
            await self._take_over(merged(before, written, self._spec))
        except LabError as error:
            self._tell("refused", f"{file.name} is not taken over, and everything goes on as it was: {error}")
            return
        self._written = written
        self._tell("done", f"{file.name} is taken over: {_difference(before, written)}")

    def _tell(self, step: str, text: str, app: str | None = None) -> None:
        self._events.emit(EventKind.RELOAD, text, app=app, data={"step": step})

    def _complain(self, why: str) -> None:
        text = f"The kernel does not tell of edited files ({why}), so they are looked at every {watch.POLL_S:g} s"
        self._events.emit(EventKind.NOTE, text)


def _watched(spec: LabSpec) -> list[tuple[str, str, str]]:
    """What decides which files are watched."""
    return [(app.name, app.source, app.selection) for app in spec.apps]


def _read(file: Path) -> LabSpec | None:
    try:
        return spec_of(manifest.load(file))
    except LabError:  # it was right a moment ago, when the lab began; it will be said when it changes again
        return None


def _contents(files: "frozenset[Path] | tuple[Path, ...]") -> Contents:
    return {file: _content(file) for file in files}


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None


def _difference(before: LabSpec, after: LabSpec) -> str:
    """What is other, in words."""
    old, new = (_parts(spec) for spec in (before, after))
    parts = {
        "added": [name for name in new if name not in old],
        "removed": [name for name in old if name not in new],
        "changed": [name for name in new if name in old and old[name] != new[name]],
    }
    return "; ".join(f"{word} {', '.join(names)}" for word, names in parts.items() if names) or "no app is another"


def _parts(spec: LabSpec) -> dict[str, AppSpec | ServiceSpec | RouteSpec]:
    named: tuple[AppSpec | ServiceSpec | RouteSpec, ...] = (*spec.apps, *spec.processes, *spec.routes)
    return {one.name: one for one in named}


_ABSENT = object()


def _merge(before: Any, after: Any, now: Any) -> Any:
    """`now`, unless `after` differs from `before`. Of dictionaries, key by key."""
    if not all(isinstance(one, dict) for one in (before, after, now)):
        return now if after == before else after
    keys = dict.fromkeys((*after, *now))
    results = ((key, _merge(*(one.get(key, _ABSENT) for one in (before, after, now)))) for key in keys)
    return {key: value for key, value in results if value is not _ABSENT}


_NAMED = ("apps", "processes", "routes")
"""Parts of a lab that have names."""


def _named(spec: LabSpec) -> dict[str, Any]:
    """As a dictionary, with what has a name under its name."""
    document: dict[str, Any] = msgspec.to_builtins(spec)
    return document | {part: {one["name"]: one for one in document[part]} for part in _NAMED}


def _listed(document: dict[str, Any]) -> dict[str, Any]:
    return document | {part: list(document[part].values()) for part in _NAMED}
