"""The photo finish: a healing that took milliseconds, slowed down so that an eye can follow it.

Drawn from one recorded `worker.healed` event: every number was measured by whoever did the step, only the picture is
slow. It stays until it is cleared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lab.core.events import Event
from lab.tui import figures
from lab.tui.painting import Painted, Row, fit

_LINE_FROM = 50
"""Width from which the steps stand on one axis; below it, one under the other."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One step of a healing, `ms` after the first."""

    label: str
    ms: float


def marks(event: Event) -> tuple[Mark, ...]:
    """The steps that a `worker.healed` event recorded, in order; steps that nobody could see are left out."""
    death = str(event.data.get("death") or "")
    steps = (
        (death if death.startswith("SIG") else "signal", "signal_at"),
        ("exit seen", "exit_at"),
        (f"forked {event.pid}" if event.pid is not None else "forked", "forked_at"),
        ("probe", "probe_at"),
        (f"standby {event.pid} serves" if event.data.get("promoted") else "READY", "ready_at"),
    )
    times = [(label, event.data.get(key)) for label, key in steps]
    known = [(label, float(at)) for label, at in times if isinstance(at, int | float)]
    return tuple(Mark(label, max(0.0, (at - known[0][1]) * 1000)) for label, at in known)


class PhotoFinish(Painted):
    """The last healing, on a millisecond axis. Empty, and no row high, until `show`."""

    HELP = (
        "The photo finish: one death and its healing, slowed down. The picture is slow, the numbers are measured.\n\n"
        "The signal was sent; the kernel reported the exit (nobody had to poll); a successor was forked; it passed a "
        "probe; it was READY and the balancer may send it requests.\n\n"
        "A standby was forked and probed long before: it takes the place of the dead one at once.\n\n"
        "A signal that came from outside the lab has no first mark: only its sender knows when it was sent.\n\n"
        "The next key closes it."
    )

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._event: Event | None = None
        self._said: str | None = None

    @property
    def event(self) -> Event | None:
        """The healing that is shown, or None."""
        return self._event

    def show(self, event: Event, said: str | None = None) -> None:
        """Show the healing that `event` (kind `worker.healed`) recorded; `said` is what was predicted, in words."""
        self._event, self._said = event, said
        self.set_class(True, "-shown")
        self.repaint()

    def clear(self) -> None:
        """Show nothing."""
        self._event = self._said = None
        self.set_class(False, "-shown")
        self.repaint()

    def rows(self, width: int) -> Sequence[Row]:
        if self._event is None:
            return ()
        steps = marks(self._event)
        drawn = self._axis(steps, width) if width >= _LINE_FROM else self._steps(steps, width)
        return (self._title(self._event, width), *drawn, self._verdict(self._event, steps))

    def _title(self, event: Event, width: int) -> Row:
        where = f"slot {event.slot}" if event.slot is not None else "a worker"
        app = f"{event.app} " if event.app else ""
        said = f"you said {self._said}" if self._said else ""
        title = f"{app}{where}, slowed down"
        return ((fit(title, max(len(title) + 2, width - len(said) - 1)), "head"), (said, "accent"))

    def _axis(self, steps: Sequence[Mark], width: int) -> list[Row]:
        """Times, axis and labels. A step gets the room its label needs; what is left over is shared out by duration."""
        places = _places(steps, width - 2)
        times = [f"{figures.plain(step.ms)}{'' if number else ' ms'}" for number, step in enumerate(steps)]
        rule = "".join(
            self.glyphs.tick if place in places else self.glyphs.axis for place in range(max(places, default=0) + 1)
        )
        labels: Row = tuple(
            (fit(step.label, (places[at + 1] if at + 1 < len(places) else width) - places[at]), _role(at, steps))
            for at, step in enumerate(steps)
        )
        return [_spread(times, places, width, "strong"), ((rule, "dim"),), labels]

    def _steps(self, steps: Sequence[Mark], width: int) -> list[Row]:
        """One row a step: when, what, and a bar from the step before to this one, true to scale."""
        label = max((len(step.label) for step in steps), default=0)
        room = max(0, width - label - 11)
        whole = steps[-1].ms if steps and steps[-1].ms > 0 else 1.0
        rows: list[Row] = []
        begin = 0
        for at, step in enumerate(steps):
            end = round(room * step.ms / whole)
            drawn = " " * begin + self.glyphs.bars[-1] * (end - begin)
            when: Row = (
                (f"{figures.plain(step.ms):>5} ms ", "strong"),
                (f"{step.label.ljust(label)} ", _role(at, steps)),
            )
            rows.append((*when, (drawn, "accent")))
            begin = end
        return rows

    def _verdict(self, event: Event, steps: Sequence[Mark]) -> Row:
        took = event.data.get("heal_ms")
        total = float(took) if isinstance(took, int | float) else (steps[-1].ms if steps else None)
        start = "the signal" if event.data.get("signal_at") is not None else "the report of its death"
        lost = event.data.get("lost")
        told = "" if lost is None else f" {self.glyphs.dot} requests lost: {lost}"
        end = "until a standby took its place" if event.data.get("promoted") else "to READY"
        return ((f"{figures.milliseconds(total)}", "strong"), (f" from {start} {end}{told}", "dim"))


def _role(at: int, steps: Sequence[Mark]) -> str:
    if at == len(steps) - 1:
        return "good"
    return "bad" if at == 0 else "text"


def _places(steps: Sequence[Mark], width: int) -> list[int]:
    needed = [max(len(step.label), len(figures.plain(step.ms)) + 3) + 2 for step in steps]
    spare = max(0, width - sum(needed))
    whole = steps[-1].ms if steps and steps[-1].ms > 0 else 1.0
    places, at = [], 0.0
    for number, step in enumerate(steps):
        places.append(round(at))
        following = steps[number + 1].ms if number + 1 < len(steps) else step.ms
        at += needed[number] + spare * (following - step.ms) / whole
    return places


def _spread(texts: Sequence[str], places: Sequence[int], width: int, role: str) -> Row:
    ends = [*places[1:], width]
    return tuple((fit(text, end - place), role) for text, place, end in zip(texts, places, ends, strict=False))
