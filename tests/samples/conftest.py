"""The samples as the lab runs them: built and started by languages.json, each with a socket of its own."""

import contextlib
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import paths
from lab.config.languages import Language, fill, find_tool, load
from lab.core.errors import UnavailableError
from lab.core.model import Contract
from tests.ports import reserving

LANGUAGES = load()
ANSWER = re.compile(rb"HTTP/1\.1 (\d+) .*?\r\nContent-Length: *(\d+)(?:\r\n.*?)??\r\n\r\n", re.DOTALL | re.IGNORECASE)
INHERIT = """
import os, sys
number = int(sys.argv[1])
os.dup2(number, 3)
os.close(number)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execvp(sys.argv[2], sys.argv[2:])
"""
PATIENCE = 30.0
"""Seconds: a virtual machine starts slowly on a busy one."""


def find_sources() -> dict[str, tuple[Language, Path]]:
    """Every sample by name, such as `search-c`: `samples/search/c/search.c`, one folder a language."""
    found: dict[str, tuple[Language, Path]] = {}
    for folder in sorted(paths.content("samples").glob("*/*/")):
        language = LANGUAGES.get(folder.name)
        for suffix in language.files if language else ():
            source = folder / f"{folder.parent.name}{suffix}"
            if language and source.is_file():
                found[f"{folder.parent.name}-{folder.name}"] = (language, source)
    return found


SOURCES = find_sources()


class Client(socket.socket):
    """A connection to a worker that can read whole responses."""

    def rest(self) -> bytes:
        """What comes until the end of the stream."""
        received = b""
        while data := self.recv(65536):
            received += data
        return received

    def answers(self, count: int) -> list[tuple[int, bytes]]:
        """Status and body of the next `count` responses; nothing may follow them."""
        received = b""
        found: list[tuple[int, bytes]] = []
        while len(found) < count:
            head = ANSWER.match(received)
            end = head.end() + int(head[2]) if head else 0
            if head and len(received) >= end:
                found.append((int(head[1]), received[head.end() : end]))
                received = received[end:]
            else:
                data = self.recv(65536)
                assert data, f"the connection ended after {len(found)} of {count} responses, with {received!r}"
                received += data
        assert not received
        return found

    @staticmethod
    def is_whole(received: bytes) -> bool:
        """Whether these are responses from the first byte to the last."""
        while head := ANSWER.match(received):
            end = head.end() + int(head[2])
            received = received[end:] if len(received) >= end else b"torn"
        return not received


@dataclass
class Worker:
    """A running sample."""

    process: subprocess.Popen[bytes]
    address: tuple[str, int] | str
    said: Path
    """What it wrote to standard error."""

    def connect(self) -> Client:
        client = Client(socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET)
        client.settimeout(PATIENCE)
        try:
            client.connect(self.address)
        except OSError:
            client.close()
            raise
        return client

    def send(self, data: bytes) -> bytes:
        """Everything that comes back for `data` from a client that sends no more."""
        with self.connect() as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            return client.rest()

    def ask(self, target: str, method: str = "GET", fields: str = "", body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of one request on a connection of its own."""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        with self.connect() as client:
            client.sendall(f"{method} {target} HTTP/1.1\r\nHost: x\r\n{length}{fields}\r\n".encode() + body)
            return client.answers(1)[0]

    def freeze(self) -> None:
        """Send SIGSTOP. One of several threads takes it and stops the others, which go on until it has its turn."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def stop(self) -> int:
        """Ask it to end; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def descriptors(self) -> int:
        """How many files it has open, as the kernel tells."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def wait(self) -> None:
        """Return when it listens. A socket that it inherited accepts at once."""
        deadline = time.monotonic() + PATIENCE
        while not self.connects():
            assert self.process.poll() is None, self.said.read_text()
            assert time.monotonic() < deadline, f"nobody listens at {self.address}; {self.said.read_text()}"
            time.sleep(0.005)  # a listener is no event that another process could wait for

    def connects(self) -> bool:
        """Whether somebody listens."""
        try:
            self.connect().close()
        except OSError:  # refused, reset when the socket closes in the middle of it, or no such path yet
            return False
        return True


class Programs:
    """The samples' programs. Each is built once, when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._built: dict[str, dict[str, str]] = {}

    def command(self, name: str, contract: Contract = Contract.HTTP_PORT, **places: str) -> tuple[str, ...]:
        """What starts sample `name`; leaves the test out when its language is not installed here."""
        known = self._built.get(name) or self._built.setdefault(name, self._build(name))
        return fill(SOURCES[name][0].start[contract], **(known | places))

    def _build(self, name: str) -> dict[str, str]:
        language, source = SOURCES[name]
        try:
            known = {"tool": find_tool(language), "source": str(source), "port": "", "socket": ""}
        except UnavailableError as missing:
            pytest.skip(f"{missing.message} {missing.remedy}")
        output = str(self._folder / name)
        if language.build:
            strict = ("-Wextra", "-Werror") if language.name in ("c", "cpp") else ()
            subprocess.run((*fill(language.build, output=output, **known), *strict), check=True, timeout=120)
        return known | {"program": output}


class Starter:
    """Starts samples, and ends what it started."""

    def __init__(self, programs: Programs, folder: Path) -> None:
        self.programs = programs
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []
        self._ports = contextlib.ExitStack()
        self.reserve = self._ports.enter_context(reserving())

    def __call__(self, name: str, contract: Contract = Contract.HTTP_PORT, **environment: str) -> Worker:
        """Sample `name` on a socket as `contract` has it."""
        address: tuple[str, int] | str = ("127.0.0.1", self.reserve())
        if contract is Contract.HTTP_UNIX:
            address = str(self._folder / f"{len(self._started)}.sock")
        elif contract is not Contract.HTTP_PORT:
            with self.listening() as listener:
                return self.inherit(name, contract, listener)
        places = {"socket": str(address), "port": str(address[1])}
        return self.run(self.programs.command(name, contract, **places), address, **environment)

    def inherit(self, name: str, contract: Contract, listener: socket.socket) -> Worker:
        """Sample `name` with `listener` as descriptor 3, as sd_listen_fds(3) has it."""
        command = (sys.executable, "-c", INHERIT, str(listener.fileno()), *self.programs.command(name, contract))
        return self.run(command, listener.getsockname(), fds=(listener.fileno(),), LISTEN_FDS="1")

    def run(
        self, command: tuple[str, ...], address: tuple[str, int] | str, fds: tuple[int, ...] = (), **environment: str
    ) -> Worker:
        """Any command that will listen at `address`."""
        said = self._folder / f"{len(self._started)}.said"
        with said.open("wb") as log:
            process = subprocess.Popen(
                command, env=os.environ | environment, stderr=log, stdin=subprocess.DEVNULL, pass_fds=fds
            )
        self._started.append(process)
        worker = Worker(process, address, said)
        worker.wait()
        return worker

    @staticmethod
    def listening() -> socket.socket:
        """A listening socket with a high number, so that it is not the one that it becomes in a worker."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            return socket.socket(fileno=fcntl.fcntl(listener, fcntl.F_DUPFD_CLOEXEC, 64))

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()
        self._ports.close()


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return Programs(tmp_path_factory.mktemp("built"))


@pytest.fixture
def start(programs: Programs, tmp_path: Path) -> Iterator[Starter]:
    """Starts a sample for one test."""
    starter = Starter(programs, tmp_path)
    yield starter
    starter.close()


@pytest.fixture(scope="module")
def shared_start(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Starts a sample for all tests of a module: a virtual machine takes its time."""
    starter = Starter(programs, tmp_path_factory.mktemp("shared"))
    yield starter
    starter.close()
