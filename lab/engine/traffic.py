"""The lab's own requests: real ones through the listener, so that nothing on screen is idle zeros.

They are open loop (one leaves when its time has come, whether or not the last one was answered) and each uses a
connection of its own, announced to the proxy beforehand so that it is counted apart from everybody else's requests.
"""

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import Callable, Sequence
from itertools import count

from lab.core.clock import Clock
from lab.core.errors import DeadlineError, NoLabError, NotPossibleError
from lab.core.tasks import background
from lab.engine.lab import Answer
from lab.proxy.manager import ProxyManager

MAX_RATE = 200.0
_MAX_OPEN = 256
_MAX_BODY = 64 * 1024
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
"""Hosts of a URL that are no address to connect from, and what is there as well."""


class OwnTraffic:
    """Sends the lab's own requests. `targets` tells which (app, path) pairs can be asked at this moment."""

    def __init__(self, proxy: ProxyManager, clock: Clock, targets: Callable[[], Sequence[tuple[str, str]]]) -> None:
        self._proxy = proxy
        self._clock = clock
        self._targets = targets
        self._address = ("127.0.0.1", 0)
        self._tls: ssl.SSLContext | None = None
        self._rate = 0.0
        self._only: str | None = None
        self._pacer: asyncio.Task[None] | None = None
        self._open: set[asyncio.Task[None]] = set()

    @property
    def rate(self) -> float:
        """Requests/s now; 0 when off."""
        return self._rate

    def is_at(self, rate: float) -> bool:
        """Whether this is the rate now, to all apps in turn."""
        return self._rate == rate and self._only is None

    def aim(self, host: str, port: int, *, secure: bool = False) -> None:
        """Set the listener's address, and whether TLS is spoken there. One that is everywhere is asked at loopback.

        Who answers is not proved: it is this very process, whatever names its certificate has.
        """
        self._address = (_EVERYWHERE.get(host, host), port)
        if secure:
            self._tls = ssl.create_default_context()
            self._tls.check_hostname = False
            self._tls.verify_mode = ssl.CERT_NONE

    def set(self, rate: float, app: str | None = None) -> float:
        """Change the rate, and the only app to ask (None: all in turn); returns the rate before."""
        check_rate(rate)
        before, self._rate, self._only = self._rate, rate, app
        if self._pacer is not None:
            self._pacer.cancel()
        self._pacer = background(self._pace(1 / rate)) if rate else None
        return before

    async def ask(self, app: str, path: str, timeout: float = 40.0) -> Answer:
        """Send one request and wait for its answer. HTTP/1.0: the end of the answer is the end of the connection."""
        started = self._clock.monotonic()
        try:
            async with asyncio.timeout(timeout):
                head, _, body = (await self._exchange(path)).partition(b"\r\n\r\n")
        except TimeoutError as error:
            raise DeadlineError(f"{path} was not answered within {timeout:g} s.") from error
        except ConnectionResetError:
            head = body = b""  # it was broken off, as when its worker was killed
        except OSError as error:
            raise NoLabError(f"The listener cannot be reached: {error}.") from error
        elapsed = (self._clock.monotonic() - started) * 1000
        words = head.split(None, 2)
        if len(words) < 2 or not words[1].isdigit():
            raise NoLabError(f"{path} was not answered: the connection broke after {elapsed:.0f} ms.")
        text = body[:4096].decode("utf-8", "replace")
        return Answer(app, path, int(words[1]), _pid(body), elapsed, text)

    async def close(self) -> None:
        """Stop, and give up what is still unanswered."""
        tasks = [*self._open, *([self._pacer] if self._pacer else [])]
        self._rate, self._pacer = 0.0, None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _exchange(self, path: str) -> bytes:
        loop = asyncio.get_running_loop()
        name, port = self._address
        bare = name.strip("[]")
        with socket.socket(socket.AF_INET6 if ":" in bare else socket.AF_INET) as sock:
            sock.setblocking(False)
            sock.bind((bare, 0))
            self._proxy.mark_own(sock.getsockname()[:2])
            with contextlib.suppress(BlockingIOError):  # `sock_connect` of uvloop takes a thread to look up an address
                sock.connect((bare, port))
            question = f"GET {path} HTTP/1.0\r\nHost: {name}:{port}\r\n\r\n".encode("ascii")
            if self._tls is not None:
                return await _ask_secretly(sock, self._tls, question)
            await loop.sock_sendall(sock, question)
            received = bytearray()
            while len(received) < _MAX_BODY and (more := await loop.sock_recv(sock, 16384)):
                received += more
            return bytes(received)

    async def _pace(self, interval: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        for turn in count():
            targets = [target for target in self._targets() if self._only in (None, target[0])]
            if targets and len(self._open) < _MAX_OPEN:
                task = background(self._ask_quietly(*targets[turn % len(targets)]))
                self._open.add(task)
                task.add_done_callback(self._open.discard)
            due = max(due + interval, loop.time() - 1.0)
            await asyncio.sleep(due - loop.time())

    async def _ask_quietly(self, app: str, path: str) -> None:
        # The proxy counted what became of it; here nobody waits for the answer.
        with contextlib.suppress(DeadlineError, NoLabError):
            await self.ask(app, path)


async def _ask_secretly(sock: socket.socket, tls: ssl.SSLContext, question: bytes) -> bytes:
    """Ask through TLS, by hand: the loop's own transports would want the connection to be there already."""
    loop = asyncio.get_running_loop()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    speech = tls.wrap_bio(incoming, outgoing)
    received = bytearray()
    while len(received) < _MAX_BODY:
        try:
            if question:
                speech.write(question)  # the handshake comes first, of itself
                question = b""
            more = speech.read(16384)
            if not more:
                break
            received += more
        except ssl.SSLWantReadError:
            await loop.sock_sendall(sock, outgoing.read())
            if not (heard := await loop.sock_recv(sock, 16384)):
                break
            incoming.write(heard)
        except ssl.SSLZeroReturnError:
            break
    return bytes(received)


def check_rate(rate: float) -> None:
    """Raise `NotPossibleError` for a rate that the lab does not send at."""
    if not 0 <= rate <= MAX_RATE:
        raise NotPossibleError(f"Found a rate of {rate:g}/s; expected 0 to {MAX_RATE:g}.")


def _pid(body: bytes) -> int | None:
    """The `pid` that a worker's JSON answer names, if it does."""
    try:
        found = json.loads(body)
    except ValueError:
        return None
    pid = found.get("pid") if isinstance(found, dict) else None
    return pid if isinstance(pid, int) else None
