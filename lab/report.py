"""The lab in words: what the commands print. One fact a line, so that `grep`, a pipe and a screen reader can follow."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import click
import msgspec

from lab.core.events import Event, EventBatch, EventKind
from lab.core.snapshot import AppSnapshot, LabSnapshot, ProxySnapshot, RouteSnapshot, ServiceSnapshot, WorkerSnapshot
from lab.core.spelling import counted
from lab.core.states import BreakerState, EndpointHealth
from lab.core.trace import Why
from lab.engine import standings, timeline
from lab.engine.lab import Lab
from lab.engine.remote import RemoteLab
from lab.load import results, runner
from lab.load.profiles import Profile


def encoded(snapshot: LabSnapshot) -> str:
    """`status --json`."""
    return msgspec.json.encode(snapshot).decode()


async def status(lab: Lab, snapshot: LabSnapshot, *, full: bool) -> str:
    """`status`: apps, workers, routes beyond the apps' own, processes beside the pool, totals, invariants.

    `full` adds the kernel's figures and each worker's last words.
    """
    lines = [f"{snapshot.name}  {snapshot.listener}  up {snapshot.uptime_s:.0f} s"]
    if snapshot.certificate is not None:
        lines.append(f"clients trust {snapshot.certificate}")
    for app in snapshot.apps:
        lines += ["", _app(app), *_refused("  refused by a limit", app.shed)]
        for worker in app.workers:
            lines.append(_worker(worker))
            if full:
                lines.append(_kernel(worker))
                lines += [f"      | {line}" for line in (await lab.output(app.name, worker.slot))[-5:]]
    if laid := [route for route in snapshot.routes if not route.implied]:
        lines += ["", *map(_route, laid)]
    if snapshot.processes:
        lines += ["", *map(_process, snapshot.processes)]
    lines += [
        "",
        _totals(snapshot),
        *_tunnels(snapshot),
        _own(snapshot),
        *_limits(snapshot.proxy),
        _invariants(snapshot),
    ]
    return "\n".join(lines)


def event_line(event: Event) -> str:
    """One event with its time of day, in one line: the last words of a worker may be several."""
    told = " | ".join(line.strip() for line in event.text.splitlines())
    clock = time.strftime("%H:%M:%S", time.localtime(event.wall))
    return f"{clock}.{int(event.wall % 1 * 1000):03d}  #{event.seq}  {told}"


def event_lines(batch: EventBatch, *, as_json: bool) -> Iterator[str]:
    """A batch, line by line. Events that were overwritten before they could be read are admitted."""
    if batch.missed:
        yield msgspec.json.encode({"missed": batch.missed}).decode() if as_json else f"({batch.missed} events missed)"
    for event in batch.events:
        if as_json:
            yield msgspec.json.encode(event).decode()
        elif event.kind is not EventKind.PROCESS_REPORT:  # written by a program, for a program
            yield event_line(event)


async def batches(lab: RemoteLab, since: int, *, follow: bool) -> AsyncIterator[EventBatch]:
    """All events from `since` on; with `follow`, the coming ones too."""
    if follow:
        async for push in lab.subscribe(since, hz=10, snapshots=False):
            yield push.events
    while not follow:
        batch = await lab.events(since)
        if not batch.events:
            return
        yield batch
        since = batch.next


async def traces(lab: Lab, identity: str | None, *, slow: bool, as_json: bool) -> list[str]:
    """`trace`: one request's time-line, or the newest that were kept. Raises `UnknownTargetError`."""
    if as_json:
        found = await timeline.found(lab, identity, Why.SLOW if slow else None)
        return [msgspec.json.encode(trace).decode() for trace in found]
    return await timeline.told(lab, identity, Why.SLOW if slow else None)


async def endpoints(lab: Lab, app: str | None, *, as_json: bool) -> list[str]:
    """`endpoints`: what the balancer believes beside what the kernel knows. Raises `UnknownTargetError`."""
    if as_json:
        return [msgspec.json.encode(await lab.standings(app)).decode()]
    return await standings.told(lab, app)


async def load(lab: Lab, profile: Profile, html: Path | None, *, as_json: bool) -> int:
    """Start a load, tell its figures as they come, then the result, even when interrupted. Returns the exit code."""
    run = await runner.start(lab, profile, html)
    code = 0
    try:
        said = ""
        async for sample in run.samples():
            line = results.line(sample)
            if not as_json and line != said:  # it warms up for a while
                click.echo(line)
            said = line
    except asyncio.CancelledError:
        # Ctrl-C: the generator writes its report when it is asked to stop, and what was measured counts.
        await run.stop()
        code = 130
    result = await run.result()
    click.echo(msgspec.json.encode(result).decode() if as_json else results.table(result))
    return code


def _app(app: AppSnapshot) -> str:
    if app.unavailable:
        return f"{app.name}  {app.route}  {app.language}  unavailable: {app.unavailable}"
    building = "  building" if app.building else ""
    waiting = f"  waits for {', '.join(app.waits_for)}" if app.waits_for else ""
    return (
        f"{app.name}  {app.route}  {app.language}, {app.protocol}, {app.policy} {app.wanted} of {app.max_workers},"
        f" {app.selection.rpartition('/')[2]}{building}{waiting}{_breaker(app)}{'  PANIC' if app.panic else ''}"
        f"  {app.rps:.1f} req/s  p50 {_ms(app.p50_ms)}  p99 {_ms(app.p99_ms)}  queue {app.queue}"
    )


def _breaker(app: AppSnapshot) -> str:
    """Why requests are refused, when they are."""
    if app.breaker is None or app.breaker.state is BreakerState.CLOSED:
        return ""
    left = f", a probe in {app.breaker.probe_in_s:.1f} s" if app.breaker.probe_in_s is not None else ""
    return f"  circuit breaker {app.breaker.state.replace('_', ' ')}{left}"


def _worker(worker: WorkerSnapshot) -> str:
    state = f"{worker.state}{', stands by' if worker.standby else ''}{', stopped by SIGSTOP' if worker.stopped else ''}"
    why = f"  {worker.why}" if worker.why else ""
    if worker.health is not EndpointHealth.HEALTHY:
        left = f" for {worker.ejected_for_s:.1f} s" if worker.ejected_for_s is not None else ""
        why += f"  {worker.health} to the proxy{left}: it {worker.health_why}"
    return (
        f"  {worker.slot}  pid {worker.pid or '-'}  {state}  {_counted(worker.requests, 'request')}"
        f"  {_count(worker.in_flight)} in flight{f' ({worker.tunnels} of them tunnels)' if worker.tunnels else ''}"
        f"  {_counted(worker.restarts, 'restart')}  p50 {_ms(worker.p50_ms)}{why}"
    )


def _route(route: RouteSnapshot) -> str:
    whole = sum(lead.weight for lead in route.leads)
    leads = (
        f"{lead.app} {lead.weight} of {whole}" + ("" if lead.share is None else f" (got {lead.share:.1f} %)")
        for lead in route.leads
    )
    return (
        f"route {route.name}  {route.takes}  to {', '.join(leads)}"
        f"  {route.rps:.1f} req/s  p50 {_ms(route.p50_ms)}  p99 {_ms(route.p99_ms)}"
        f"  {_counted(route.errors, 'error')} of {route.requests}"
    )


def _process(process: ServiceSnapshot) -> str:
    needs = f"  needs {', '.join(process.needs)}" if process.needs else ""
    why = f"  {process.why}" if process.why else ""
    return (
        f"{process.name}  pid {process.pid or '-'}  {process.state} (asked by {process.health})"
        f"  {_counted(process.restarts, 'restart')}{needs}{why}"
    )


def _kernel(worker: WorkerSnapshot) -> str:
    memory = "-" if worker.rss_bytes is None else f"{worker.rss_bytes / 1e6:.1f} MB"
    cpu = "-" if worker.cpu_percent is None else f"{worker.cpu_percent:.1f} %"
    uptime = "-" if worker.uptime_s is None else f"{worker.uptime_s:.1f} s"
    routed = "routed" if worker.routed else "not routed"
    return f"      {worker.endpoint or '-'}  {routed}  up {uptime}  cpu {cpu}  memory {memory}"


def _totals(snapshot: LabSnapshot) -> str:
    totals = snapshot.totals
    return (
        f"accepted {totals.accepted} = answered {totals.answered} + failed {totals.failed} + shed {totals.shed}"
        f" + abandoned {totals.abandoned} + in flight {totals.in_flight}"
        f"  ({totals.rps:.1f} req/s, p50 {_ms(totals.p50_ms)}, p99 {_ms(totals.p99_ms)})"
    )


def _tunnels(snapshot: LabSnapshot) -> Iterator[str]:
    """What is open, and how much went through; nothing while nobody has switched protocols."""
    totals = snapshot.totals
    if totals.tunnels or totals.tunnel_bytes:
        yield f"tunnels: {totals.tunnels} open, {totals.tunnel_bytes} bytes carried so far"


def _limits(proxy: ProxySnapshot) -> Iterator[str]:
    """What the limits of the whole proxy leave, and what limits of any kind refused; nothing where there is nothing."""
    counts = (
        ("connections", proxy.connections, proxy.max_connections),
        ("requests in flight", proxy.requests, proxy.max_requests),
        ("requests waiting", proxy.pending, proxy.max_pending),
    )
    if any(most for _, _, most in counts):
        yield "limits: " + ", ".join(f"{now} of {most} {what}" for what, now, most in counts if most)
    yield from _refused("refused by a limit", proxy.shed)
    yield from _refused("TLS handshakes that failed", proxy.handshakes_failed)


def _refused(what: str, shed: Mapping[str, int]) -> Iterator[str]:
    """What limits refused, the most frequent cause first; nothing where they refused nothing."""
    if shed:
        causes = sorted(shed.items(), key=lambda one: -one[1])
        yield f"{what}: " + ", ".join(f"{cause} {count}" for cause, count in causes)


def _own(snapshot: LabSnapshot) -> str:
    own = snapshot.own
    answered = f"{own.totals.answered} of {own.totals.accepted} answered"
    return f"the lab's own requests, counted apart: {answered} ({own.rate:g}/s)"


def _invariants(snapshot: LabSnapshot) -> str:
    lamps = msgspec.structs.asdict(snapshot.invariants)
    told = (
        ("BROKEN", [name for name, holds in lamps.items() if not holds]),
        ("holds", [name for name, holds in lamps.items() if holds]),
    )
    return "  ".join(f"{word}: {', '.join(names)}" for word, names in told if names)


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)


def _counted(number: int | None, noun: str) -> str:
    return f"- {noun}s" if number is None else counted(number, noun)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"
