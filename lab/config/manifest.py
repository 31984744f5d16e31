"""The manifest: the file in which a person writes which apps a lab runs.

`load` gives a manifest that is right in form and in meaning, or raises `ConfigError`: a lab never starts with half of
one. The form is published as manifest.schema.json, for editors; `python -m lab.config.manifest` prints it.
"""

import os
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from lab import plugins
from lab.config.documents import convert, read
from lab.config.languages import load as load_languages
from lab.core import rules
from lab.core.errors import ConfigError
from lab.core.model import AppSpec, ListenerSpec, Name, ProxySettings, RouteSpec, ServiceSpec, SiteSpec, is_file
from lab.core.schema import published

_RELATIVE = ("./", "../")
"""How a word of a command begins that is a path."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A lab as its file describes it."""

    schema: Annotated[str, Meta(description="Where an editor finds this schema.")] = msgspec.field(
        name="$schema", default=""
    )
    version: Literal[1]
    """Of the manifest's form."""
    name: Name = "lab"
    listener: ListenerSpec = ListenerSpec()
    proxy: ProxySettings = ProxySettings()
    apps: Annotated[tuple[AppSpec, ...], Meta(min_length=1)]
    processes: tuple[ServiceSpec, ...] = ()
    """Processes beside the pool that apps, or each other, need."""
    routes: tuple[RouteSpec, ...] = ()
    """Beside those that apps have by themselves."""


def load(file: Path) -> Manifest:
    """Read `file`, JSON or TOML by its ending. Paths in it come back absolute. Raises `ConfigError`."""
    written = convert(read(file), Manifest, file)
    folder = file.absolute().parent
    apps = tuple(_placed_app(app, folder) for app in written.apps)
    processes = tuple(_placed_process(process, folder) for process in written.processes)
    listener = _placed_listener(written.listener, folder)
    placed = replace(written, listener=listener, apps=apps, processes=processes)
    _check(placed, file)
    return placed


# -- paths: those in a manifest are relative to the manifest, wherever the lab is started from


def _placed_listener(listener: ListenerSpec, folder: Path) -> ListenerSpec:
    files = {name: file and _path(folder, file) for name in ("certificate", "key") if (file := getattr(listener, name))}
    return replace(listener, **files)


def _placed_app(app: AppSpec, folder: Path) -> AppSpec:
    selection = _path(folder, app.selection) if is_file(app.selection) else app.selection
    site = app.site and _placed_site(app.site, folder)
    return replace(app, source=_path(folder, app.source), selection=selection, site=site)


def _placed_site(site: SiteSpec, folder: Path) -> SiteSpec:
    root = site.root and _path(folder, site.root)
    return replace(site, root=root, allow=tuple(_path(folder, one) for one in site.allow))


def _placed_process(process: ServiceSpec, folder: Path) -> ServiceSpec:
    health = process.health
    asked = replace(health, command=_command(folder, health.command), path=health.path and _path(folder, health.path))
    return replace(
        process, command=_command(folder, process.command), folder=_path(folder, process.folder), health=asked
    )


def _command(folder: Path, words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_path(folder, word) if word.startswith(_RELATIVE) else word for word in words)


def _path(folder: Path, written: str) -> str:
    return os.path.normpath(folder / written)


# -- meaning


def _check(written: Manifest, file: Path) -> None:
    """What the form cannot say: settings go together, and what is named is there."""
    apps, processes, policies = written.apps, written.processes, plugins.names("cgilab.selection")
    for problem in chain(rules.of_listener(written.listener), rules.of_proxy(written.proxy)):
        raise ConfigError(f"{file}: {problem.place}.{problem.key}: {problem.message}")
    for problem in rules.of_lab(apps, processes, load_languages(), policies, written.routes):
        raise ConfigError(f"{file}: {problem.place}.{problem.key}: {problem.message}")
    for place, app in enumerate(apps):
        _check_app(app, f"{file}: apps[{place}]")
    for place, process in enumerate(processes):
        _check_process(process, f"{file}: processes[{place}]")


def _check_app(app: AppSpec, key: str) -> None:
    if not _is(Path.is_file, Path(app.source)):
        raise ConfigError(f"{key}.source: found no file {app.source}, expected the app's program.")
    if is_file(app.selection) and not _is(Path.is_file, Path(app.selection)):
        raise ConfigError(f"{key}.selection: found no file {app.selection}, expected one with a selection policy.")
    if app.site is not None:
        _check_site(app.site, f"{key}.site")


def _check_site(site: SiteSpec, key: str) -> None:
    if not _is(Path.is_dir, Path(site.root)):
        raise ConfigError(f"{key}.root: found no folder {site.root}, expected the document root.")
    if site.front_controller and not _is(Path.is_file, Path(site.root, site.front_controller)):
        found = f"found no file {site.front_controller} in {site.root}"
        raise ConfigError(f"{key}.front_controller: {found}, expected the script that gets what is no file.")
    for number, folder in enumerate(site.allow):
        if not _is(Path.is_dir, Path(folder)):
            raise ConfigError(f"{key}.allow[{number}]: found no folder {folder}, expected one that links lead to.")


def _check_process(process: ServiceSpec, key: str) -> None:
    """Its folder and its own files are there. A program that PATH lacks is told when it is started, and looked for
    again: a lab runs with what its machine has."""
    if not _is(Path.is_dir, Path(process.folder)):
        raise ConfigError(f"{key}.folder: found no folder {process.folder}, expected its working directory.")
    for name, command in (("command", process.command), ("health.command", process.health.command)):
        if command and Path(command[0]).is_absolute() and not _is(Path.is_file, Path(command[0])):
            raise ConfigError(f"{key}.{name}: found no file {command[0]}, expected a program.")


def _is(sort: Callable[[Path], bool], path: Path) -> bool:
    try:
        return sort(path)
    except (OSError, ValueError):  # a name too long, a folder that may not be entered, a NUL
        return False


if __name__ == "__main__":
    sys.stdout.write(published(Manifest, "The manifest of a lab"))
