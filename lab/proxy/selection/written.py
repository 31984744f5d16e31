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
import contextlib
import inspect
import threading
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

_LOAD_LOOKS = 50
"""How often the watchdog sees a file being loaded before it ends that: after about five seconds."""

_LOADING = 7.0
"""Seconds after which it is told that a file is still being loaded, in code in C that cannot be ended."""

_LONGEST = 200
"""Characters of an error's text that are told."""

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
        shown = tuple(map(Shown, ordered))
        begin = self._now()
        try:
            answer = self._dog.call(_answer, loaded, shown, _RequestShown(request), self._file)
        except OverdueError:
            self._give_up(self._now() - begin)
            return instead
        if type(answer) is Mistake:
            self._blame(answer, self._wrong)
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
        loading = _loading(self._file, text)
        await asyncio.wait((loading,), timeout=_LOADING)
        if not loading.done() and text == self._text:
            self._news(Mistake(f"it has not been loaded for {_LOADING:g} s; expected {_EXPECTED}"))
        loaded = await loading
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


def _answer(loaded: _Loaded, shown: Sequence[Any], asked: _RequestShown, file: Path) -> object:
    """What `choose` says, or the mistake that it was to raise: an error's own text is somebody else's code, too."""
    try:
        return loaded.choose(shown, asked)
    except OverdueError:
        raise
    except BaseException as error:
        line = _line_in(file, error) or loaded.line
        return Mistake(f"choose raised {_named(error)}; expected one of the endpoints", line)


def _loading(file: Path, text: bytes) -> "asyncio.Future[_Loaded | Mistake]":
    """`_loaded_in_time`, in a thread that does not keep the lab from ending, should it never come to an end itself."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[_Loaded | Mistake] = loop.create_future()

    def tell(loaded: _Loaded | Mistake) -> None:
        if not found.done():
            found.set_result(loaded)

    def load() -> None:
        loaded = _loaded_in_time(file, text)
        with contextlib.suppress(RuntimeError):  # the lab has ended meanwhile
            loop.call_soon_threadsafe(tell, loaded)

    threading.Thread(target=load, name="policy", daemon=True).start()
    return found


def _loaded_in_time(file: Path, text: bytes) -> _Loaded | Mistake:
    """`_load`, ended when it takes too long: it runs beside the requests, and takes turns with them."""
    dog = Watchdog(str(file), looks=_LOAD_LOOKS)
    dog.start()
    try:
        return dog.call(_load, file, text)
    except OverdueError:
        return Mistake(f"it was not loaded in time, and then it was stopped; expected {_EXPECTED}", dog.line)
    finally:
        dog.stop()


def _load(file: Path, text: bytes) -> _Loaded | Mistake:
    """What a file holds, or what is wrong with it. Runs the file."""
    module = ModuleType(file.stem)
    module.__file__ = str(file)
    try:
        exec(compile(text, str(file), "exec"), module.__dict__)
        made = getattr(module, "Policy", None)
        if made is None:
            return Mistake(f"it has no class Policy; expected {_EXPECTED}")
        choose = getattr(made(), "choose", None)
        if choose is None:
            return Mistake(f"its Policy has no choose; expected {_EXPECTED}")
        if inspect.iscoroutinefunction(choose) or inspect.isasyncgenfunction(choose):
            return Mistake(f"its Policy has an async choose, for which nobody can wait; expected {_EXPECTED}")
        if inspect.isgeneratorfunction(choose):
            return Mistake(f"its Policy has a choose that yields; expected {_EXPECTED}")
        code = getattr(choose, "__code__", None)
        return _Loaded(choose, getattr(code, "co_firstlineno", None))
    except OverdueError:
        raise
    except BaseException as error:
        return Mistake(f"{_named(error)}; expected {_EXPECTED}", _line_in(file, error))


def _line_in(file: Path, error: BaseException) -> int | None:
    """The last line of `file` that an error went through."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return error.lineno
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == str(file)]
    return lines[-1] if lines else None


def _named(error: BaseException) -> str:
    """Kind and words of an error, whatever its own `str` does."""
    name = traceback.format_exception_only(error)[-1].strip()
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..."


def _shortly(value: object) -> str:
    """A wrong answer in a word: its own `repr` would be somebody else's code again."""
    if type(value) is Shown:
        return "an endpoint of an earlier call (keep its slot instead)"
    return "None" if value is None else f"something of type {type(value).__name__}"
