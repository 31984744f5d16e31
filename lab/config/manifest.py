"""The manifest: the file in which a person writes which apps a lab runs.

`load` gives a manifest that is right in form and in meaning, or raises `ConfigError`: a lab never starts with half of
one. The form is published as manifest.schema.json, for editors; `python -m lab.config.manifest` prints it.
"""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from lab.config.documents import convert, read
from lab.config.languages import Language
from lab.config.languages import load as load_languages
from lab.core.errors import ConfigError
from lab.core.model import POOL_STATUS, AppSpec, Limits, ListenerSpec, Name
from lab.core.schema import published
from lab.core.spelling import nearest, quoted

_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SET_BY_THE_LAB = frozenset({"PORT"})


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A lab as its file describes it."""

    schema: Annotated[str, Meta(description="Where an editor finds this schema.")] = msgspec.field(
        name="$schema", default=""
    )
    version: Literal[1]
    """Of the manifest's form."""
    name: Name = "lab"
    listener: ListenerSpec = ListenerSpec()
    limits: Limits = Limits()
    apps: Annotated[tuple[AppSpec, ...], Meta(min_length=1)]


def load(file: Path) -> Manifest:
    """Read `file`, JSON or TOML by its ending. Sources come back absolute. Raises `ConfigError`."""
    written = convert(read(file), Manifest, file)
    folder = file.absolute().parent
    apps = tuple(replace(app, source=os.path.normpath(folder / app.source)) for app in written.apps)
    _check(apps, file)
    return replace(written, apps=apps)


def _check(apps: tuple[AppSpec, ...], file: Path) -> None:
    """What the form cannot say: names and routes differ, languages and sources exist, environments can be passed on."""
    languages = load_languages()
    names: dict[str, int] = {}
    routes: dict[str, int] = {}
    for place, app in enumerate(apps):
        key = f"apps[{place}]"
        _check_once(names, app.name, place, f"{file}: {key}.name: found {quoted(app.name)}")
        _check_once(routes, app.route.rstrip("/"), place, f"{file}: {key}.route: found {quoted(app.route)}")
        if app.route.rstrip("/") == POOL_STATUS:
            found = f"{file}: {key}.route: found {quoted(app.route)}, expected another route"
            raise ConfigError(f"{found}: the lab shows its pools there.")
        _check_source(app, languages, file, key)
        _check_environment(app.env, f"{file}: {key}.env")


def _check_once(seen: dict[str, int], value: str, place: int, found: str) -> None:
    if value in seen:
        raise ConfigError(f"{found}, expected another one: apps[{seen[value]}] has it already.")
    seen[value] = place


def _check_source(app: AppSpec, languages: Mapping[str, Language], file: Path, key: str) -> None:
    language = languages.get(app.language)
    if language is None:
        known = nearest(app.language, languages)
        raise ConfigError(
            f"{file}: {key}.language: found {quoted(app.language)}, expected a language of the lab.", known
        )
    source = Path(app.source)
    if source.suffix not in language.files:
        suffixes = " or ".join(language.files)
        raise ConfigError(
            f"{file}: {key}.source: found {quoted(source.name)}, expected a {language.title} file ({suffixes})."
        )
    if not _is_file(source):
        raise ConfigError(f"{file}: {key}.source: found no file {source}, expected the app's program.")


def _is_file(source: Path) -> bool:
    try:
        return source.is_file()
    except OSError:  # a name too long, a folder that may not be entered
        return False


def _check_environment(environment: Mapping[str, str], found: str) -> None:
    for name, value in environment.items():
        if not _ENVIRONMENT_NAME.fullmatch(name):
            raise ConfigError(f"{found}: found the name {quoted(name)}, expected letters, digits and _ only.")
        if name in _SET_BY_THE_LAB:
            raise ConfigError(f"{found}: found {name}, expected another name: the lab gives each worker its own.")
        if "\0" in value:
            raise ConfigError(f"{found}.{name}: found a NUL byte, expected text: the kernel ends a value there.")


if __name__ == "__main__":
    sys.stdout.write(published(Manifest, "The manifest of a lab"))
