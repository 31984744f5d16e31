"""A policy that somebody wrote: a Python file with a class `Policy` that has `choose(self, endpoints, request)`.

It is there to be tried out, so it may be wrong in every way, and the lab has to survive each of them: a file that does
not load, a `choose` that raises, returns what it was not offered, takes its time, or never returns. Every mistake is
told in an event with file, line and what was expected; the request goes on by round robin, and its client notices
nothing. Only a `choose` that does not come back keeps everybody waiting, for it runs where all requests run: after a
second it is stopped (watchdog.py), and asked no more until the file is saved again.

The file sees endpoints through `Shown`, in order, so that it cannot change by accident what the lab counts with. To
show them takes 3 us where there are 10 and 260 where there are 1,000 (on a busy machine), before anything is chosen.
"""

import asyncio
import inspect
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any, Generic

from lab.core.tasks import background
from lab.proxy.seldom import Seldom
from lab.proxy.selection import C, Request
from lab.proxy.selection.round_robin import RoundRobin
from lab.proxy.selection.watchdog import OverdueError, Watchdog

SLOW = 0.001
"""Seconds that a choice may take before it is told: every request of the lab waits for it."""

_INSTEAD = ". Requests go on by round robin"
_slot = attrgetter("slot")
_EXPECTED = "a class Policy with choose(self, endpoints, request), which returns one of the endpoints"


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong with a file, as an event tells it."""

    text: str
    line: int | None = None


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What a file holds, once it is known to be right in form."""

    choose: Callable[[Sequence[Any], Any], object]
    line: int | None
    """Where `choose` begins."""


class Shown(Generic[C]):
    """An endpoint as a written policy sees it: everything that `Candidate` has, to look at only."""

    __slots__ = ("_seen",)

    def __init__(self, seen: C) -> None:
        self._seen = seen

    @property
    def slot(self) -> int:
        return self._seen.slot

    @property
    def in_flight(self) -> int:
        return self._seen.in_flight

    @property
    def chosen(self) -> int:
        return self._seen.chosen

    @property
    def weight(self) -> float:
        return self._seen.weight

    @property
    def ewma(self) -> float:
        return self._seen.ewma


class _RequestShown:
    """A request as a written policy sees it."""

    __slots__ = ("_seen",)

    def __init__(self, seen: Request[Any]) -> None:
        self._seen = seen

    @property
    def method(self) -> str:
        return self._seen.method

    @property
    def path(self) -> str:
        return self._seen.path

    @property
    def client(self) -> str:
        return self._seen.client

    def header(self, name: str) -> str | None:
        return self._seen.header(name)

    def cookie(self, name: str) -> str | None:
        return self._seen.cookie(name)


class WrittenPolicy(Generic[C]):
    """The policy in a file, with round robin to stand in for it. `read` loads it, at first and when it was edited."""

    measures = True

    def __init__(self, file: str, now: Callable[[], float], tell: Callable[[str, dict[str, Any]], None]) -> None:
        """`tell` takes a sentence, and facts for programs."""
        self._file = Path(file)
        self._now = now
        self._tell = tell
        self._loaded: _Loaded | None = None
        self._reading: asyncio.Task[None] | None = None
        self._text: bytes | None = None
        self._line = RoundRobin[C]()
        self._wrong, self._slow = Seldom(), Seldom()
        self._dog = Watchdog(file)
        self.offered = self._line.offered
        self.withdrawn = self._line.withdrawn

    def read(self) -> None:
        """Load the file, in a thread: reading and compiling may take their time. Round robin goes on meanwhile."""
        self._reading = background(self._read())

    def close(self) -> None:
        """Another policy has taken over: what is still being read is of no use."""
        self._loaded = None
        self._dog.stop()
        if self._reading is not None:
            self._reading.cancel()

    @property
    def stuck_at(self) -> str:
        """File and line where `choose` stays although it was to be ended; empty while it does not. From any thread."""
        return f"{self._file.name}, line {self._dog.where()}" if self._dog.stuck else ""

    def choose(self, endpoints: Sequence[C], request: Request[C]) -> C:
        instead, loaded = self._line.choose(endpoints, request), self._loaded
        if loaded is None:
            return instead
        ordered = sorted(endpoints, key=_slot)
        shown, asked = tuple(map(Shown, ordered)), _RequestShown(request)
        dog = self._dog
        error = None
        begin = self._now()
        try:
            dog.turn = shown
            try:
                answer = loaded.choose(shown, asked)
            except OverdueError:
                raise
            except BaseException as raised:
                error = raised
            dog.turn = None
            if dog.aimed is not None:
                dog.settle()
        except OverdueError:
            dog.settle()
            self._give_up(self._now() - begin)
            return instead
        if error is not None:
            said = f"choose raised {_named(error)}; expected one of the endpoints"
            self._blame(Mistake(said, _line_in(self._file, error)), self._wrong)
            return instead
        took = self._now() - begin
        if took > SLOW:
            said = f"choose took {took * 1000:.1f} ms, and everybody waited; expected {SLOW * 1000:g} ms at most"
            self._blame(Mistake(said, loaded.line), self._slow, then="")
        for one, seen in zip(ordered, shown, strict=True):
            if answer is seen:
                return one
        said = f"choose returned {_shortly(answer)}; expected one of the {len(shown)} endpoints that it was offered"
        self._blame(Mistake(said, loaded.line), self._wrong)
        return instead

    async def _read(self) -> None:
        try:
            text = await asyncio.to_thread(self._file.read_bytes)
        except OSError as error:
            self._loaded = self._text = None
            self._news(Mistake(f"it cannot be read: {error.strerror}; expected {_EXPECTED}"))
            return
        if text == self._text:
            return
        self._text = text
        loaded = await asyncio.to_thread(_load, self._file, text)
        if text != self._text:
            return  # it was edited once more meanwhile, and read again
        if isinstance(loaded, Mistake):
            self._loaded = None
            self._news(loaded)
        else:
            self._loaded = loaded
            self._dog.stop()
            self._dog = Watchdog(str(self._file))
            self._dog.start()
            self._tell(f"{self._file.name} is loaded, and chooses from now on", {"file": str(self._file)})

    def _give_up(self, seconds: float) -> None:
        """It was stopped after `seconds`: ask it no more, for the next request would be kept waiting as long."""
        self._loaded = self._text = None
        self._dog.stop()
        said = f"choose did not return, everybody waited for {seconds:.1f} s, and then it was stopped"
        mistake = Mistake(f"{said}; expected {SLOW * 1000:g} ms at most", self._dog.line)
        self._news(mistake, _INSTEAD + " until the file is saved again")

    def _blame(self, mistake: Mistake, seldom: Seldom, then: str = _INSTEAD) -> None:
        """Tell a mistake that was made with a request, unless one of its kind was told just now."""
        more = seldom.more(self._now())
        if more is not None:
            self._news(mistake, then + more)

    def _news(self, mistake: Mistake, then: str = _INSTEAD) -> None:
        where = self._file.name if mistake.line is None else f"{self._file.name}, line {mistake.line}"
        data = {"file": str(self._file), "line": mistake.line, "mistake": mistake.text}
        self._tell(f"{where}: {mistake.text}{then}", data)


def _load(file: Path, text: bytes) -> _Loaded | Mistake:
    """What a file holds, or what is wrong with it. Runs the file, in a thread."""
    module = ModuleType(file.stem)
    module.__file__ = str(file)
    try:
        exec(compile(text, str(file), "exec"), module.__dict__)
        made = getattr(module, "Policy", None)
        if made is None:
            return Mistake(f"it has no class Policy; expected {_EXPECTED}")
        choose = getattr(made(), "choose", None)
        if choose is None or inspect.iscoroutinefunction(choose):
            found = "no choose" if choose is None else "an async choose, for which nobody can wait"
            return Mistake(f"its Policy has {found}; expected {_EXPECTED}")
    except (Exception, SystemExit) as error:
        return Mistake(f"{_named(error)}; expected {_EXPECTED}", _line_in(file, error))
    code = getattr(choose, "__code__", None)
    return _Loaded(choose, getattr(code, "co_firstlineno", None))


def _line_in(file: Path, error: BaseException) -> int | None:
    """The last line of `file` that an error went through."""
    if isinstance(error, SyntaxError):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename == str(file)), None)


def _named(error: BaseException) -> str:
    """Kind and words of an error, whatever its own `str` does."""
    return traceback.format_exception_only(error)[-1].strip()


def _shortly(value: object) -> str:
    """A wrong answer in a word: its own `repr` would be somebody else's code again."""
    return "None" if value is None else f"something of type {type(value).__name__}"
