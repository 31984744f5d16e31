"""What a process is doing at this instant: its own stack if that can be had, else what the kernel says of it.

py-spy, where it is installed, reads the Python stack of a running process without its help. Of any other process the
kernel tells in which system call it waits (`/proc/PID/syscall`), and where in the kernel (`/proc/PID/wchan`). Both look
from outside and stop nothing for longer than a moment. (PHP-FPM does the same for its slow log, with ptrace.)
"""

import asyncio
import json
import os
import platform
import shutil
import signal
import sys
from pathlib import Path

from lab.core.errors import LabError
from lab.pool import procfs
from lab.pool.manager import Stack
from lab.pool.process import Lines, Process
from lab.pool.spawner import Order, Spawner

_PATIENCE = 2.0
_MOST_LINES = 40
_STATES = {
    "R": "It is running, or ready to run.",
    "S": "It sleeps until something happens.",
    "D": "It waits for a disk or a device, and cannot be interrupted.",
    "T": "It is stopped.",
    "t": "It is stopped by a debugger.",
    "Z": "It has ended.",
}
_CALLS: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("syscalls.json").read_bytes())


async def look(pid: int, spawner: Spawner) -> Stack:
    """What `pid` does now. Takes at most 2 s; a process that is gone has an empty stack."""
    tool = shutil.which("py-spy", path=_where_tools_are())
    if tool is not None and await asyncio.to_thread(_is_python, pid):
        lines = await _py_spy(tool, pid, spawner)
        if lines:
            return Stack(lines, "py-spy")
    return Stack(await asyncio.to_thread(_kernel, pid), "kernel")


def calls(pid: int) -> set[str]:
    """The system calls in which its threads wait now; none when it is gone, or runs, or may not be looked at."""
    try:
        threads = [path.name for path in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return set()
    return {_name(call.split()[0]) for thread in threads if (call := _read(pid, f"task/{thread}/syscall"))}


def _where_tools_are() -> str:
    """PATH, and before it the folder of this interpreter: an environment need not be activated to be used."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


async def _py_spy(tool: str, pid: int, spawner: Spawner) -> tuple[str, ...]:
    """The stack of its threads; nothing when it may not look (ptrace(2)) or does not come to an end."""
    lines: list[str] = []
    out, into = os.pipe2(os.O_CLOEXEC)
    report = Lines(out, lines.append)
    order = Order(argv=(tool, "dump", "--nonblocking", "--pid", str(pid)), env={"NO_COLOR": "1"}, fds={1: into})
    try:
        process = await Process.start(spawner, order, report)
    except LabError:
        report.finish()
        return ()
    finally:
        os.close(into)
    try:
        status = await asyncio.wait_for(process.wait(), _PATIENCE)
    except TimeoutError:
        process.signal(signal.SIGKILL, group=True)
        return ()
    frames = [line.strip() for line in lines if line.startswith((" ", "Thread"))]
    return tuple(frames[:_MOST_LINES]) if status == 0 else ()


def _is_python(pid: int) -> bool:
    try:
        return "python" in Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return False


def _kernel(pid: int) -> tuple[str, ...]:
    seen = procfs.stat(pid)
    if seen is None:
        return ()
    said = [_STATES.get(seen.state, f"Its state is {seen.state}.")]
    call, place = _read(pid, "syscall"), _read(pid, "wchan")
    if call.split()[:1] not in ([], ["running"], ["-1"]):
        said.append(f"It is in the system call {_name(call.split()[0])}.")
    if place not in ("", "0"):
        said.append(f"In the kernel it waits in {place}.")
    return tuple(said)


def _name(number: str) -> str:
    return _CALLS.get(platform.machine(), {}).get(number, f"number {number}")


def _read(pid: int, what: str) -> str:
    """What the kernel lets us see of it: some of it is for root, or for who may trace the process."""
    try:
        return Path(f"/proc/{pid}/{what}").read_text().strip()
    except OSError:
        return ""
