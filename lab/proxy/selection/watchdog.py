"""Ends somebody else's code that does not come back. A policy of one's own runs where all requests run, so while its
`choose` thinks, nothing moves in the whole lab; a loop without an end would be the end of the lab.

CPython can raise an exception in another thread (PyThreadState_SetAsyncExc): it comes between two steps of Python code.
So a thread looks now and then whether the code is still in the same call, and after so many looks has it raise
`OverdueError`. Code in C cannot be interrupted like this: a `time.sleep(100)` sleeps to its end, and raises then. Until
then `stuck` and `where` tell of it.

Some of it, such as `sum(range(10**12))`, gives no other thread a turn: nobody in the process hears a key or a signal
then, so that it could not even be told to end. Therefore each look winds up a timer of the kernel (setitimer(2)). It
runs only while the process computes, so that one which sleeps or is stopped has all the time in the world; but when it
has computed for five seconds without a look, it tells where it is, and dies by SIGPROF. The fork server ends the rest.

The exception must not come late, when the call is over and code of the lab runs on the same thread. So the watchdog
first says that it aims at this turn, then looks whether it is still on; and who ends a turn looks whether somebody has
aimed at it, and then waits for that to be over and takes back what is still on its way. Looks are counted, not seconds:
a lab that was stopped itself for a while has not been kept waiting by anybody.
"""

import ctypes
import faulthandler
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_EVERY: Final = 0.1
"""Seconds between two looks."""

_LOOKS: Final = 10
"""How often one turn is seen before it is ended: after about a second. One that goes on all the same is hit again."""

_STANDARD_ERROR: Final = 2

_LAST: Final = 5.0
"""Seconds of CPU time that this process may take without a look."""


class OverdueError(BaseException):
    """Raised in code that did not come back. Not an `Exception`, so that `except Exception` does not keep it."""


class _LastResort:
    """The timer that ends this process. There is one, whoever watches, and it runs while anybody does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0

    def take(self) -> None:
        """Somebody watches from now on."""
        with self._lock:
            self._users += 1
            faulthandler.register(signal.SIGPROF, _STANDARD_ERROR, all_threads=False, chain=True)
            self.wind_up()

    def wind_up(self) -> None:
        """It has all its time again."""
        signal.setitimer(signal.ITIMER_PROF, _LAST)

    def leave(self) -> None:
        """Whoever took it watches no more."""
        with self._lock:
            self._users -= 1
            if not self._users:
                signal.setitimer(signal.ITIMER_PROF, 0)


_last_resort = _LastResort()


class Watchdog:
    """Watches one thread: the one that calls `start`, and `call`. Between `start` and `stop` it has one of its own."""

    def __init__(self, file: str, every: float = _EVERY, looks: int = _LOOKS) -> None:
        """`file` is the watched one's, as its code objects name it; `every` is in seconds."""
        self._turn: object = None
        """What is being called, as an object of its own; None for nothing."""
        self._aimed: object = None
        """The turn that was to be ended."""
        self.line: int | None = None
        """Of the file: where that turn was then."""
        self._file = file
        self._every, self._looks = every, looks
        self._aiming = False
        self._over = threading.Event()
        self._thread = 0

    def start(self) -> None:
        """Watch from now on what this thread does."""
        self._thread = threading.get_ident()
        _last_resort.take()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Watch no more."""
        self._over.set()

    def call(self, code: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Call the watched code. Raises what it raises, and `OverdueError` when it did not come back in time; `line` is
        where it was then. The exception may come anywhere in here, and not afterwards."""
        try:
            self._turn = object()
            try:
                return code(*arguments, **named)
            finally:
                self._turn = None
                if self._aimed is not None:
                    self._settle()
        except OverdueError:
            self._settle()
            raise

    @property
    def stuck(self) -> bool:
        """A turn was to be ended and still goes on. May be asked by any thread, as `where`."""
        return self._aimed is not None and self._aimed is self._turn

    def where(self) -> int | None:
        """The line of the file at which the watched thread is now; None where it is nowhere in it."""
        frame = sys._current_frames().get(self._thread)
        while frame is not None and frame.f_code.co_filename != self._file:
            frame = frame.f_back
        return _line(frame)

    def _settle(self) -> None:
        """End a turn at which somebody aimed. Nothing is on its way afterwards."""
        while True:
            try:
                self._turn = None
                while self._aiming:
                    time.sleep(0)
                _raise_in(self._thread, None)
                self._aimed = None
                return
            except OverdueError:
                continue

    def _watch(self) -> None:
        seen: object = None
        looks = 0
        while not self._over.wait(self._every):
            _last_resort.wind_up()
            turn = self._turn
            if turn is None or turn is not seen:
                seen, looks = turn, 0
                continue
            looks += 1
            if not looks % self._looks:
                self._end(turn)
        _last_resort.leave()

    def _end(self, turn: object) -> None:
        line = self.where()
        self._aiming = True
        self._aimed, self.line = turn, line
        if self._turn is turn:
            _raise_in(self._thread, OverdueError)
        self._aiming = False


def _line(frame: FrameType | None) -> int | None:
    return None if frame is None else frame.f_lineno


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Have a thread raise `error` at its next step; with None, take back what it has not raised yet."""
    raising: Callable[..., int] = ctypes.pythonapi.PyThreadState_SetAsyncExc
    raising(ctypes.c_ulong(thread), None if error is None else ctypes.py_object(error))
