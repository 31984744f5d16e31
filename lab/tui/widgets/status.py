"""The header: where the lab listens, its figures, and one lamp an invariant. Two rows, whatever the width."""

from collections.abc import Sequence
from typing import Any

from lab.core.snapshot import LabSnapshot
from lab.tui import figures
from lab.tui.painting import Painted, Row, length

_LAMPS = {
    "conserved": "conserved",
    "no_zombies": "no zombies",
    "within_bounds": "bounds",
    "only_ready": "only ready",
    "stops_are_final": "stops",
    "backoff_kept": "back-off",
    "probes_on_time": "probes",
}
"""For each invariant the name of its lamp."""
_GAP: Row = (("   ", "text"),)


class StatusBar(Painted):
    """Figures are over ten seconds and without the lab's own requests; with nobody else's, they are the lab's own."""

    HELP = (
        "The whole lab in two rows. Rates and latencies are over the last ten seconds.\n\n"
        "in flight: requests between arrival and answer. queue: those of them that wait for a free worker. "
        "errors: the share that the gateway could not get an answer for. "
        "tunnels: WebSockets and the like that are open, and what all have carried since the lab began. "
        "restarts: processes that were replaced, for whatever reason, in the slots that there are now.\n\n"
        "The lamps are what must hold at every instant; one that does not is told for ten seconds.\n"
        "conserved: every request that came in was answered, failed, shed, abandoned, or is in flight; none is lost.\n"
        "no zombies: no dead process waits to be buried.\n"
        "bounds: no pool has more workers than it may.\n"
        "only ready: no request can reach a worker that is not ready.\n"
        "stops: a worker that was stopped on purpose stays stopped, and was gone within its grace.\n"
        "back-off: no slot is filled again before its pause is over.\n"
        "probes: no worker is asked late how it is because another one hangs.\n\n"
        "y copies the address."
    )

    can_focus = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._snapshot: LabSnapshot | None = None

    def show(self, snapshot: LabSnapshot) -> None:
        """Draw the figures of `snapshot`."""
        self._snapshot = snapshot
        self.repaint()

    def rows(self, width: int) -> Sequence[Row]:
        if self._snapshot is None:
            return ((("cgilab", "accent"), ("  starting", "dim")), ())
        name: Row = (("cgilab", "accent"), (f"  {self._snapshot.listener}", "strong"))
        lamps = self._lamps(self._snapshot, width - length(name) - 2)
        up = (("   up " + figures.seconds(self._snapshot.uptime_s), "dim"),)
        left = (*name, *up) if length(name) + length(up) + length(lamps) + 2 <= width else name
        gap = " " * max(2, width - length(left) - length(lamps))
        return ((*left, (gap, "text"), *lamps), self._figures(self._snapshot, width))

    def _lamps(self, snapshot: LabSnapshot, width: int) -> Row:
        """One an invariant, where there is room for all; else those that are broken, and how many hold."""
        held = [(name, getattr(snapshot.invariants, field)) for field, name in _LAMPS.items()]
        every = tuple(self._lamp(name, good) for name, good in held)
        if length(every) <= width:
            return every
        broken = tuple(self._lamp(name, good) for name, good in held if not good)
        what = f"{len(held) - len(broken)} hold" if broken else f"{len(held)} invariants hold"
        return (*broken, (f"{self.glyphs.ready} {what}  ", "good"))

    def _lamp(self, name: str, good: bool) -> tuple[str, str]:
        if good:
            return f"{self.glyphs.ready} {name}  ", "good"
        return f"{self.glyphs.dead} NOT {name.removeprefix('no ').upper()}  ", "loud"

    def _figures(self, snapshot: LabSnapshot, width: int) -> Row:
        """As many figures as fit, the most telling first."""
        row: Row = ()
        for part in _parts(snapshot):
            if length(row) + length(part) + (3 if row else 0) > width:
                break
            row = (*row, *_GAP, *part) if row else part
        return row


def _parts(snapshot: LabSnapshot) -> Sequence[Row]:
    everyone, own = snapshot.totals, snapshot.own
    timed, whose = (everyone, "") if everyone.p50_ms is not None else (own.totals, " own")
    workers = [worker for app in snapshot.apps for worker in app.workers]
    errors = figures.percent(everyone.failed, everyone.accepted)
    carried = f" ({figures.size(everyone.tunnel_bytes)})"
    tunnels: Row = (("tunnels ", "dim"), (str(everyone.tunnels), "text"), (carried, "dim"))
    return (
        (
            (f"{figures.rate(everyone.rps)} req/s", "strong"),
            (f" + {own.rate:g}/s own" if own.rate else "", "dim"),
        ),
        (
            (f"p50{whose} ", "dim"),
            (figures.plain(timed.p50_ms), "text"),
            ("  p99 ", "dim"),
            (figures.milliseconds(timed.p99_ms), "text"),
        ),
        (("errors ", "dim"), (errors, "text" if errors == "0 %" else "bad")),
        *((tunnels,) if everyone.tunnels or everyone.tunnel_bytes else ()),
        (("restarts ", "dim"), (str(sum(worker.restarts for worker in workers)), "text")),
        (("queue ", "dim"), (str(sum(app.queue for app in snapshot.apps)), "text")),
        (("in flight ", "dim"), (str(everyone.in_flight), "text")),
        (("shed ", "dim"), (str(everyone.shed), "text")),
        (("abandoned ", "dim"), (str(everyone.abandoned), "text")),
        (("retries ", "dim"), (str(everyone.retries), "text")),
        (("answered ", "dim"), (str(everyone.answered), "text")),
    )
