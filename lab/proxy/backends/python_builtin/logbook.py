"""What people are told of tunnels: that one is open, and how it came to its end.

A request that opened a tunnel has ended long before the tunnel does, and so has its trace. So the trace of each is kept
when it opens, and told the rest when it is over; an event says the same to whoever watches. Nothing of this happens
while bytes pass.
"""

from typing import TYPE_CHECKING

from msgspec.structs import replace

from lab.core.clock import Clock
from lab.core.events import EventKind, EventRing
from lab.core.trace import Trace, Tunnelled, Why
from lab.proxy.accounting import ANSWERED
from lab.proxy.seldom import Seldom

if TYPE_CHECKING:
    from lab.proxy.backends.python_builtin.exchange import Exchange
    from lab.proxy.backends.python_builtin.recorder import Recorder


class Logbook:
    """All tunnels of a proxy."""

    def __init__(self, clock: Clock, events: EventRing, recorder: "Recorder") -> None:
        self._now = clock.monotonic
        self._events = events
        self._recorder = recorder
        self._seldom = Seldom()

    def opened(self, exchange: "Exchange") -> Trace | None:
        """A request has opened a tunnel. Returns its trace; None where too many came in one second."""
        now, traces = self._now(), self._recorder.traces
        took = now - exchange.started
        kept = traces.read(exchange.identity, limit=1) if self._recorder.remembers(exchange, took) else ()
        if kept:
            trace = replace(kept[0], tunnel=Tunnelled())
            traces.amend(kept[0], trace)
        elif traces.wanted((Why.TUNNEL,), now):
            trace = replace(self._recorder.trace(exchange, ANSWERED, took, (Why.TUNNEL,)), tunnel=Tunnelled())
            traces.keep(trace)
        else:
            return None
        return trace

    def ended(self, exchange: "Exchange", trace: Trace | None, tunnel: Tunnelled) -> None:
        """The tunnel is over; `trace` is what `opened` returned."""
        if trace is not None:
            self._recorder.traces.amend(trace, replace(trace, tunnel=tunnel))
        more = self._seldom.more(self._now())
        if more is None:
            return
        endpoint = exchange.endpoint.endpoint
        worker = endpoint.worker
        self._events.emit(
            EventKind.TUNNEL,
            f"{worker}: a tunnel ended after {tunnel.seconds:.1f} s: {tunnel.why}; {tunnel.from_client} bytes came from"
            f" the client, {tunnel.from_worker} from the worker{more}",
            app=worker.app,
            slot=worker.slot,
            generation=worker.generation,
            pid=endpoint.pid,
            data={
                "trace": exchange.identity,
                "seconds": tunnel.seconds,
                "from_client": tunnel.from_client,
                "from_worker": tunnel.from_worker,
                "by": tunnel.ended_by,
            },
        )
