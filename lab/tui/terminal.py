"""The terminal that the screen is drawn on. It may be closed at any moment, and the lab has to end in order then.

Textual hands its output to a thread, through a queue of thirty places. Writing to a closed terminal fails (EIO) and
ends that thread; thirty writes later the queue is full, and the next one would wait for ever, workers and all.
"""

from contextlib import suppress
from io import TextIOWrapper
from typing import Any

from textual.drivers.linux_driver import LinuxDriver


class Output:
    """A text file that takes everything: signs that its encoding lacks, and all when nobody can read it any more."""

    def __init__(self, file: TextIOWrapper) -> None:
        self._file = file
        file.reconfigure(errors="replace")  # what stands for a sign is as wide as the sign; "\\u2586" is not

    def fileno(self) -> int:
        """The descriptor of the terminal."""
        return self._file.fileno()

    def write(self, text: str) -> None:
        """Write `text`; what a closed terminal does not take is forgotten."""
        with suppress(OSError):
            self._file.write(text)

    def flush(self) -> None:
        """As `write`."""
        with suppress(OSError):
            self._file.flush()


class Terminal(LinuxDriver):
    """Textual's driver, with an output that outlives its terminal."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._file: Any = Output(self._file)
