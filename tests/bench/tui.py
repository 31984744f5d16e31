"""What the screen costs: exec to first paint, key to screen, and what it adds to the latency of requests.

    python tests/bench/tui.py [--rounds 5] [--seconds 5] [--json]

The real `cgilab` under a pseudo-terminal, its modules compiled already. First paint: from exec until the bytes of the
header arrive. Key to screen: 170x50, 20 C workers, 2,000 requests/s; from a cursor key until the bytes of the row that
the cursor moved to arrive. Added p99: the same load on the same lab with the screen and without (`cgilab up`), in
turns. Aims: medians under 900 ms and 30 ms, added p99 under 15 ms.
"""

import argparse
import fcntl
import json
import os
import pty
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lab import paths
from lab.learning.progress import Progress

CGILAB = Path(sys.executable).with_name("cgilab")
LOAD = Path(__file__).with_name("open_load.py")
SIZE = (50, 170)
WORKERS = 20
RATE = 2000
AIMS = {"first_paint_ms": 900.0, "key_to_screen_ms": 30.0, "added_p99_ms": 15.0}


class Terminal:
    """A program under a pseudo-terminal that is always read, with the time at which each byte came."""

    def __init__(self, *argv: str | Path, env: dict[str, str]) -> None:
        self.started = time.monotonic()
        self.pid, self._descriptor = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
            os.execve(argv[0], [str(word) for word in argv], env)
        self._bytes = bytearray()
        self._came = threading.Condition()
        self._ended = False
        threading.Thread(target=self._read, daemon=True).start()

    def wait_for(self, needle: bytes, since: int = 0, seconds: float = 60.0) -> float:
        """Monotonic time at which `needle` was complete in what came after byte `since`."""
        with self._came:
            found = self._came.wait_for(lambda: self._ended or needle in self._bytes[since:], seconds)
            if not found or needle not in self._bytes[since:]:
                raise SystemExit(
                    f"waited {seconds:g} s for {needle!r}; the last bytes were {bytes(self._bytes[-400:])!r}"
                )
            return time.monotonic()

    def press(self, key: bytes) -> tuple[float, int]:
        """Send a key; when it was sent, and how much had come by then."""
        with self._came:
            sofar = len(self._bytes)
        now = time.monotonic()
        os.write(self._descriptor, key)
        return now, sofar

    def close(self) -> None:
        """Quit the program as a person does."""
        os.write(self._descriptor, b"q")
        os.waitpid(self.pid, 0)
        os.close(self._descriptor)

    def _read(self) -> None:
        with suppress(OSError):
            while chunk := os.read(self._descriptor, 65536):
                with self._came:
                    self._bytes += chunk
                    self._came.notify_all()
        with self._came:
            self._ended = True
            self._came.notify_all()


def first_paint(env: dict[str, str], manifest: Path) -> float:
    """Milliseconds from exec to the header."""
    terminal = Terminal(CGILAB, "--port", "0", "--manifest", manifest, env=env)
    painted = terminal.wait_for(b"cgilab")
    terminal.wait_for(b"Quit")
    terminal.close()
    return (painted - terminal.started) * 1000


def with_screen(env: dict[str, str], manifest: Path, seconds: float) -> tuple[list[float], float]:
    """Keys to screen in ms, and the p99 of requests in ms, while the screen is open."""
    terminal = Terminal(CGILAB, "--port", "0", "--manifest", manifest, env=env)
    terminal.wait_for(f"search/{WORKERS - 1} ".encode())
    load = start_load(env, seconds)
    keys = list(press_keys(terminal, seconds))
    p99 = result(load)
    terminal.close()
    return keys, p99


def press_keys(terminal: Terminal, seconds: float) -> Any:
    """Move the cursor up and down while the load runs; yields ms from key to row."""
    slot, step = 0, 1
    end = time.monotonic() + seconds - 0.5
    while time.monotonic() < end:
        time.sleep(0.083)  # In no step with the fifth of a second between two looks.
        step = -1 if slot == WORKERS - 1 else 1 if slot == 0 else step
        slot += step
        pressed, sofar = terminal.press(b"\x1b[B" if step > 0 else b"\x1b[A")
        yield (terminal.wait_for(f"> search/{slot} ".encode(), sofar) - pressed) * 1000


def without_screen(env: dict[str, str], manifest: Path, seconds: float) -> float:
    """The p99 of requests in ms with no screen."""
    argv = [CGILAB, "up", "--port", "0", "--manifest", manifest]
    lab = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return result(start_load(env, seconds))
    finally:
        lab.send_signal(signal.SIGTERM)
        lab.wait(20)


def start_load(env: dict[str, str], seconds: float) -> "subprocess.Popen[bytes]":
    """The load generator on the lab that runs, once all of its workers are ready."""
    url = listener(env) + "/api/search?q=http"
    argv = [sys.executable, LOAD, url, "--rate", str(RATE), "--seconds", str(seconds)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE)


def listener(env: dict[str, str]) -> str:
    """The lab's address, when every worker is ready."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        asked = subprocess.run([CGILAB, "status", "--json"], env=env, capture_output=True, check=False)
        if asked.returncode == 0:
            status = json.loads(asked.stdout)
            workers = [worker for app in status["apps"] for worker in app["workers"]]
            if len(workers) == WORKERS and all(worker["state"] == "ready" for worker in workers):
                return str(status["listener"])
        time.sleep(0.1)
    raise SystemExit("the lab's workers did not become ready within 60 s")


def result(load: "subprocess.Popen[bytes]") -> float:
    """The p99 that the load generator measured, in ms."""
    printed, _ = load.communicate()
    told = json.loads(printed)
    if told["answered"] < told["wanted"]:
        few = f"{told['answered']} of {told['wanted']} requests were answered"
        print(f"{few}: the machine is too slow for this, and the figure says little", file=sys.stderr)
    return float(told["p99_ms"])


def spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median": round(statistics.median(ordered), 1),
        "min": round(ordered[0], 1),
        "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 1),
        "max": round(ordered[-1], 1),
        "count": len(ordered),
    }


def measure(rounds: int, seconds: float) -> dict[str, Any]:
    """All figures. The lab lives in a folder of its own and leaves nothing behind."""
    with tempfile.TemporaryDirectory(prefix="cgilab-bench-") as folder:
        env = {**os.environ, "XDG_RUNTIME_DIR": folder, "XDG_STATE_HOME": folder, "TERM": "xterm-256color"}
        env.pop("PYTHONDONTWRITEBYTECODE", None)  # a person's second start finds them compiled
        search = {"name": "search", "route": "/api/search", "language": "c", "concurrency": 32}
        search["source"] = str(paths.content("samples") / "search" / "c" / "search.c")
        crowd = Path(folder) / "crowd.json"
        crowd.write_text(json.dumps({"version": 1, "apps": [{**search, "pool": {"max_workers": WORKERS}}]}))
        first_paint(env, paths.content("samples") / "manifest.json")  # which compiles them, and search
        painted = [first_paint(env, paths.content("samples") / "manifest.json") for _ in range(rounds)]
        Progress(Path(folder) / "cgilab" / "progress.json").finish("first-look", time.time())  # So it opens on the lab.
        keys: list[float] = []
        beside, alone = [], []
        for _ in range(rounds):
            alone.append(without_screen(env, crowd, seconds))
            pressed, p99 = with_screen(env, crowd, seconds)
            keys += pressed
            beside.append(p99)
    return {
        "rounds": rounds,
        "rate": RATE,
        "workers": WORKERS,
        "first_paint_ms": spread(painted),
        "key_to_screen_ms": spread(keys),
        "p99_without_ms": spread(alone),
        "p99_with_ms": spread(beside),
        "added_p99_ms": spread([one - other for one, other in zip(beside, alone, strict=True)]),
        "aims": AIMS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    figures = measure(asked.rounds, asked.seconds)
    if asked.json:
        print(json.dumps(figures))
        return
    for name in ("first_paint_ms", "key_to_screen_ms", "p99_without_ms", "p99_with_ms", "added_p99_ms"):
        aim = f"   aim: median under {AIMS[name]:g}" if name in AIMS else ""
        told = "  ".join(f"{key} {value:g}" for key, value in figures[name].items())
        print(f"{name:18} {told}{aim}")


if __name__ == "__main__":
    main()
