"""The parent of every process of the lab: one small program that forks, reaps and, when the lab is gone, cleans up.

It runs apart from the lab, as `python -I -S forkserver.py`, so it is single-threaded (fork is safe), small (fork is
fast) and alive when the lab is killed. It imports nothing but the standard library. It promises:

- Each child leads a session of its own and has only the descriptors it was given. It dies with the server, by
  PR_SET_PDEATHSIG; one that is `brief`, which lives for one request, by the lab, to which the orphans of a server come.
- Each change the kernel reports (exited, stopped, continued) is told to the lab at once, with the time it was seen.
- When a child dies, what is left of its process group is killed before the child is reaped, so that the group's
  number cannot have been given to anybody else. So is what left the group (a daemon), known by the name in its
  environment that only this child and its descendants have.
- Orphaned grandchildren come here (PR_SET_CHILD_SUBREAPER) and are reaped: nothing stays a zombie.
- When the lab's end of the socket closes, for whatever reason, every descendant is killed and the server ends.

The socket (descriptor 3, SOCK_SEQPACKET) carries one JSON object a message, descriptors by SCM_RIGHTS.

    lab -> server   {"do": "fork", "id", "argv", "cwd", "fds": [numbers in the child], "env", "bare": is env all,
                     "brief": lives for one request, "name", "own_pid": variable to hold its PID, "nice",
                     "limits": [[resource, soft, hard]]} + those descriptors
                    {"do": "signal", "pid", "number"}                         to the process group that `pid` leads
    server -> lab   {"told": "forked", "id", "pid", "at"} + a pidfd           {"told": "refused", "id", "errno"}
                    {"told": "exited", "pid", "status", "at"}                 {"told": "orphans", "count"}
                    {"told": "stopped", "pid", "stopped": true or false, "at"}

`at` is CLOCK_MONOTONIC in seconds, `status` as `os.waitstatus_to_exitcode` has it.
"""

import contextlib
import ctypes
import errno
import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from typing import Any, NoReturn

CONTROL = 3
"""The descriptor of the socket to the lab."""
NAME = "CGILAB_WORKER"
"""The environment variable that holds the name of a child that has one."""
MESSAGE_LIMIT = 128 * 1024
"""The longest message in bytes; it fits a socket's default send buffer."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_ABOVE_TARGETS = 64
_MOST_FDS = 16
_INT = struct.Struct("i")
_SWEEP_PAUSE = 0.002
_PRCTL = ctypes.CDLL(None, use_errno=True).prctl
_PRCTL.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)


def become_subreaper() -> None:
    """Let orphaned descendants come to this process instead of to init (prctl(2))."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def children(pid: int) -> list[int]:
    """The children of all threads of `pid`, zombies included; none when it is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/task") as threads:
        for thread in threads:
            found.extend(map(int, _read(f"{thread.path}/children").split()))
    return found


def receive(end: socket.socket) -> tuple[bytes, list[int]]:
    """The next message with its descriptors, which no program inherits; nothing at the end of file.

    (`socket.recv_fds` of Python 3.11 forgets the flags it is given.)
    """
    room = socket.CMSG_SPACE(_MOST_FDS * _INT.size)
    message, ancillary, _, _ = end.recvmsg(MESSAGE_LIMIT, room, socket.MSG_CMSG_CLOEXEC)
    return message, [fd for _, _, data in ancillary for (fd,) in _INT.iter_unpack(data)]


class ForkServer:
    """Does what the lab asks and tells what the kernel says, until the lab hangs up."""

    def __init__(self, lab: socket.socket) -> None:
        self._lab = lab
        self._leaders: dict[int, str] = {}
        """The names of the children that were asked for, by PID."""
        self._environment = dict(os.environ)
        """What a child gets that is not `bare`."""
        self._dead: set[bytes] = set()
        """Environment entries of dead children that may have left daemons behind."""
        self._home = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._awake, alarm = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Work until the lab is gone; return when no descendant is left."""
        poll = select.poll()
        poll.register(self._awake, select.POLLIN)
        poll.register(self._lab, select.POLLIN)
        with contextlib.suppress(ConnectionError, EOFError):
            while True:
                ready = dict(poll.poll())
                if self._awake in ready:
                    os.read(self._awake, 4096)
                    self._reap()
                if self._lab.fileno() in ready:
                    self._obey()
        self._end_all()

    def _obey(self) -> None:
        message, fds = receive(self._lab)
        if not message:
            raise EOFError
        order = json.loads(message)
        if order["do"] == "fork":
            self._make(order, fds)
        elif order["pid"] in self._leaders:
            _signal_group(order["pid"], order["number"])

    def _make(self, order: dict[str, Any], fds: list[int]) -> None:
        """Make a child. A failure to get as far as its program is told as `refused`, never as an exit."""
        if not order["bare"]:
            order["env"] = self._environment | order["env"]
        if order["name"]:
            order["env"][NAME] = order["name"]
        cheaply = order["brief"] and not order["limits"] and not order["nice"]
        at = time.monotonic()
        try:
            pid = self._spawn(order, fds) if cheaply else _fork(order, fds)
        except OSError as error:
            self._tell({"told": "refused", "id": order["id"], "errno": error.errno})
        except ValueError:  # such as a null byte in an argument
            self._tell({"told": "refused", "id": order["id"], "errno": errno.EINVAL})
        else:
            self._leaders[pid] = order["name"]
            handle = os.pidfd_open(pid)
            self._tell({"told": "forked", "id": order["id"], "pid": pid, "at": at}, handle)
            os.close(handle)
        finally:
            for fd in fds:
                os.close(fd)

    def _spawn(self, order: dict[str, Any], fds: list[int]) -> int:
        """A child made as by vfork(2): nothing of this process is copied for it, which is most of what a fork costs.

        Nothing of ours runs in it before its program does, so it has no limits and no signal for when its parent dies.
        """
        targets = [(os.POSIX_SPAWN_DUP2, fd, target) for fd, target in zip(fds, order["fds"], strict=True)]
        try:
            if order["cwd"] is not None:
                os.chdir(order["cwd"])
            return os.posix_spawnp(order["argv"][0], order["argv"], order["env"], file_actions=targets, setsid=True)
        finally:
            os.fchdir(self._home)

    def _reap(self) -> None:
        orphans = 0
        while changed := _next_change():
            at = time.monotonic()
            pid, mine = changed.si_pid, changed.si_pid in self._leaders
            if changed.si_code in (os.CLD_STOPPED, os.CLD_CONTINUED):
                os.waitid(os.P_PID, pid, os.WSTOPPED | os.WCONTINUED | os.WNOHANG)
                if mine:
                    stopped = changed.si_code == os.CLD_STOPPED
                    self._tell({"told": "stopped", "pid": pid, "stopped": stopped, "at": at})
                continue
            if mine:
                _signal_group(pid, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if mine:
                name = self._leaders.pop(pid)
                if name:
                    self._dead.add(f"{NAME}={name}".encode())
                self._tell({"told": "exited", "pid": pid, "status": status, "at": at})
            else:
                orphans += 1
        if orphans:
            self._tell({"told": "orphans", "count": orphans})
        if self._dead:
            self._end_daemons()

    def _end_daemons(self) -> None:
        """Kill what dead children left behind. Whatever one that ends leaves comes here in turn, and brings us back."""
        strays = [pid for pid in children(os.getpid()) if pid not in self._leaders]
        daemons = [pid for pid in strays if not self._dead.isdisjoint(_environment(pid))]
        for pid in daemons:
            _signal(pid, signal.SIGKILL)
        if not daemons and not any(map(_is_ending, strays)):
            self._dead.clear()

    def _tell(self, message: dict[str, Any], *fds: int) -> None:
        socket.send_fds(self._lab, [json.dumps(message).encode()], fds, socket.MSG_NOSIGNAL)

    def _end_all(self) -> None:
        """Kill the groups, then whoever comes here as an orphan of theirs, until no child is left."""
        for pid in self._leaders:
            _signal_group(pid, signal.SIGKILL)
        while True:
            for pid in children(os.getpid()):
                _signal(pid, signal.SIGKILL)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            time.sleep(_SWEEP_PAUSE)


def _next_change() -> os.waitid_result | None:
    """A child that changed, left unreaped."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WSTOPPED | os.WCONTINUED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None


def _fork(order: dict[str, Any], fds: list[int]) -> int:
    """Fork and wait for the exec; returns the PID. Raises `OSError` when it does not get that far.

    What can be done before the fork is done there: in the child, each page of memory that is touched is copied.
    """
    outcome, verdict = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    try:
        try:
            pid = os.fork()
            if pid == 0:
                _become(order, fds, verdict, parent)
        finally:
            os.close(verdict)
        failed = os.read(outcome, 16)
    finally:
        os.close(outcome)
    if failed:
        os.waitpid(pid, 0)
        raise OSError(int(failed), "exec")
    return pid


def _become(order: dict[str, Any], fds: list[int], verdict: int, parent: int) -> NoReturn:
    """In the child: turn into the program, or say by `verdict` why not."""
    try:
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the death signal was set
            os._exit(1)
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE_TARGETS) for fd in (verdict, *fds)]
        verdict = high[0]
        for fd, target in zip(high[1:], order["fds"], strict=True):
            os.dup2(fd, target)
        if order["cwd"] is not None:
            os.chdir(order["cwd"])
        env = order["env"]
        if order["own_pid"]:  # nobody knew it before the fork
            env[order["own_pid"]] = str(os.getpid())
        os.nice(order["nice"])
        for limit, soft, hard in order["limits"]:  # last, for they hold for this process too
            _limit(limit, soft, hard)
        os.execvpe(order["argv"][0], order["argv"], env)
    except OSError as error:
        os.write(verdict, str(error.errno).encode())
    except MemoryError:  # its address space is not even enough for this
        os.write(verdict, str(errno.ENOMEM).encode())
    except ValueError:  # such as a null byte in an argument
        os.write(verdict, str(errno.EINVAL).encode())
    finally:
        os._exit(127)


def _limit(number: int, soft: int, hard: int) -> None:
    """Set a limit, or the machine's own where that is lower: only the privileged may raise it."""
    most = resource.getrlimit(number)[1]
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(number, (soft, hard))


def _is_ending(pid: int) -> bool:
    """It has given back its memory, and with it its environment, but perhaps not yet its children."""
    try:
        os.close(os.open(f"/proc/{pid}/exe", os.O_PATH | os.O_CLOEXEC))
    except OSError:
        return True
    return False


def _environment(pid: int) -> list[bytes]:
    """What it was given when it was executed; nothing when it has ended."""
    with contextlib.suppress(OSError):
        return _read(f"/proc/{pid}/environ").split(b"\0")
    return []


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"".join(iter(lambda: os.read(fd, 4096), b""))
    finally:
        os.close(fd)


def _prctl(option: int, value: int) -> None:
    if _PRCTL(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, number)


def _signal_group(leader: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(leader, number)


def main(files: int) -> None:
    """Run on descriptor 3 until the lab is gone. Programs get `files` as their soft limit of open files: the lab may
    have raised its own, but a select(2) cannot take a descriptor above 1023."""
    os.closerange(CONTROL + 1, os.sysconf("SC_OPEN_MAX"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    os.set_inheritable(CONTROL, False)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these, and what is ignored stays so after exec
        signal.signal(number, signal.SIG_DFL)
    gc.freeze()
    gc.disable()  # a look at every object in a child would copy them all; nothing here is in a cycle
    become_subreaper()
    with socket.socket(fileno=CONTROL) as lab:
        ForkServer(lab).serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))
