"""The real program in a real terminal: `cgilab` with real workers, from its first line to its last."""

import codecs
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import paths
from lab.learning.progress import Progress

CGILAB = Path(sys.executable).with_name("cgilab")
PATIENCE_S = 60.0
ESCAPE = re.compile(r"\x1b(\[[0-9;?<>=]*[a-zA-Z]|\][^\a]*\a|[PX^_].*?\x1b\\|[=>\\])")


class Terminal:
    """`cgilab` in a terminal of 80x24. `read_until` returns what came up to then, escape sequences left out."""

    def __init__(self, *arguments: str, env: dict[str, str]) -> None:
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
            os.execve(CGILAB, [str(CGILAB), *arguments], env)
        self.text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = ""
        """The end of what came, if an escape sequence may go on there."""

    def press(self, keys: str) -> None:
        os.write(self.descriptor, keys.encode())

    def read_until(self, pattern: str) -> "re.Match[str]":
        """Wait for `pattern` in what comes from now on, and take everything up to it."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := re.search(pattern, self.text)) is None:
            assert time.monotonic() < deadline, f"waited for {pattern!r}; seen {self.text[-600:]!r}"
            self.text += self._read(deadline)
        self.text = self.text[found.end() :]
        return found

    def wait(self) -> int:
        """The exit code, or minus the signal."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                self._read_rest()
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < deadline, "it did not end"
            try:
                self.text += self._read(time.monotonic() + 0.05)
            except OSError:  # closed, from this side or from the other
                time.sleep(0.05)

    def _read_rest(self) -> None:
        """What it had written before it ended."""
        with contextlib.suppress(OSError):  # which is how the end is told
            while select.select([self.descriptor], [], [], 0.0)[0]:
                self.text += self._read(0.0)
        self.text += self._begun

    def _read(self, deadline: float) -> str:
        ready, _, _ = select.select([self.descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return ""
        text = self._begun + self._decoder.decode(os.read(self.descriptor, 65536))
        last = text.rfind("\x1b")
        whole = len(text) if last < 0 or ESCAPE.match(text, last) else last
        self._begun = text[whole:]
        return ESCAPE.sub("", text[:whole])


@pytest.fixture
def terminal(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Terminal]:
    """An open lab with two Python workers, of a person who has done the first lesson. A parameter is a program that its
    interpreter runs first."""
    (tmp_path / "sitecustomize.py").write_text(getattr(request, "param", ""))
    source = paths.content("samples") / "search" / "python" / "search.py"
    app = {"name": "search", "route": "/api/search", "language": "python", "source": str(source)}
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"version": 1, "apps": [app]}))
    Progress(tmp_path / "state" / "cgilab" / "progress.json").finish("first-look", 0.0)
    places = {f"XDG_{name.upper()}_HOME": str(tmp_path / name) for name in ("state", "cache")}
    env = {**os.environ, **places, "XDG_RUNTIME_DIR": str(tmp_path), "TERM": "xterm-256color", "LANG": "C.UTF-8"}
    env["PYTHONPATH"] = str(tmp_path)
    opened = Terminal("--port", "0", "--manifest", str(manifest), env=env)
    yield opened
    if opened.pid:
        os.kill(opened.pid, signal.SIGKILL)
        os.waitpid(opened.pid, 0)


def workers(terminal: Terminal) -> list[int]:
    """PIDs of both workers, when they are ready."""
    return [int(terminal.read_until(rf"search/{slot} +(\d+) +● ready")[1]) for slot in (0, 1)]


def test_a_kill_is_seen_with_its_photo_finish_and_quitting_counts_the_workers(terminal: Terminal) -> None:
    first, _ = workers(terminal)
    terminal.press("k")
    terminal.read_until(r"search slot 0, slowed down")
    successor = int(terminal.read_until(r"forked (\d+)")[1])
    assert not Path(f"/proc/{first}").exists()
    assert Path(f"/proc/{successor}").exists()
    terminal.press("q")
    assert terminal.wait() == 0
    assert "2 workers stopped, 0 left." in terminal.text
    assert not Path(f"/proc/{successor}").exists()


def test_a_closed_terminal_leaves_no_worker_behind(terminal: Terminal) -> None:
    pids = workers(terminal)
    os.close(terminal.descriptor)
    terminal.wait()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_cleanly(terminal: Terminal, number: signal.Signals, code: int) -> None:
    pids = workers(terminal)
    os.kill(terminal.pid, number)
    assert terminal.wait() == code
    assert "2 workers stopped, 0 left." in terminal.text
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


_DEFECT = "from lab.tui.widgets.said import Said\nSaid.show = lambda *said: 1 / 0\n"


@pytest.mark.parametrize("terminal", [_DEFECT], indirect=True)
def test_a_defect_of_the_screen_is_one_sentence_and_every_worker_ends(terminal: Terminal, tmp_path: Path) -> None:
    pids = workers(terminal)
    terminal.press("r")
    assert terminal.wait() == 1
    assert "2 workers stopped, 0 left." in terminal.text
    assert "this is a defect of cgilab" in terminal.text
    assert "Traceback" not in terminal.text
    assert "ZeroDivisionError" not in terminal.text
    assert "ZeroDivisionError" in (tmp_path / "state" / "cgilab" / "defect.log").read_text()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
