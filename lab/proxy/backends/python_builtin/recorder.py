"""What is remembered of a request when it has ended: its trace, a line in the slow log, one in the access log.

While a request passes, its exchange only keeps times and numbers that it needs anyway. Words are made of them here, and
only for requests that somebody will ask about; of all others the hot path knows after three comparisons that they are
none.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from lab.core.clock import Clock
from lab.core.events import EventKind, EventRing
from lab.core.model import AccessLogForm, Explain, ProxySettings
from lab.core.printable import printable
from lab.core.trace import Attempt, Trace, Why
from lab.proxy import explain
from lab.proxy.access_log import AccessLog, Entry
from lab.proxy.accounting import FAILED, SHED, Outcome
from lab.proxy.problems import Problem
from lab.proxy.trace import Traces
from lab.wire.headers import without

if TYPE_CHECKING:
    from lab.proxy.backends.python_builtin.downstream import Downstream
    from lab.proxy.backends.python_builtin.exchange import Exchange

_NEVER: Final = 1 << 62
"""No request has a number that this divides."""

_TELL_EVERY: Final = 1.0
"""Seconds between two lines of the slow log."""

_LONGEST: Final = 2048
"""Bytes of a target that are kept."""

_UNFINISHED: Final = {
    Outcome.ABANDONED: "The client left before it had answered.",
    Outcome.FAILED: "Its answer broke off.",
}
"""What is said of the worker that had a request which ended so, without a word of the gateway's."""


class Recorder:
    """Decides what to remember, and remembers it."""

    def __init__(self, clock: Clock, events: EventRing, logs: Path, trusts: Callable[[str], bool]) -> None:
        """`logs` is the folder of files whose name is relative; `trusts` tells whether a peer is believed."""
        self.trusts = trusts
        self.log: AccessLog | None = None
        """None while no access log is asked for."""
        self._unlogged = 0
        self._logs = logs
        self._logs_as: tuple[AccessLogForm, str, int, int] | None = None
        self.patience = math.inf
        """A request that takes at least so many seconds is slow."""
        self.sample = _NEVER
        """One of so many requests is remembered, whatever becomes of it."""
        self.stride = _NEVER
        """Requests whose number this divides are to be told of when they end: they may be of a sample."""
        self.explains_problems = True
        """Answers of the gateway's own that tell of a problem say what happened."""
        self.explains_all = False
        """So does every other answer, and workers are told what a request is called."""
        self.traces = Traces()
        self.names = tuple(_named(self.traces.pattern(own)) for own in (False, True))
        """For everybody's requests and the lab's own, the field without the number."""
        self._clock, self._now = clock, clock.monotonic
        self._events = events
        self._quiet_until = -math.inf
        self._untold = 0

    def follow(self, settings: ProxySettings) -> None:
        """Go by these settings from now on."""
        self.patience = settings.slow or math.inf
        self.sample = settings.trace_sample or _NEVER
        self.explains_problems = settings.explain is not Explain.OFF
        self.explains_all = settings.explain is Explain.ALL
        self._follow_log(settings)
        self.stride = math.gcd(settings.trace_sample, 0 if self.log is None else self.log.sample) or _NEVER

    def _write(self, exchange: "Exchange", log: AccessLog, outcome: Outcome, took: float) -> None:
        """Have a line in the access log for a request that has ended."""
        request = exchange.request
        log.add(
            Entry(
                ended=exchange.started + took,
                identity=exchange.identity,
                own=exchange.downstream.own,
                client=exchange.downstream.client,
                method=request.method,
                target=exchange.original or request.target,
                modern=request.fields.modern,
                host=request.fields.host,
                lines=request.lines,
                status=exchange.status,
                outcome=outcome,
                received=exchange.uploaded,
                sent=exchange.sent,
                took=took,
                queued=exchange.queued,
                connecting=exchange.connecting,
                tried=_tried(exchange),
                first=exchange.first and exchange.first - exchange.started,
                route=exchange.route.name,
                app=exchange.route.app,
                worker=exchange.endpoint.who if exchange.asked or exchange.tried else "",
            )
        )

    def remembers(self, exchange: "Exchange", took: float) -> bool:
        """Whether there is a reason to keep the trace of a request which took so long."""
        return exchange.noted or took >= self.patience or not exchange.number % self.sample

    def write_refused(self, downstream: "Downstream", problem: Problem) -> None:
        """The same for what could not become a request: nothing is known of it but who sent it."""
        assert self.log is not None
        refused = Entry(
            ended=self._clock.monotonic(),
            own=downstream.own,
            client=downstream.peer,
            status=problem.status,
            outcome=problem.outcome,
        )
        self.log.add(refused)

    @property
    def unlogged(self) -> int:
        """Lines that the access log lost, those of earlier settings included."""
        return self._unlogged + (self.log.lost if self.log is not None else 0)

    def close(self) -> AccessLog | None:
        """Write no more. The log that is returned still has lines to write; `join` waits for them."""
        log, self.log = self.log, None
        if log is not None:
            log.close()
            self._unlogged += log.lost
        return log

    def _follow_log(self, settings: ProxySettings) -> None:
        form, file = settings.access_log, settings.access_log_file
        wanted = (form, file, settings.access_log_sample, settings.access_log_size)
        if wanted == self._logs_as:
            return
        self.close()
        self._logs_as = wanted
        if form is not AccessLogForm.OFF:
            place = self._logs / (file or "access.log")
            self.log = AccessLog(place, form, wanted[2], wanted[3], self._note)

    def _note(self, text: str) -> None:
        self._events.emit(EventKind.NOTE, text)

    def baptise(self, exchange: "Exchange") -> None:
        """Give a request that its client has named the field line which says what it is called here."""
        exchange.name = _named(self.identity(exchange))
        lines = without(exchange.request.lines, (explain.REQUEST_ID,))
        exchange.request = msgspec.structs.replace(exchange.request, lines=lines)

    def identity(self, exchange: "Exchange") -> str:
        """What a request is called: as a trusted client calls it, or by its number."""
        if self.trusts(exchange.downstream.peer):
            foreign = explain.FOREIGN_ID.findall(exchange.request.lines)
            if len(foreign) == 1 and explain.BELIEVED.fullmatch(foreign[0]):
                return str(foreign[0], "ascii")
        return self.traces.identity(exchange.number, exchange.downstream.own)

    def explained(self, exchange: "Exchange", now: float) -> bytes:
        """The fields of a worker's answer that say what happened until now, but for its name."""
        endpoint, status, taken = exchange.endpoint, exchange.status, (now - exchange.asked) * 1000
        told = endpoint.told.get(status)
        if told is None:
            told = endpoint.told[status] = explain.relayed(endpoint.hop, endpoint.who, status)
        if exchange.queued or exchange.connecting or exchange.retrial is not None:
            return (told % taken).removesuffix(b"\r\n") + _waits(exchange) + b"\r\n"
        return told % taken

    def explained_problem(self, exchange: "Exchange", problem: Problem) -> bytes:
        """The fields that say what happened to a request that the gateway answers itself."""
        hop = exchange.endpoint.hop if exchange.asked or exchange.tried else ""
        total = b"Server-Timing: total;dur=%.3f" % ((self._now() - exchange.started) * 1000)
        timing = total + _waits(exchange) + b"\r\n"
        return _named(exchange.identity) + problem.proxy_status(hop) + timing

    def ended(self, exchange: "Exchange", outcome: Outcome, took: float) -> None:
        """A request ended that is slow, failed, was retried or may be of a sample."""
        if self.log is not None and not exchange.number % self.log.sample:
            self._write(exchange, self.log, outcome, took)
        if not self.remembers(exchange, took):
            return
        reasons = self._reasons(exchange, outcome, took)
        now = exchange.started + took
        if reasons and self.traces.wanted(reasons, now):
            trace = self.trace(exchange, outcome, took, reasons)
            self.traces.keep(trace)
            if took >= self.patience:
                self._tell(trace, now)

    def _reasons(self, exchange: "Exchange", outcome: Outcome, took: float) -> tuple[Why, ...]:
        found = (
            (Why.SLOW, took >= self.patience),
            (Why.FAILED, outcome is FAILED),
            (Why.SHED, outcome is SHED),
            (Why.RETRIED, bool(exchange.attempts)),
            (Why.SAMPLED, not exchange.number % self.sample),
        )
        return tuple(why for why, holds in found if holds)

    def trace(self, exchange: "Exchange", outcome: Outcome, took: float, reasons: tuple[Why, ...]) -> Trace:
        """What happened to a request that has just ended."""
        request, problem = exchange.request, exchange.problem
        end = exchange.started + took
        head = exchange.first or end
        asked = exchange.asked or end
        tried = _tried(exchange)
        return Trace(
            id=exchange.identity,
            at=self._clock.wall() - took,
            own=exchange.downstream.own,
            client=exchange.downstream.client,
            method=request.method.decode(),
            target=printable(exchange.original or request.target, _LONGEST),
            route=exchange.route.name,
            app=exchange.upstream.spec.app if exchange.latency else "",
            status=exchange.status,
            outcome=outcome,
            kept=reasons,
            prepare_s=max(0.0, asked - exchange.started - exchange.queued - exchange.connecting - tried),
            queue_s=exchange.queued,
            connect_s=exchange.connecting,
            tried_s=tried,
            worker_s=head - asked,
            transfer_s=end - head,
            total_s=took,
            received=exchange.uploaded,
            sent=exchange.sent,
            attempts=_attempts(exchange, outcome),
            detail=problem.detail if problem is not None else "",
        )

    def _tell(self, trace: Trace, now: float) -> None:
        """A line in the slow log, at most one a second: what takes long takes long for many at once."""
        if now < self._quiet_until:
            self._untold += 1
            return
        more = f" ({self._untold} more like this were not told)" if self._untold else ""
        self._quiet_until, self._untold = now + _TELL_EVERY, 0
        stages = {
            "prepare": trace.prepare_s,
            "queue": trace.queue_s,
            "connect": trace.connect_s,
            "tried": trace.tried_s,
            "worker": trace.worker_s,
            "transfer": trace.transfer_s,
        }
        spent = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in stages.items() if seconds >= 0.0005)
        text = f"{trace.method} {trace.target} took {trace.total_s:.3f} s ({spent}), trace {trace.id}{more}"
        data = {"trace": trace.id, "seconds": trace.total_s, "status": trace.status, **stages}
        self._events.emit(EventKind.TOOK_LONG, text, app=trace.app or None, data=data)


def _named(identity: str) -> bytes:
    return b"X-Request-Id: %b\r\n" % identity.encode()


def _waits(exchange: "Exchange") -> bytes:
    return explain.waits(exchange.queued, exchange.connecting, _tried(exchange))


def _tried(exchange: "Exchange") -> float:
    """Seconds at workers that had it and failed it."""
    return sum(one.seconds for one in exchange.attempts if one.sent)


def _attempts(exchange: "Exchange", outcome: Outcome) -> tuple[Attempt, ...]:
    """Everybody who was asked, the last one last."""
    if exchange.latency is None:
        return ()
    failed = [
        Attempt(
            worker=str(one.endpoint.worker),
            endpoint=str(one.endpoint),
            pid=one.endpoint.pid,
            failure=one.why,
            seconds=one.seconds,
        )
        for one in exchange.attempts
    ]
    if not exchange.asked and not exchange.connecting:
        return tuple(failed)
    state = exchange.endpoint
    if exchange.asked:
        why = exchange.problem.detail if exchange.problem is not None else _UNFINISHED.get(outcome, "")
        connection = exchange.connection
        pid = connection.pid if connection.endpoint is state else state.endpoint.pid
    elif not (failed and exchange.attempts[-1].endpoint is state.endpoint):
        why = exchange.problem.detail if exchange.problem is not None else "The client left before it was connected."
        pid = state.endpoint.pid
    else:
        return tuple(failed)
    return (*failed, Attempt(worker=state.who, endpoint=state.hop, pid=pid, failure=why))
