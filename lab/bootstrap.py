"""The composition root: the only module that knows every floor. It puts a lab together and hands it to a face."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from msgspec.structs import replace

from lab import paths, plugins, report
from lab.config import languages, manifest
from lab.conversation import attached, speak
from lab.core.clock import SystemClock
from lab.core.errors import NoLabError, NotPossibleError
from lab.core.spelling import counted
from lab.engine import reload
from lab.engine.engine import Engine
from lab.engine.lab import Lab, LabSpec
from lab.engine.local import LocalLab
from lab.pool.spawner import Spawner

if TYPE_CHECKING:
    from lab.tui.app import CgilabApp


def default_manifest() -> Path:
    """The lab that opens when no other is asked for."""
    return paths.content("samples") / "manifest.json"


def lab_spec(file: Path | None, *, port: int | None, name: str | None) -> LabSpec:
    """The desired state that a manifest and the command line ask for. Raises `ConfigError`."""
    spec = reload.spec_of(manifest.load(file or default_manifest()))
    listener = spec.listener if port is None else replace(spec.listener, port=port)
    return replace(spec, name=name or spec.name, listener=listener)


def local_lab(
    spec: LabSpec,
    *,
    file: Path | None = None,
    exact_port: bool = False,
    read_only: bool = False,
    control: Path | None,
) -> LocalLab:
    """A lab in this process, not started yet. Its fork server is: that happens before any thread exists.

    `file` is the manifest that `spec` came from, if the lab is to follow it as it is edited.
    """
    clock = SystemClock()
    spawner = Spawner(clock)
    spawner.launch()
    make_pool = plugins.load("cgilab.pool", "python_builtin")
    make_proxy = plugins.load("cgilab.proxy", "python_builtin")
    logs = paths.state() / "logs" / spec.name
    known = languages.load()
    engine = Engine(
        spec,
        lambda routing, events, clock: make_pool(
            routing=routing,
            events=events,
            clock=clock,
            spawner=spawner,
            languages=known,
            cache=paths.cache(),
            logs=logs,
        ),
        partial(make_proxy, logs=logs),
        clock=clock,
        defects=logs / "defects.log",
        reloader=reload.Reloader(file, known),
        exact_port=exact_port,
        read_only=read_only,
    )
    return LocalLab(engine, control)


def serve(file: Path | None, *, port: int | None, name: str | None, as_json: bool, seconds: float | None) -> int:
    """Run a lab without a screen and tell its events, until a signal or for `seconds`. Returns the exit code."""
    with _running(file, port=port, name=name, told=sys.stderr) as lab:
        return asyncio.run(_tell(lab, as_json=as_json, seconds=seconds))


def open_screen(file: Path | None, *, port: int | None, name: str | None, lesson: str | None, read_only: bool) -> int:
    """Run a lab and its screen in this terminal. Returns the exit code."""
    from lab.learning import lessons, progress

    _need_terminal("A lab without a screen: cgilab up")
    if lesson is not None:
        lessons.load(lesson)  # a wrong ID is told before a lab is started
    elif file is None and not read_only and not progress.load().done(lessons.FIRST):
        lesson = lessons.FIRST  # whoever brings a manifest has come for that
    from lab.tui.app import CgilabApp  # before the engine runs: beside it, this takes twice as long

    with _running(file, port=port, name=name, read_only=read_only, told=sys.stdout) as lab:
        return asyncio.run(_show(CgilabApp(lab, open_lesson=lesson, read_only=read_only, lab_stays=False)))


def run_lesson(lesson_id: str, name: str | None) -> int:
    """A lesson in line mode, on the lab that runs (`conversation.attached`), else on one of its own; the exit code."""
    from lab.learning import lessons, line_mode

    lessons.load(lesson_id)  # a wrong ID is told before a lab is started
    met = False

    async def walk(lab: Lab) -> int:
        nonlocal met
        met = True
        return await line_mode.run(lab, lesson_id)

    try:
        return speak(name, walk)
    except NoLabError:
        if met:
            raise  # it went away in the middle of the lesson
    with _running(None, port=None, name=name, told=sys.stderr) as lab:
        return asyncio.run(walk(lab))


def verify_lessons(lesson_id: str | None) -> int:
    """Walk one lesson, or all, on fresh labs, and tell what does not hold. Returns the exit code."""
    from lab.learning import verify

    async def fresh() -> Lab:
        lab = local_lab(lab_spec(None, port=0, name="verify"), control=None)
        await asyncio.to_thread(lab.start)
        return lab

    found = asyncio.run(verify.verify(fresh, lesson_id))
    sys.stdout.write(verify.render(found) + "\n")
    return 0 if found.ok else 1


def attach_screen(name: str | None, *, read_only: bool) -> int:
    """The screen of a lab that runs in another process. Returns the exit code."""
    _need_terminal("What it shows, as text: cgilab status, cgilab events --follow")

    async def session() -> int:
        async with attached(name, read_only=read_only) as remote:
            from lab.tui.app import CgilabApp

            read_only_here = read_only or remote.greeting.read_only
            return await _show(CgilabApp(remote, read_only=read_only_here))

    return asyncio.run(session())


@contextmanager
def _running(
    file: Path | None, *, port: int | None, name: str | None, told: TextIO, read_only: bool = False
) -> Iterator[LocalLab]:
    """A lab between its start and the end of its last process, which is told to `told`."""
    spec = lab_spec(file, port=port, name=name)
    control = paths.control_socket(spec.name)
    followed = file or default_manifest()
    lab = local_lab(spec, file=followed, exact_port=port is not None, read_only=read_only, control=control)
    lab.start()
    try:
        yield lab
    finally:
        farewell = lab.stop()
        # The terminal or the pipe may be gone by now; that is no reason to complain.
        with contextlib.suppress(OSError):
            if farewell.why:
                told.write(f"{farewell.why}\n")
            told.write(f"{counted(farewell.stopped, 'worker')} stopped, {farewell.left} left.\n")
            told.flush()


async def _tell(lab: LocalLab, *, as_json: bool, seconds: float | None) -> int:
    """Print events until it is time to stop."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()
    _on_signals(lambda code: None if ended.done() else ended.set_result(code))
    telling = loop.create_task(_print_events(lab, as_json=as_json))
    await asyncio.wait((ended, telling), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    if telling.done():
        # Only an error ends it: the reader of our output has left, or the engine has failed.
        await telling
    telling.cancel()
    return ended.result() if ended.done() else 0


async def _print_events(lab: LocalLab, *, as_json: bool) -> None:
    cursor = 1
    while True:
        batch = await lab.events(cursor, wait=60)
        cursor = batch.next
        for line in report.event_lines(batch, as_json=as_json):
            sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _need_terminal(remedy: str) -> None:
    """The screen reads keys from standard input and draws on standard error; standard output may go elsewhere."""
    for name, stream in (("input", sys.stdin), ("error", sys.stderr)):
        if stream is None or not stream.isatty():
            raise NotPossibleError(f"The screen needs a terminal, and standard {name} is none.", remedy)


async def _show(app: "CgilabApp") -> int:
    """The screen, until the person quits or a signal says so. Raises what it failed of by surprise."""
    _on_signals(lambda code: app.exit(return_code=code))
    await app.run_async()
    if app.defect is not None:
        raise app.defect
    return app.return_code or 0


def _on_signals(end: Callable[[int], object]) -> None:
    """Call `end` with the exit code when SIGINT (130), SIGTERM or SIGHUP (0: asked to stop, and it did) comes."""
    loop = asyncio.get_running_loop()
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGHUP, 0)):
        loop.add_signal_handler(number, end, code)
