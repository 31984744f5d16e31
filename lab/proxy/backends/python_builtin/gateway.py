"""What every connection of the proxy shares: settings, routes, clock, timer wheel and counters."""

import asyncio
import secrets
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lab.core.clock import Clock
from lab.core.errors import UnavailableError
from lab.core.events import EventRing
from lab.core.program import CgiProgram, StartCgi
from lab.proxy import problems
from lab.proxy.accounting import SHED, Counters
from lab.proxy.backends.python_builtin.crowd import Crowd
from lab.proxy.backends.python_builtin.forwarding import DateField, Trust
from lab.proxy.backends.python_builtin.logbook import Logbook
from lab.proxy.backends.python_builtin.outbox import Outbox
from lab.proxy.backends.python_builtin.recorder import Recorder
from lab.proxy.manager import OnStarved, ProxySpec
from lab.proxy.routes import Routes
from lab.proxy.timeouts import TimerWheel

if TYPE_CHECKING:
    from lab.proxy.backends.python_builtin.branch import Branch
    from lab.proxy.backends.python_builtin.downstream import Downstream
    from lab.proxy.backends.python_builtin.exchange import Exchange


class Destination(Protocol):
    """Where a route leads."""

    def admit(self, exchange: "Exchange") -> None:
        """Take charge of a request: answer it, relay it, or let it wait."""
        ...


class Gateway:
    """One per proxy. Counters come in pairs, indexed by whether a request is the lab's own."""

    def __init__(self, clock: Clock, events: EventRing, start_cgi: StartCgi, on_starved: OnStarved, logs: Path) -> None:
        self.now = clock.monotonic
        """Where every request passes, it is called by a local name: Python 3.11 looks up a method first, and its class
        has none of this name."""
        self.recorder = Recorder(clock, events, logs, self.trusts)
        self.logbook = Logbook(clock, events, self.recorder)
        self.start_cgi = start_cgi
        self.on_starved = on_starved
        self.wheel = TimerWheel(clock)
        self.outbox = Outbox()
        self.date = DateField(clock)
        self.spec = ProxySpec()
        self.limits = self.spec.settings.limits
        self.timeouts = self.spec.settings.timeouts
        self.routes: Routes[Branch] = Routes()
        self.pseudonym = b"cgilab-%b" % secrets.token_hex(4).encode()
        """How requests name it in Via. No other lab has the same name, so it knows its own requests again."""
        self.trust: Trust | None = None
        """None while nobody is believed."""
        self.authority = b""
        """Host and port of the listener, for clients that named none."""
        self.proto = b"http"
        """What clients speak: `https` where the listener has TLS."""
        self.port = 0
        """The listener's."""
        self.counters = (Counters(), Counters())
        self.own_addresses: set[tuple[str, int]] = set()
        self.downstreams: set[Downstream] = set()
        self.crowd: Crowd | None = None
        """Who is idle; None while there may be any number of connections."""
        self.wary = False
        """It matters who asks: somebody is believed, or was, or the number of connections is limited."""
        self.pending = 0
        """Requests that wait for a place."""
        self.shed: dict[str, Counter[str]] = {}
        """How many were refused by a limit: by app (empty where it concerns none), then by cause."""
        self.draining = False
        self.deserted = asyncio.Event()
        """Set when the last client leaves a proxy that drains."""

    def trusts(self, peer: str) -> bool:
        """Whether the word of a client at this address counts."""
        return self.trust is not None and self.trust.covers(peer)

    def follow(self, spec: ProxySpec) -> None:
        """Take over what is desired."""
        if spec.settings.trusted != self.spec.settings.trusted:
            self.trust = Trust(spec.settings.trusted) if spec.settings.trusted else None
        self.spec = spec
        self.limits, self.timeouts = spec.settings.limits, spec.settings.timeouts
        most = self.limits.connections
        if self.crowd is None and most:
            self.crowd = Crowd(most)
            for downstream in self.downstreams:
                downstream.register(self.crowd)
        elif self.crowd is not None and most:
            self.crowd.limit = most
        elif self.crowd is not None:
            self.crowd = None
        self.wary = self.wary or self.trust is not None or self.crowd is not None

    def refused(self, problem: problems.Problem, app: str = "") -> None:
        """Count what a limit refuses to `app`. `problem` may be another one: then nothing is counted."""
        if problem.outcome is SHED:
            self.shed.setdefault(app, Counter())[problem.cause] += 1

    def hung_up(self, downstream: "Downstream") -> None:
        """A client's connection is gone."""
        self.downstreams.discard(downstream)
        if self.crowd is not None:
            self.crowd.left(downstream)
        if self.draining and not self.downstreams:
            self.deserted.set()


async def no_cgi(app: str, env: dict[str, str]) -> CgiProgram:
    """Stands for a pool that starts no programs."""
    raise UnavailableError(f"This proxy starts no CGI programs, so {app} cannot run.")


def ignore(app: str) -> None:
    """Stands for a pool that does not start workers on demand."""
