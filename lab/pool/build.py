"""From an app's source to a command that starts a worker: compiled, if its language needs that, when something changed.

What is compiled is named by a digest of everything that went into it (source, the files it includes by name, command,
compiler), so a changed source is another file, an unchanged one is never compiled again, and a half-written one is
never run.
"""

import asyncio
import hashlib
import os
import re
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
from lab.pool.process import Process
from lab.pool.sockets import Binding
from lab.pool.spawner import Order, Spawner

BUILD_TIMEOUT = 120.0
"""Seconds that a compiler may take."""
_PORT = "{port}"
_SOCKET = "{socket}"
_INCLUDE = re.compile(rb'^[ \t]*#[ \t]*include[ \t]+"([^"\n]+)"', re.MULTILINE)
_ERROR = re.compile(r"\b(fatal )?error\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Program:
    """What a worker runs. Two that compare equal need no reload."""

    argv: tuple[str, ...]
    """Words may still contain `{port}` and `{socket}`."""
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
    folder: str = ""
    """Where its source is."""

    def command(self, binding: Binding) -> tuple[str, ...]:
        """The argument list of a worker that serves there."""
        return tuple(word.replace(_PORT, str(binding.port)).replace(_SOCKET, binding.path) for word in self.argv)

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
        text = file.read_bytes() if file.is_file() else b""
        beside = (Path(os.path.normpath(file.parent / os.fsdecode(name))) for name in _INCLUDE.findall(text))
        found += [one for one in dict.fromkeys(beside) if one not in found]
    return tuple(found)


class Builder:
    """Makes programs. Compilers run beside the pool, as children of the fork server."""

    def __init__(self, spawner: Spawner, known: Mapping[str, Language], cache: Path) -> None:
        self._spawner = spawner
        self._known = known
        self._cache = cache

    def protocol(self, spec: AppSpec) -> Contract:
        """The contract of an app whether it has a program or not: its own word, else its language's."""
        language = self._known.get(spec.language)
        return language.protocol(spec.protocol) if language is not None else spec.protocol or Contract.HTTP_PORT

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
        if language.build is not None and not built.exists():
            on_build()
            await self._build(language, tool, source, built)
        return Program(
            argv=languages.fill(
                language.start[contract],
                tool=tool,
                source=str(source),
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
            folder=str(source.parent),
        )

    async def _build(self, language: Language, tool: str, source: Path, built: Path) -> None:
        built.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=built.parent, prefix="building-") as folder:
            output = Path(folder) / built.name
            argv = languages.fill(language.build or (), tool=tool, source=str(source), output=str(output))
            status, said = await self._compile(argv, Path(folder) / "messages")
            if status != 0 or not output.exists():
                raise BuildError(f"{source.name} does not compile: {_first_error(said, status)}")
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
