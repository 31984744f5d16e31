"""A trace in words: where the time of one request went, as a small time-line, and what that means.

The command line and the screen's `:` show the same lines.
"""

import time
from typing import Final

from lab.core.errors import UnknownTargetError
from lab.core.trace import Attempt, Trace, Tunnelled, Why
from lab.engine.lab import Lab

_WIDTH: Final = 30
"""Characters of the bar that stands for the whole time."""

_SHOWN: Final = 0.00005
"""Seconds: a stage that is shorter reads 0.0 ms."""

_MOST: Final = 0.5
"""Who has more than this share of the time is to blame for it."""

_HINTS: Final = {
    "prepare": "the gateway had it: the body had to be here first, the disk was asked for a file, or it wrote a page",
    "queue": "no worker had a place for it: give the app more workers, or find out what keeps them busy",
    "connect": "the worker took no connection: its backlog is full, it is frozen, or it has just died",
    "tried": "those who were asked first failed it, and somebody else had to be found",
    "worker": "the worker took so long: `slow_request` of the app tells what it is doing meanwhile",
    "transfer": "the answer came, or was taken, slowly: it is long, or worker or client are slow",
}


async def found(lab: Lab, identity: str | None, why: Why | None = None) -> tuple[Trace, ...]:
    """The traces that are asked for. Raises `UnknownTargetError` for an identity that is not kept."""
    traces = await lab.traces(identity, why)
    if identity is not None and not traces:
        raise UnknownTargetError(
            f"No trace {identity!r} is kept: the request passed quickly and well, or others have taken its place.",
            "Keep all: cgilab set proxy trace_sample=1",
        )
    return traces


async def told(lab: Lab, identity: str | None, why: Why | None = None) -> list[str]:
    """One trace as a time-line, or the newest as a list. Raises as `found` does."""
    traces = await found(lab, identity, why)
    if identity is not None:
        return lines(traces[0])
    return [line(trace) for trace in traces] or ["No trace is kept yet: keep all with cgilab set proxy trace_sample=1"]


def line(trace: Trace) -> str:
    """One trace in one line, for a list."""
    status = trace.status or "---"
    kept = ", ".join(trace.kept)
    longest = max(_stages(trace), key=lambda stage: stage[2])[0]
    where = f"most in {longest}" if trace.total_s > 0 else ""
    return (
        f"{_clock(trace.at)}  {trace.id}  {status}  {_ms(trace.total_s):>12}  {trace.method} {trace.target}"
        f"  {kept}; {where}"
    )


def lines(trace: Trace) -> list[str]:
    """The whole time-line."""
    own = ", one of the lab's own" if trace.own else ""
    status = str(trace.status) if trace.status else "no answer"
    led = f"route {trace.route}, app {trace.app}" if trace.app else "no app"
    found = [
        f"{trace.id}  {trace.method} {trace.target}",
        f"{status} after {_ms(trace.total_s)}: {trace.outcome}; kept because it was {' and '.join(trace.kept)}",
        f"{_clock(trace.at)} from {trace.client}{own}; {led}; {trace.received} bytes in, {trace.sent} out",
        "",
    ]
    began = 0.0
    for _, words, seconds in _stages(trace):
        if seconds >= _SHOWN:
            found.append(f"{_ms(began):>12}  {words:<42}{_bar(trace, began, seconds)}{_ms(seconds):>12}")
        began += seconds
    found += [f"{_ms(trace.total_s):>12}  end", *_attempts(trace)]
    if trace.tunnel is not None:
        found += ["", _tunnel(trace.tunnel)]
    if trace.detail:
        found += ["", f"The gateway answered: {trace.detail}"]
    return [*found, *_verdict(trace)]


def _tunnel(tunnel: Tunnelled) -> str:
    """What became of the tunnel that it opened."""
    if tunnel.seconds is None:
        return "It opened a tunnel, which is still open."
    return (
        f"It opened a tunnel, which ended after {tunnel.seconds:.1f} s: {tunnel.why}; {tunnel.from_client} bytes came"
        f" from the client, {tunnel.from_worker} from the worker."
    )


def _stages(trace: Trace) -> list[tuple[str, str, float]]:
    """Name, words and seconds of each stage, in order."""
    worker = _who(trace.attempts[-1]) if trace.attempts else "nobody"
    return [
        ("prepare", "with the gateway itself", trace.prepare_s),
        ("queue", "waited for a place at a worker", trace.queue_s),
        ("connect", "waited for a connection", trace.connect_s),
        ("tried", "with workers that failed it", trace.tried_s),
        ("worker", f"{worker} had it", trace.worker_s),
        ("transfer", "the answer went to the client", trace.transfer_s),
    ]


def _attempts(trace: Trace) -> list[str]:
    if not trace.attempts or not any(attempt.failure for attempt in trace.attempts):
        return []
    return ["", "Tried:", *(f"  {number}. {_attempt(one)}" for number, one in enumerate(trace.attempts, 1))]


def _attempt(attempt: Attempt) -> str:
    took = "" if attempt.seconds is None else f" after {_ms(attempt.seconds)}"
    return f"{_who(attempt)} at {attempt.endpoint}: {attempt.failure or 'answered'}{took}"


def _verdict(trace: Trace) -> list[str]:
    """Why it was slow, if one stage is to blame."""
    if Why.SLOW not in trace.kept:
        return []
    name, _, seconds = max(_stages(trace), key=lambda stage: stage[2])
    share = seconds / trace.total_s if trace.total_s > 0 else 0.0
    if share < _MOST:
        return ["", "Why slow: no stage alone has most of the time."]
    return ["", f"Why slow: {share:.0%} of the time, {_HINTS[name]}."]


def _bar(trace: Trace, began: float, seconds: float) -> str:
    """Where a stage lies in the whole time. One that is there is seen."""
    scale = _WIDTH / max(trace.total_s, 1e-9)
    first = min(int(began * scale), _WIDTH - 1)
    length = min(max(round(seconds * scale), 1), _WIDTH - first)
    return "|" + " " * first + "#" * length + " " * (_WIDTH - first - length) + "|"


def _who(attempt: Attempt) -> str:
    return attempt.worker if attempt.pid is None else f"{attempt.worker} (pid {attempt.pid})"


def _clock(wall: float) -> str:
    return f"{time.strftime('%H:%M:%S', time.localtime(wall))}.{int(wall % 1 * 1000):03d}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
