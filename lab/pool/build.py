"""From an app's source to a command that starts a worker: compiled, if its language needs that, when something changed.

What is compiled is named by a digest of everything that went into it (source, the files it includes by name, command,
compiler), so a changed source is another file, an unchanged one is never compiled again (not even one that did not
compile), and a half-written one is never run.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.config import languages
from lab.config.languages import Language
from lab.core.errors import BuildError, UnavailableError
from lab.core.model import AppSpec, Contract, ResourceLimits
from lab.pool import php
from lab.pool.frozen import as_it_was, freeze
from lab.pool.process import Process
from lab.pool.sockets import Binding
from lab.pool.spawner import Order, Spawner

BUILD_TIMEOUT = 120.0
"""Seconds that a compiler may take."""
_PORT = "{port}"
_SOCKET = "{socket}"
_SOURCE = "{source}"
_KEPT = 30 * 24 * 3600.0
"""Seconds that a program is kept in the cache after it was used for the last time."""
_INCLUDE = re.compile(rb'(?:^[ \t]*#[ \t]*include[ \t]+|\binclude(?:_str|_bytes)?!\()"([^"\n]+)"', re.MULTILINE)
"""As C and C++ write it, and Rust."""
_ERROR = re.compile(r"\b(fatal )?error\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Program:
    """What a worker runs. Two that compare equal need no reload."""

    argv: tuple[str, ...]
    """Words may still contain `{port}`, `{socket}` and `{source}`."""
    env: tuple[tuple[str, str], ...]
    """Of the language and of the app."""
    digest: str
    """Of its source, so that an edited script is another program though its command is the same."""
    contract: Contract
    concurrency: int
    limits: ResourceLimits
    notifies: bool
    """It says READY=1 when it serves."""
    binds: bool = False
    """It makes its own socket at `{socket}`, though its contract is FastCGI."""
    source: Path = Path()
    frozen: Path | None = None
    """A copy of a source that is run itself, for the time in which that is another program."""

    def command(self, binding: Binding) -> tuple[str, ...]:
        """The argument list of a worker that serves there. Looks at its source: a small file or two."""
        source = self.source if self.frozen is None else as_it_was(self.source, self.frozen)
        places = {_PORT: str(binding.port), _SOCKET: binding.path, _SOURCE: str(source)}
        return tuple(_filled(word, places) for word in self.argv)

    def environment(self, binding: Binding) -> dict[str, str]:
        """What is added to the lab's own environment."""
        return binding.env | dict(self.env)


def needs(spec: AppSpec) -> tuple[object, ...]:
    """What a program is made from. While this stays the same, so does the program, if its source does."""
    return (
        spec.language, spec.source, spec.protocol, spec.env, spec.concurrency, spec.resources, spec.php, spec.site
    )  # fmt: skip


def sources(source: Path) -> tuple[Path, ...]:
    """The files that a program is made from: its source, and what is included by name in it and in those.

    Files that are not there are among them, for they may come.
    """
    found = [source]
    for file in found:
        try:
            text = file.read_bytes()
        except OSError:
            continue
        beside = (Path(os.path.normpath(file.parent / os.fsdecode(name))) for name in _INCLUDE.findall(text))
        found += [one for one in dict.fromkeys(beside) if one not in found]
    return tuple(found)


class Builder:
    """Makes programs. Compilers run beside the pool, as children of the fork server."""

    def __init__(self, spawner: Spawner, known: Mapping[str, Language], cache: Path) -> None:
        self._spawner = spawner
        self._known = known
        self._cache = cache
        self._failed: dict[Path, tuple[Path, str]] = {}
        """For each source that did not compile, what would have been built, and why it was not."""

    def protocol(self, spec: AppSpec) -> Contract:
        """The contract of an app whether it has a program or not: its own word, else its language's."""
        language = self._known.get(spec.language)
        return language.protocol(spec.protocol) if language is not None else spec.protocol or Contract.HTTP_PORT

    def try_again(self, source: str) -> None:
        """Compile it even if the very same did not compile: the fault may lie elsewhere, as in a missing library."""
        self._failed.pop(Path(source), None)

    async def program(self, spec: AppSpec, on_build: Callable[[], None]) -> Program:
        """The program of an app; `on_build` is called if it has to be compiled.

        Raises `UnavailableError` (unknown language, no compiler, no source) or `BuildError` with the first error.
        """
        language = self._known.get(spec.language)
        if language is None:
            raise UnavailableError(f"{spec.name} is in {spec.language!r}; expected one of: {', '.join(self._known)}.")
        contract = _contract(language, spec)
        tool = await asyncio.to_thread(languages.find_tool, language, spec.php.version)
        php_env = await asyncio.to_thread(php.ini_folder, spec.php, self._cache)
        source = Path(spec.source)
        digest = await asyncio.to_thread(_digest, source, tool, language)
        built = self._cache / "programs" / f"{source.stem}-{digest[:16]}"
        frozen = None
        if language.build is not None:
            if not built.exists():
                if self._failed.get(source, (None,))[0] == built:
                    raise BuildError(self._failed[source][1])
                on_build()
                await self._build(language, tool, source, built)
        elif contract is not Contract.CGI and any(_SOURCE in word for word in language.start[contract]):
            frozen = await asyncio.to_thread(_frozen, source, built.parent)
        await asyncio.to_thread(_remove_unused, built.parent, frozen.parents[1] if frozen is not None else built)
        return Program(
            argv=languages.fill(
                language.start[contract],
                tool=tool,
                source=_SOURCE,
                program=str(built),
                port=_PORT,
                socket=_SOCKET,
                config=str(php.FPM_CONFIG),
            ),
            env=tuple(sorted((language.env | php_env | spec.env).items())),
            digest=digest,
            contract=contract,
            concurrency=1 if contract is Contract.FASTCGI and language.name != php.FPM else spec.concurrency,
            limits=spec.resources,
            notifies=language.notifies,
            binds=language.name == php.FPM,
            source=source,
            frozen=frozen,
        )

    async def _build(self, language: Language, tool: str, source: Path, built: Path) -> None:
        built.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=built.parent, prefix="building-") as folder:
            output = Path(folder) / built.name
            argv = languages.fill(language.build or (), tool=tool, source=str(source), output=str(output))
            status, said = await self._compile(argv, Path(folder) / "messages")
            if status != 0 or not output.exists():
                why = f"{source.name} does not compile: {_first_error(said, status)}"
                self._failed[source] = (built, why)
                raise BuildError(why)
            output.replace(built)

    async def _compile(self, argv: tuple[str, ...], messages: Path) -> tuple[int, str]:
        with messages.open("wb") as log:
            order = Order(argv=argv, env={"LC_ALL": "C"}, fds={1: log.fileno(), 2: log.fileno()})
            process = await Process.start(self._spawner, order)
        try:
            status = await asyncio.wait_for(process.wait(), BUILD_TIMEOUT)
        except TimeoutError:
            raise BuildError(f"{argv[0]} took longer than {BUILD_TIMEOUT:g} s and was stopped.") from None
        finally:
            process.signal(signal.SIGKILL, group=True)
        return status, await asyncio.to_thread(messages.read_text, errors="replace")


def _filled(word: str, places: Mapping[str, str]) -> str:
    for place, value in places.items():
        word = word.replace(place, value)
    return word


def _frozen(source: Path, programs: Path) -> Path | None:
    """The copy of a script; None where none can be written, and then it has to do without."""
    with contextlib.suppress(OSError):
        return freeze(source, programs)
    return None


def _remove_unused(programs: Path, used: Path) -> None:
    """Note that this one is used now, and remove those that nobody has used for long."""
    if not used.exists():
        return
    os.utime(used)
    now = used.stat().st_mtime
    for other in programs.iterdir():
        with contextlib.suppress(OSError):
            told = other.stat()
            if now - max(told.st_mtime, told.st_atime) > _KEPT:
                shutil.rmtree(other) if other.is_dir() else other.unlink()


def _contract(language: Language, spec: AppSpec) -> Contract:
    contract = language.protocol(spec.protocol)
    if contract not in language.start:
        there = ", ".join(language.start)
        raise UnavailableError(f"{language.title} programs do not keep the contract {contract}; expected: {there}.")
    return contract


def _digest(source: Path, tool: str, language: Language) -> str:
    seen = hashlib.sha256()
    start = (word for template in language.start.values() for word in template)
    for word in (tool, str(source), *(language.build or ()), *start):
        seen.update(os.fsencode(word) + b"\0")
    try:
        version = Path(tool).stat()
        seen.update(f"{version.st_size} {version.st_mtime_ns}".encode())
        text = source.read_bytes()
    except OSError as error:
        raise UnavailableError(f"Cannot read {error.filename}: {error.strerror}.", "Correct `source`.") from None
    seen.update(text)
    for included in sources(source)[1:]:
        seen.update(included.read_bytes() if included.is_file() else b"")
    return seen.hexdigest()


def _first_error(said: str, status: int) -> str:
    """The first line that a compiler calls an error, else its first line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    fallback = lines[0] if lines else f"the compiler ended with status {status} and said nothing"
    return next((line for line in lines if _ERROR.search(line)), fallback)
