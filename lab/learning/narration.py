"""Events as short facts, a sentence each, in the words of a lesson. All of it was recorded, to PID and millisecond."""

from collections.abc import Iterable, Iterator

from lab.core.events import Event, EventKind
from lab.core.states import WorkerState
from lab.learning.prose import counted, shown

_SENDERS = {"person": ", sent through this lab", "outside": ", not sent by this lab", "lab": ", sent by the lab itself"}


class Narrator:
    """Turns events into sentences. It remembers who is frozen, because what follows means something else then."""

    def __init__(self, app: str) -> None:
        self._app = app
        self._frozen: dict[int, list[Event]] = {}
        self._out: set[int] = set()

    def tell(self, events: Iterable[Event]) -> list[str]:
        """The sentences for `events`, in order. Most events have none."""
        return [fact for event in events if event.app == self._app for fact in self._facts(event)]

    def _facts(self, event: Event) -> Iterator[str]:
        match event:
            case Event(kind=EventKind.HEALED):
                yield from _healing(event)
            case Event(kind=EventKind.STATE, state=WorkerState.BACKOFF | WorkerState.FAILED):
                yield f"{event.text.rstrip('.')}."
            case Event(kind=EventKind.STATE, state=WorkerState.EXITED, pid=int() as pid):
                self._frozen.pop(pid, None)
                self._out.discard(pid)
            case Event(kind=EventKind.STOPPED, pid=int() as pid):
                self._frozen[pid] = [event]
                yield f"Kernel: {pid} is stopped. Balancer: still routed, as if nothing had happened."
            case Event(kind=EventKind.CONTINUED, pid=int() as pid):
                self._frozen.pop(pid, None)
                yield f"Kernel: {pid} runs again."
            case Event(kind=EventKind.ENDPOINT_IN, pid=int() as pid) if pid in self._out:
                self._out.discard(pid)
                yield f"Balancer: {pid} answered a probe and is back in."
            case Event(pid=int() as pid) if pid in self._frozen:
                yield from self._leaving(pid, event)

    def _leaving(self, pid: int, event: Event) -> Iterator[str]:
        """The sentence for the moment in which a frozen worker has left its upstream."""
        self._frozen[pid].append(event)
        took = out_ms(self._frozen[pid], pid)
        if took is not None:
            del self._frozen[pid]
            self._out.add(pid)
            yield f"Balancer: {pid} is out, {shown(took)} ms after it froze. Its probes went unanswered."


def obituary(event: Event) -> str:
    """A healing (`worker.healed`) in a sentence or two: who died, how, by whom, and who came after how long."""
    data = event.data
    death, sender = str(data.get("death")), _SENDERS.get(data.get("by", ""), "")
    how = f"died by {death}" if death.startswith("SIG") else f"ended with {death}"
    return (
        f"PID {data.get('old_pid')} {how}{sender}. "
        f"Slot {event.slot} was READY again as PID {event.pid} after {shown(data.get('heal_ms'))} ms."
    )


def _healing(event: Event) -> Iterator[str]:
    yield obituary(event)
    if event.data.get("lost"):
        yield f"Lost with it: {counted(event.data['lost'], 'request')} that it was answering."


def out_ms(events: Iterable[Event], pid: int) -> float | None:
    """Milliseconds from the kernel's report that `pid` was stopped until it left its upstream for not answering probes.

    None until then. Leaving for another reason (somebody killed the frozen worker) does not count.
    """
    stopped_at, out_at, unhealthy = None, None, False
    for event in events:
        if event.pid != pid:
            continue
        if event.kind is EventKind.STOPPED:
            stopped_at = event.at
        elif event.kind is EventKind.ENDPOINT_OUT and stopped_at is not None:
            out_at = event.at
        unhealthy = unhealthy or event.state is WorkerState.UNHEALTHY
    return (out_at - stopped_at) * 1000 if stopped_at is not None and out_at is not None and unhealthy else None


def photo(event: Event) -> Iterator[str]:
    """The photo finish of a healing, one moment a line, for those who cannot see the picture."""
    moments = [
        (event.data.get("signal_at"), f"{event.data.get('death')} sent"),
        (event.data.get("exit_at"), "the kernel reported the death"),
        (event.data.get("forked_at"), f"{event.pid} was forked"),
        (event.data.get("probe_at"), "it answered a probe"),
        (event.data.get("ready_at"), "READY, and back in the balancer"),
    ]
    known = [(at, what) for at, what in moments if at is not None]
    for at, what in known:
        yield f"{shown(float((at - known[0][0]) * 1000))} ms: {what}"
