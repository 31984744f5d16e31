"""A line of words to a command of the lab: what the TUI's `:` and the command line's short commands have in common."""

import shlex

from lab.core.errors import LabError, NotPossibleError
from lab.core.model import PROXY
from lab.core.spelling import counted
from lab.engine import settings, shares, standings, timeline
from lab.engine.lab import Changed, Lab, Signalled

USAGE = {
    "kill": "kill TARGET [SIGNAL]",
    "term": "term TARGET",
    "freeze": "freeze TARGET",
    "thaw": "thaw TARGET",
    "scale": "scale APP N",
    "set": "set APP|proxy KEY=VALUE [KEY=VALUE ...]",
    "shift": "shift ROUTE APP=WEIGHT [APP=WEIGHT ...]",
    "reload": "reload APP",
    "heal": "heal",
    "request": "request APP",
    "traffic": "traffic RATE",
    "endpoints": "endpoints [APP]",
    "trace": "trace [ID]",
}
"""Every command with its arguments. TARGET: PID, APP, APP/SLOT, or random."""


async def execute(lab: Lab, line: str) -> str:
    """Run one command line and return what to tell the person. Raises `LabError` with the usage when it is wrong."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise NotPossibleError(f"Cannot read {line!r}: {error}.") from error
    if words[:1] == ["cgilab"]:  # copied from a page
        del words[0]
    match words:
        case ["kill", target]:
            return _told(await lab.signal(target, "SIGKILL"))
        case ["kill", target, signal]:
            return _told(await lab.signal(target, signal))
        case ["term", target]:
            return _told(await lab.signal(target, "SIGTERM"))
        case ["freeze", target]:
            return _told(await lab.signal(target, "SIGSTOP"))
        case ["thaw", target]:
            return _told(await lab.signal(target, "SIGCONT"))
        case ["scale", app, number] if number.isdecimal():
            scaled = await lab.scale(app, int(number))
            return f"{scaled.app}: {scaled.before} -> {scaled.after} workers"
        case ["set", app]:
            return await _settings(lab, app)
        case ["set", app, *pairs] if all("=" in pair.lstrip("=") for pair in pairs):
            return "\n".join(map(_changed, await lab.set(app, _changes(pairs))))
        case ["shift", route, *pairs] if pairs and all(_is_weight(pair) for pair in pairs):
            shift = await lab.shift(route, {app: int(weight) for app, weight in _changes(pairs).items()})
            return f"{shift.route}: {shares.told(shift.before)} -> {shares.told(shift.after)}"
        case ["reload", app]:
            await lab.reload(app)
            return f"{app} is being reloaded, worker by worker"
        case ["heal"]:
            return _healed(await lab.heal())
        case ["request", app]:
            answer = await lab.request(app)
            return f"{answer.status}  pid {answer.pid or '-'}  {answer.ms:.1f} ms"
        case ["traffic", rate] if rate.replace(".", "", 1).isdecimal():
            return f"own requests: {await lab.traffic(float(rate)):g}/s -> {float(rate):g}/s"
        case ["endpoints", *apps] if len(apps) < 2:
            return "\n".join(await standings.told(lab, apps[0] if apps else None))
        case ["trace", *ids] if len(ids) < 2:
            return "\n".join(await timeline.told(lab, ids[0] if ids else None))
        case _:
            raise _usage(words)


async def _settings(lab: Lab, name: str) -> str:
    spec = await lab.spec()
    part = spec.proxy if name == PROXY else spec.known(name)
    return "\n".join(f"{key}={value}" for key, value in settings.listing(part))


def _is_weight(pair: str) -> bool:
    app, _, weight = pair.partition("=")
    return bool(app) and weight.isascii() and weight.isdecimal() and len(weight) < 10


def _changes(pairs: list[str]) -> dict[str, str]:
    changes: dict[str, str] = {}
    for key, _, text in (pair.partition("=") for pair in pairs):
        if key in changes:
            raise NotPossibleError(f"Found {key} twice: {changes[key]} and {text}.", "Set it once.")
        changes[key] = text
    return changes


def _changed(one: Changed) -> str:
    return f"{one.app}: {one.key} {one.before or 'empty'} -> {one.after or 'empty'}"


def _told(signalled: tuple[Signalled, ...]) -> str:
    if len(signalled) > 1:
        pids = ", ".join(str(one.pid) for one in signalled)
        return f"{signalled[0].signal} to {len(signalled)} workers of {signalled[0].app}: {pids}"
    return "".join(f"{one.signal} to {one.app}/{one.slot} (pid {one.pid})" for one in signalled)


def _healed(helped: int) -> str:
    if not helped:
        return "Nothing to heal: nothing is frozen, failed or in back-off."
    return f"Healed {counted(helped, 'process', 'processes')}."


def _usage(words: list[str]) -> LabError:
    if words and words[0] in USAGE:
        return NotPossibleError(f"Found {' '.join(words)!r}; expected: {USAGE[words[0]]}.")
    found = repr(words[0]) if words else "nothing"
    return NotPossibleError(f"Found {found}; expected one of: {', '.join(USAGE)}.")
