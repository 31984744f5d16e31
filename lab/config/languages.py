"""How a program in each language is built and started, and whether this machine can. The facts are in languages.json.

A template is a list of words that may contain `{tool}` (the compiler or interpreter that was found), `{source}`,
`{output}` (where the build writes the program), `{program}` (what the build wrote), `{port}` or `{socket}` as the
contract has it, `{config}` (the lab's configuration of PHP-FPM), and `{python}`, the lab's own interpreter. That is the
interpreter itself: a shim in PATH that looks for one costs 80 ms a start instead of 12. Python runs with `-u`, so that
a worker's last words are not left in a buffer when it is killed; without `-S`, although that would save 3 ms of the 12,
because a user's program may import what is installed beside the lab.
"""

import contextlib
import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec

from lab.core.errors import UnavailableError
from lab.core.model import Contract

VERSION_TIMEOUT = 5.0
"""Seconds that a tool may take to say which version it is."""

FACTS = Path(__file__).with_name("languages.json")
"""The file that defines them."""
_VERSION = "{version}"
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_NUMBER = re.compile(r"\d+(?:\.\d+)+")
_IN_BRACKETS = re.compile(r"\(.*?\)")


class Language(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One language, as languages.json has it."""

    name: str
    """What manifests call it."""
    title: str
    """What people call it."""
    tools: tuple[str, ...]
    """Compilers or interpreters that will do, the preferred one first; looked up in PATH. `{version}` is where a name
    has the version, if several can be installed side by side."""
    version: tuple[str, ...]
    """Template of the command whose first line of output tells the tool's version."""
    build: tuple[str, ...] | None
    """Template of the command that builds `{output}` from `{source}`; None when the source itself is run."""
    start: dict[Contract, tuple[str, ...]]
    """For each contract that its programs keep, the preferred one first: template of the command that starts one."""
    notifies: bool = False
    """Its programs send READY=1 to NOTIFY_SOCKET when they serve (sd_notify(3))."""
    env: dict[str, str] = {}
    """Added to the environment of its programs."""
    hint: str
    """The command that installs a tool on Debian."""
    files: tuple[str, ...]
    """Suffixes of source files."""

    def protocol(self, asked: Contract | None) -> Contract:
        """The contract that was asked for, else the one that it prefers."""
        return asked or next(iter(self.start))


class Detected(msgspec.Struct, frozen=True):
    """What this machine has of a language or tool. `hint` is the command that installs it; None when it is there."""

    name: str
    available: bool
    version: str | None
    hint: str | None


class DetectedLanguage(Detected, frozen=True):
    """What this machine has of a language, and what the lab can do with it."""

    contracts: tuple[Contract, ...]
    """Those that its programs can keep, the preferred one first."""
    versions: tuple[str, ...]
    """Those that are installed side by side, the newest first; empty where its tools have no version in their name."""


def load() -> dict[str, Language]:
    """Every language the lab knows, by name."""
    languages = msgspec.json.decode(FACTS.read_bytes(), type=list[Language])
    return {language.name: language for language in languages}


def fill(template: Iterable[str], **places: str) -> tuple[str, ...]:
    """The template as an argument list. `{python}` is always known; an unknown place raises `KeyError`."""
    return tuple(word.format(python=sys.executable, **places) for word in template)


def find_tool(language: Language, version: str = "") -> str:
    """The absolute path of the first tool that is installed, in that `version` if one is named.

    Where there are several, the first that tells its version: a shim may be in PATH with nothing behind it, as that of
    rustup is for a user who has no toolchain. Without a version, a tool that exists only with one in its name will do,
    the newest first. Raises `UnavailableError` with the versions there are, or with the install command; also where a
    program could be built but not run.
    """
    for runtime in _runtimes(language):
        if _which(runtime) is None:
            raise UnavailableError(
                f"{language.title} programs run in {runtime}; found none in PATH.", f"Install it: {language.hint}"
            )
    there = versions(language)
    for wanted in (version,) if version else ("", *there):
        if found := _all_in_path(fill(language.tools, version=wanted)):
            return (
                found[0]
                if len(found) == 1
                else next((tool for tool in found if _works(tool, language.version)), found[0])
            )
    if version and there:
        raise UnavailableError(
            f"{language.title} {version} is not installed; found: {', '.join(there)}.", "Name one of these, or none."
        )
    names = ", ".join(fill(language.tools, version=version))
    raise UnavailableError(
        f"{language.title} needs one of {names}; found none in PATH.", f"Install it: {language.hint}"
    )


def _runtimes(language: Language) -> set[str]:
    """What runs its programs, where that is neither the tool nor the program itself."""
    return {command[0] for command in language.start.values() if "{" not in command[0]}


def versions(language: Language) -> tuple[str, ...]:
    """Those that have tools of their own in PATH, such as `8.2` for php-cgi8.2; the newest first."""
    found: set[str] = set()
    for template in language.tools:
        before, place, behind = template.partition(_VERSION)
        if not place:
            continue
        named = re.compile(re.escape(before) + r"(\d+(?:\.\d+)*)" + re.escape(behind))
        for folder in _search_path():
            with contextlib.suppress(OSError):  # PATH may name folders that are not there, or are not for this user
                names = (path.name for path in Path(folder).iterdir())
                found.update(match[1] for name in names if (match := named.fullmatch(name)))
    return tuple(sorted(found, key=lambda version: [int(part) for part in version.split(".")], reverse=True))


def _which(tool: str) -> str | None:
    return shutil.which(tool, path=os.pathsep.join(_search_path()))


def _all_in_path(tools: Iterable[str]) -> list[str]:
    """Every one of them, in every folder that has it; what is the same file under two names only once."""
    found: dict[str, str] = {}
    for tool in tools:
        for folder in _search_path():
            if path := shutil.which(tool, path=folder):
                found.setdefault(os.path.realpath(path), path)
    return list(found.values())


@functools.cache
def _works(tool: str, version: tuple[str, ...]) -> bool:
    """Whether it tells its version. Asked once: some take a tenth of a second for it."""
    return ask_version(fill(version, tool=tool)) is not None


def _search_path() -> list[str]:
    """PATH, and behind it where Debian has its daemons: php-fpm needs no root, but users have no sbin in their PATH."""
    return [*os.environ.get("PATH", os.defpath).split(os.pathsep), *_SBIN]


def detect(language: Language) -> DetectedLanguage:
    """Look for the language's tool and ask it for its version. Takes at most `VERSION_TIMEOUT` s."""
    try:
        version = ask_version(fill(language.version, tool=find_tool(language)))
    except UnavailableError:
        version = None
    return DetectedLanguage(
        language.name,
        available=version is not None,
        version=version,
        hint=None if version else language.hint,
        contracts=tuple(language.start),
        versions=versions(language),
    )


def ask_version(argv: tuple[str, ...]) -> str | None:
    """`cc 12.2.0`: the program's name, and the first number outside brackets of the line in which it tells its version.

    None when it cannot be run, does not answer in time, or tells none. Some tell it and end with status 1 (wrk).
    """
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=VERSION_TIMEOUT, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    line = (done.stdout or done.stderr).partition("\n")[0]
    number = _NUMBER.search(_IN_BRACKETS.sub("", line))
    return f"{Path(argv[0]).name} {number[0]}" if number and done.returncode in (0, 1) else None
