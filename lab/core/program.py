"""`CgiProgram`, what pool and proxy share about classic CGI: the pool starts such a program, the proxy talks to it, and
neither knows the other.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol


class CgiProgram(Protocol):
    """A program that was started for one request. Its pipes belong to whoever had it started."""

    @property
    def pid(self) -> int: ...

    @property
    def stdin(self) -> int:
        """The writing end of its standard input: a descriptor that the caller closes."""
        ...

    @property
    def stdout(self) -> int:
        """The reading end of its standard output: a descriptor that the caller closes."""
        ...

    def kill(self) -> None:
        """SIGKILL to it and to everything it started. Does nothing when it is gone."""
        ...

    def on_end(self, tell: Callable[[int], None]) -> None:
        """Have `tell` called soon after it has ended, also if it has already, with its exit status as
        `os.waitstatus_to_exitcode` has it: negative for a signal."""
        ...


StartCgi = Callable[[str, dict[str, str]], Awaitable[CgiProgram]]
"""Start an app's program with exactly this environment. Raises `UnavailableError`. Where it is cancelled, no program is
left running and no pipe open."""
