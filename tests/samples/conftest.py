"""The samples as the lab runs them: built and started by languages.json, each on a free port, ended after the test."""

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import paths
from lab.config.languages import fill, find_tool, load

SAMPLES = paths.content("samples")
SOURCES = {
    "search-c": ("c", SAMPLES / "search/c/search.c"),
    "search-python": ("python", SAMPLES / "search/python/search.py"),
    "auth-python": ("python", SAMPLES / "auth/python/auth.py"),
}
ANSWER = re.compile(rb"HTTP/1\.1 (\d+) .*?\r\nContent-Length: (\d+)(?:\r\n.*?)??\r\n\r\n", re.DOTALL)


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


@dataclass
class Worker:
    """A running sample."""

    process: subprocess.Popen[bytes]
    port: int

    def connect(self) -> Client:
        client = Client()
        client.settimeout(10)
        client.connect(("127.0.0.1", self.port))
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

    def stop(self) -> int:
        """Ask it to end; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)

    def descriptors(self) -> int:
        """How many files it has open, as the kernel tells."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, ...]]:
    """How each sample is started, up to its port; built without a warning where it has to be built."""
    folder = tmp_path_factory.mktemp("built")
    commands: dict[str, tuple[str, ...]] = {}
    for name, (language_name, source) in SOURCES.items():
        language = load()[language_name]
        if language.build and not any(map(shutil.which, language.tools)):
            continue  # its tests are left out, see tests/conftest.py
        places = {"tool": find_tool(language), "source": str(source), "port": ""}
        if language.build:
            command = fill(language.build, output=str(folder / name), **places)
            subprocess.run((*command, "-Wextra", "-Werror"), check=True, timeout=60)
        commands[name] = fill(language.start, program=str(folder / name), **places)[:-1]
    return commands


@pytest.fixture
def start(programs: dict[str, tuple[str, ...]]) -> Iterator[Callable[..., Worker]]:
    """Starts a sample by its name, or any command, on a free port, and waits until it listens."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*command: str, **environment: str) -> Worker:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        argv = (*programs.get(command[0], command), str(port))
        process = subprocess.Popen(argv, env=os.environ | environment, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        started.append(process)
        assert process.stderr is not None
        assert f"127.0.0.1:{port}".encode() in process.stderr.readline()  # each says so when it listens
        return Worker(process, port)

    yield begin
    for process in started:
        process.kill()
        process.communicate()
