"""What this machine can run, what it lacks, and the command that mends it. `cgilab doctor` prints it.

Nothing here is read from a table of what systems ought to have: tools are asked for their version, and system calls are
tried. Every question is asked at once and has a time limit, so a report takes as long as the slowest answer, and a tool
that hangs is reported as one that does not answer.
"""

import ctypes
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import msgspec

from lab import paths
from lab.config.languages import Detected, DetectedLanguage, Language, ask_version, detect
from lab.core.schema import published
from lab.pool import sockdiag

ENOUGH_FILES = 1024
"""Open files that a lab of a few dozen workers under load stays below."""

_PR_GET_CHILD_SUBREAPER = 37
_PR_GET_PDEATHSIG = 2
_PTRACE_SEIZE = 0x4206
_ALSO_IN = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Servers are installed where an ordinary user's PATH does not look."""


class Kernel(msgspec.Struct, frozen=True, kw_only=True):
    """What the system calls said that the lab is built on."""

    release: str
    cores: int
    """That this process may run on."""
    memory_bytes: int
    pidfd: bool
    """Signals reach one process and never its successor under the same PID."""
    subreaper: bool
    """Grandchildren whose parent died come to the fork server."""
    parent_death_signal: bool
    """Workers die with the fork server."""
    sock_diag: bool
    """The kernel tells which process a listening socket belongs to."""
    ptrace: bool
    """A profiler may look into the lab's processes."""
    cgroup: str
    """`v1`, `v2` or `none`."""
    open_files: int
    """Soft limit."""
    open_files_max: int
    """Hard limit: up to here, `ulimit -n` raises the soft one."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole examination. `problems` are sentences: what does not work, and what to do."""

    version: int = 1
    languages: tuple[DetectedLanguage, ...]
    tools: tuple[Detected, ...]
    kernel: Kernel
    problems: tuple[str, ...]


class Tool(msgspec.Struct, frozen=True):
    """A program that the lab's lessons and benchmarks use where they find it. `asked` makes it tell its version."""

    name: str
    asked: str
    hint: str


TOOLS = (
    Tool("curl", "--version", "sudo apt install curl"),
    Tool("tmux", "-V", "sudo apt install tmux"),
    Tool("wrk", "-v", "sudo apt install wrk"),
    Tool("nginx", "-v", "sudo apt install nginx-light"),
    Tool("haproxy", "-v", "sudo apt install haproxy"),
    Tool("redis-server", "--version", "sudo apt install redis-server"),
)
PACKAGES = ("locust", "py-spy")
"""Tools that come as Python packages, into the lab's own environment."""


def examine(languages: Mapping[str, Language]) -> Report:
    """Ask everything at once. Takes as long as the slowest answer, at most `VERSION_TIMEOUT` s and a little more."""
    with ThreadPoolExecutor(max_workers=len(languages) + len(TOOLS) + 1) as threads:
        kernel = threads.submit(examine_kernel)
        spoken = threads.map(detect, languages.values())
        installed = threads.map(_detect_tool, TOOLS)
        found = tuple(spoken)
        return Report(
            languages=found,
            tools=(*installed, *map(_detect_package, PACKAGES)),
            kernel=kernel.result(),
            problems=(*_missing(found, languages), *_lacks(kernel.result()), *_locked_folders()),
        )


def examine_kernel() -> Kernel:
    """Try the system calls that the lab is built on. Changes nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Kernel(
        release=os.uname().release,
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        pidfd=_works(_signal_by_pidfd),
        subreaper=_works(lambda: _prctl_reads(_PR_GET_CHILD_SUBREAPER)),
        parent_death_signal=_works(lambda: _prctl_reads(_PR_GET_PDEATHSIG)),
        sock_diag=_works(_find_own_listener),
        ptrace=_works(_trace_child),
        cgroup=_cgroup(),
        open_files=soft,
        open_files_max=hard,
    )


def encoded(report: Report) -> str:
    """The report as one JSON document."""
    return msgspec.json.encode(report).decode()


def render(report: Report) -> str:
    """The report as plain text for a terminal: a mark in words, never a colour."""
    kernel = report.kernel
    memory = f"{kernel.memory_bytes / 2**30:.1f} GB"
    abilities = [(name, "yes" if getattr(kernel, name) else "no", told) for name, told in _ABILITIES.items()]
    abilities.append(("cgroup", kernel.cgroup, ""))
    room = f"ulimit -n raises it to {kernel.open_files_max}" if kernel.open_files_max > kernel.open_files else ""
    abilities.append(("open_files", str(kernel.open_files), room))
    sections = (
        ("Languages", _rows([_language_row(one) for one in report.languages])),
        ("Tools", _rows([_row(one) for one in report.tools])),
        (f"Kernel: Linux {kernel.release}, {kernel.cores} cores, {memory}", _rows(abilities)),
        ("Problems", "\n".join(f"  {problem}" for problem in report.problems) or "  none"),
    )
    return "\n\n".join(f"{title}\n{body}" for title, body in sections)


_ABILITIES = {
    "pidfd": "signals reach one process, never its successor under the same PID",
    "subreaper": "grandchildren whose parent died are found and reaped",
    "parent_death_signal": "workers die with the lab",
    "sock_diag": "READY is checked against the owner of the listening socket",
    "ptrace": "a profiler may look into the lab's processes",
}
"""What each ability of the kernel is for."""

_ESSENTIAL = ("pidfd", "subreaper", "parent_death_signal", "sock_diag")


def _missing(found: tuple[DetectedLanguage, ...], languages: Mapping[str, Language]) -> list[str]:
    return [
        f"{languages[one.name].title} is missing: its apps are unavailable. Install it: {one.hint}"
        for one in found
        if not one.available
    ]


def _lacks(kernel: Kernel) -> list[str]:
    told = [
        f"This kernel refuses {name}: {_ABILITIES[name]}. Expected Linux 5.4 or newer, not sandboxed."
        for name in _ESSENTIAL
        if not getattr(kernel, name)
    ]
    if kernel.open_files < ENOUGH_FILES:
        told.append(
            f"Found a limit of {kernel.open_files} open files, expected {ENOUGH_FILES}. Run: ulimit -n {ENOUGH_FILES}"
        )
    return told


def _locked_folders() -> list[str]:
    folders = (paths.cache(), paths.state(), paths.runtime())
    return [
        f"Found {place}, expected a folder in which {folder} can be made. Move it away, or make it yours."
        for folder in folders
        if not ((place := _nearest(folder)).is_dir() and os.access(place, os.W_OK | os.X_OK))
    ]


def _nearest(folder: Path) -> Path:
    """The folder itself, or the first above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _detect_tool(tool: Tool) -> Detected:
    command = shutil.which(tool.name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_ALSO_IN)))
    version = ask_version((command, tool.asked)) if command else None
    return Detected(tool.name, available=version is not None, version=version, hint=None if version else tool.hint)


def _detect_package(name: str) -> Detected:
    try:
        return Detected(name, available=True, version=f"{name} {metadata.version(name)}", hint=None)
    except metadata.PackageNotFoundError:
        return Detected(name, available=False, version=None, hint=f"{sys.executable} -m pip install {name}")


def _language_row(one: DetectedLanguage) -> tuple[str, str, str]:
    contracts = " ".join(one.contracts)
    several = f"  versions: {', '.join(one.versions)}" if len(one.versions) > 1 else ""
    return one.name, one.version or "missing", one.hint or f"{contracts}{several}"


def _row(one: Detected) -> tuple[str, str, str]:
    return one.name, one.version or "missing", one.hint or ""


def _rows(rows: list[tuple[str, str, str]]) -> str:
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"  {name:{first}}  {value:{second}}  {told}".rstrip() for name, value, told in rows)


def _works(question: Callable[[], bool]) -> bool:
    """Whether the kernel answers as it should; a refusal is a no."""
    try:
        return question()
    except OSError:
        return False


def _signal_by_pidfd() -> bool:
    descriptor = os.pidfd_open(os.getpid())
    try:
        signal.pidfd_send_signal(descriptor, 0)
    finally:
        os.close(descriptor)
    return True


def _prctl_reads(option: int) -> bool:
    value = ctypes.c_int()
    return bool(ctypes.CDLL(None).prctl(option, ctypes.byref(value), 0, 0, 0) == 0)


def _find_own_listener() -> bool:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return sockdiag.listener(server.getsockname()[1]) == os.fstat(server.fileno()).st_ino


def _trace_child() -> bool:
    with subprocess.Popen(("sleep", "5"), stdin=subprocess.DEVNULL) as child:
        try:
            return bool(ctypes.CDLL(None).ptrace(_PTRACE_SEIZE, child.pid, None, None) == 0)
        finally:
            child.kill()


def _cgroup() -> str:
    """From /proc/self/cgroup: version 2 has one line, `0::/path` (cgroups(7))."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return "none"
    return "none" if not lines else "v2" if all(line.startswith("0::") for line in lines) else "v1"


if __name__ == "__main__":
    sys.stdout.write(published(Report, "What this machine can run: cgilab doctor --json"))
