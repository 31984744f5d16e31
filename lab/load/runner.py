"""Starts a load run as a process of the lab and follows it through the lab's events.

The engine knows only that a process runs and writes lines; what they mean is known here. So a run is seen by every face
that is attached, and dies with the lab. Only the lab's own listener can be a target.
"""

import contextlib
import re
import secrets
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from lab import paths
from lab.core.errors import LabError, NotPossibleError, UnknownTargetError
from lab.core.events import Event, EventKind
from lab.core.snapshot import LabSnapshot
from lab.engine.lab import Lab, ProcessSpec
from lab.load.profiles import Profile
from lab.load.results import Ending, Report, Result, Sample, Tally

_LOCUSTFILE = Path(__file__).with_name("locustfile.py")
_PATH = re.compile(r"/(?!/)[!-~]*")
_GRACE = 10.0
"""Seconds that a run may take to start and to write its report, beyond the time it was asked for."""
_WAIT = 1.0
"""Seconds that one read of events may wait. A longer wait would hold the connection to a lab that is gone."""


async def start(lab: Lab, profile: Profile, html: Path | None = None) -> "LoadRun":
    """Start a run and return when its process exists. Its HTML report goes to `html`, else to the user's state folder.

    Raises `UnknownTargetError` for a target that is not an app, a path or a URL of this lab's listener,
    `NotPossibleError` when there is no place for the report, and whatever `Lab.start_process` raises.
    """
    snapshot = await lab.snapshot()
    path = resolve(snapshot, profile.target)
    name = f"load-{secrets.token_hex(3)}"
    report = (html or _reports() / f"{name}.html").absolute()
    _make_folders(_reports(), report.parent)
    await lab.start_process(_process(name, snapshot.listener, path, profile, report))
    return LoadRun(lab, name, profile, snapshot.listener + path, report, snapshot.events_next)


def resolve(snapshot: LabSnapshot, target: str) -> str:
    """The path, with its query, that `target` means on this lab's listener. Raises `UnknownTargetError`."""
    app = snapshot.app(target)
    if app is not None:
        return app.route
    if _PATH.fullmatch(target):
        return target
    url = urlsplit(target)
    if url.scheme and f"{url.scheme}://{url.netloc}" == snapshot.listener:
        return resolve(snapshot, url._replace(scheme="", netloc="", fragment="").geturl() or "/")
    apps = ", ".join(app.name for app in snapshot.apps) or "none"
    raise UnknownTargetError(
        f"Found the target {target!r}; expected an app of this lab ({apps}), a path, or a URL of {snapshot.listener}.",
        "Load is sent to the lab's own listener and to nothing else.",
    )


class LoadRun:
    """A run that was started. It has one reader: read `samples`, or `result`, which reads the rest itself."""

    def __init__(self, lab: Lab, name: str, profile: Profile, url: str, report: Path, cursor: int) -> None:
        self.name = name
        """Its name among the lab's processes."""
        self.url = url
        """What it asks for."""
        self._lab = lab
        self._profile = profile
        self._report = report
        self._cursor = cursor
        self._tally = Tally()
        self._ended: Event | None = None

    async def samples(self) -> AsyncIterator[Sample]:
        """The run as it goes on, twice a second; ends with the run. The first one comes at once and is empty.

        Raises `NoLabError` when the lab goes away.
        """
        if self._tally.latest is None:
            yield Sample(elapsed_s=0.0)
        while self._ended is None:
            for report in await self._read():
                yield self._tally.add(report)

    async def result(self) -> Result:
        """Wait for the end and return what was measured. Raises `LabError` when the generator died before it sent."""
        while (ended := self._ended) is None:
            for report in await self._read():
                self._tally.add(report)
        ending = self._ending(ended)
        if ending is Ending.DIED:
            self._tally.warn("the generator died: what it measured until then is shown")
        written = str(self._report) if self._report.exists() else ""
        return self._tally.result(self._profile, self.url, ending, written)

    async def stop(self) -> None:
        """End the run early; its result and report are still made. Does nothing when it has ended."""
        with contextlib.suppress(UnknownTargetError):
            await self._lab.stop_process(self.name)

    async def _read(self) -> list[Report]:
        batch = await self._lab.events(self._cursor, wait=_WAIT)
        self._cursor = batch.next
        if batch.missed:
            self._tally.warn(f"{batch.missed} events were missed: percentiles may lack some requests")
        reports = []
        for event in batch.events:
            if event.data.get("name") != self.name:
                continue
            if event.kind is EventKind.PROCESS_REPORT:
                reports.append(msgspec.json.decode(event.text, type=Report))
            elif event.kind is EventKind.PROCESS_ENDED:
                self._ended = event
        return reports

    def _ending(self, ended: Event) -> Ending:
        latest = self._tally.latest
        if ended.exit_code == 0:
            early = self._tally.seconds < self._profile.seconds - 0.5
            return Ending.STOPPED if latest is None or (latest.interrupted and early) else Ending.FINISHED
        if ended.data.get("stopped") or ended.signal == "SIGINT":
            return Ending.STOPPED
        if latest is None:
            remedy = f"What it said is in the lab's logs, below {paths.state()}."
            raise LabError(f"The load generator ended before it sent anything: {ended.text}.", remedy)
        return Ending.DIED


def _process(name: str, listener: str, path: str, profile: Profile, report: Path) -> ProcessSpec:
    """Locust without its web page, bound to loopback wherever it could bind."""
    order = msgspec.structs.replace(profile, target=path)
    return ProcessSpec(
        name=name,
        argv=(
            *(sys.executable, "-m", "locust", "--headless", "--locustfile", str(_LOCUSTFILE), "--host", listener),
            *("--web-host", "127.0.0.1", "--master-bind-host", "127.0.0.1"),
            *("--stop-timeout", "2", "--exit-code-on-error", "0", "--only-summary", "--html", str(report)),
            *("--report-fd", "{report_fd}"),
            *_distribution(profile.workers),
        ),
        env={"CGILAB_LOAD_PROFILE": msgspec.json.encode(order).decode()},
        # Not where the lab or the report is: locust takes settings from a pyproject.toml that it finds beside it.
        cwd=str(_reports()),
        stop_signal="SIGINT",  # SIGTERM skips the report
        stop_timeout=_GRACE,
        max_seconds=profile.seconds + _GRACE,
    )


def _distribution(workers: int) -> tuple[str, ...]:
    """Locust's words for several processes. They meet at a port that is free now, so that two runs do not meet."""
    if workers == 1:
        return ()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return ("--processes", str(workers), "--master-bind-port", port, "--master-port", port)


def _reports() -> Path:
    return paths.state() / "reports"


def _make_folders(*folders: Path) -> None:
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NotPossibleError(f"The folder {folder} cannot be made: {error.strerror}.") from error
