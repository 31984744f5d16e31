"""The real program as a person meets it, in tmux: the first opening, a kill, another size, the end, and broken apps."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    shutil.which("tmux") is None, reason="drives the program in tmux, which is not installed"
)

_PATIENCE = 60.0


class Terminal:
    """A tmux session of its own server, in which `cgilab` runs with folders of its own."""

    def __init__(self, folder: Path, width: int, height: int, *args: str) -> None:
        self._socket = str(folder / "tmux.sock")
        folders = [f"{name}={folder / name}" for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME")]
        command = ["env", *folders, "TERM=xterm-256color", sys.executable, "-m", "lab", "--port", "0", *args]
        shell = " ".join(command) + "; echo exit=$?; exec sleep 120"
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", str(width), "-y", str(height), shell)

    def screen(self) -> str:
        """What is on the screen now."""
        return self._tmux("capture-pane", "-p")

    def press(self, *keys: str) -> None:
        """Press keys, named as tmux names them."""
        self._tmux("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def until(self, pattern: str) -> re.Match[str]:
        """Wait until the screen shows `pattern`."""
        deadline = time.monotonic() + _PATIENCE
        while not (found := re.search(pattern, shown := self.screen())):
            assert time.monotonic() < deadline, f"{pattern!r} did not appear:\n{shown}"
            time.sleep(0.05)  # a terminal has no event to await
        return found

    def lab(self) -> int:
        """The PID of the program."""
        (shell,) = self._tmux("list-panes", "-F", "#{pane_pid}").split()
        (child,) = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        return int(child)

    def close(self) -> None:
        """Close the terminal, as a window manager does: the program hears SIGHUP."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self._tmux("kill-server")

    def _tmux(self, *args: str) -> str:
        command = ["tmux", "-u", "-S", self._socket, *args]
        env = {**os.environ, "LC_ALL": "C.UTF-8"}
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True, timeout=60).stdout


@contextlib.contextmanager
def terminal(folder: Path, width: int, height: int, *args: str) -> Iterator[Terminal]:
    opened = Terminal(folder, width, height, *args)
    try:
        yield opened
    finally:
        opened.close()


def below(pid: int) -> set[int]:
    """Every process below `pid`."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found |= {child} | below(child)
    return found


def until_gone(pids: set[int]) -> None:
    """Wait until none of them runs; a zombie is gone."""
    deadline = time.monotonic() + _PATIENCE
    while left := [pid for pid in pids if _runs(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(("width", "height"), [(80, 24), (170, 50)])
def test_it_opens_on_the_first_lesson_kills_a_worker_and_leaves_nothing(
    tmp_path: Path, width: int, height: int
) -> None:
    with terminal(tmp_path, width, height) as opened:
        opened.until(r"press r")
        opened.press("r")
        opened.until(r"200 from PID \d+")
        opened.press("1")
        opened.until(r"search/0.+ready")
        family = below(opened.lab())
        opened.press("k")
        assert opened.until(r"SIGKILL\s+exit seen\s+forked \d+")
        opened.resize(250 - width, 74 - height)
        opened.until(r"search/0.+ready")
        opened.press("q")
        opened.until(r"3 workers stopped, 0 left\.\s+exit=0")
        until_gone(family)


@pytest.mark.compiler
def test_apps_that_cannot_work_have_a_place_on_the_screen_and_the_lab_goes_on(tmp_path: Path) -> None:
    programs = {
        "broken.c": "int main(void) { return x }\n",
        "quits.py": "raise SystemExit('nothing to do')\n",
        "silent.py": "import socket,sys\ns = socket.create_server(('', int(sys.argv[1])))\nwhile True: s.accept()\n",
    }
    apps = []
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        stem, language = name.split(".")[0], "c" if name.endswith(".c") else "python"
        apps.append(f'{{"name": "{stem}", "route": "/{stem}", "language": "{language}", "source": "{name}"}}')
    manifest = tmp_path / "bad.json"
    manifest.write_text(f'{{"version": 1, "name": "bad", "apps": [{", ".join(apps)}]}}')
    with terminal(tmp_path, 170, 50, "--manifest", str(manifest)) as opened:
        opened.until(r"broken\s+■ not available: broken\.c does not compile")
        opened.until(r"quits/\d.+(waits|failed)")
        opened.until(r"silent/\d.+starting: It hung up")
        opened.press("q")
        opened.until(r"workers? stopped, 0 left\.\s+exit=0")
