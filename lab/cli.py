"""The `cgilab` command: arguments, then one call. Whatever is slow to import is imported by the command that needs it.

Exit codes: 0 done, 1 a check failed, 2 wrong usage, 3 no lab is running or it cannot start, 130 interrupted.
"""

import shlex
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

import lab
from lab.core.errors import LabError, NotPossibleError, ReadOnlyError, UnknownTargetError

if TYPE_CHECKING:
    from lab.engine.remote import RemoteLab

FAILED, USAGE, NO_LAB, INTERRUPTED = 1, 2, 3, 130
_USAGE_ERRORS = (UnknownTargetError, NotPossibleError, ReadOnlyError)


def _checked(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """The name of a lab is part of the path of its socket, so it is held to what a manifest may say."""
    if value is not None:
        import msgspec

        from lab.core.model import Name

        try:
            msgspec.convert(value, Name)
        except msgspec.ValidationError:
            expected = "up to 32 lower-case letters, digits and hyphens, a letter first"
            raise click.BadParameter(f"found {value!r}, expected {expected}.") from None
    return value


_name = click.option("--name", callback=_checked, help="The lab to speak to. [default: the one that runs]")
_own_name = click.option("--name", callback=_checked, help="Name of this lab. [default: the manifest's]")
_json = click.option("--json", "as_json", is_flag=True, help="One JSON document, and nothing else, on standard output.")
_manifest = click.option("--manifest", type=click.Path(path_type=Path), help="Apps to run, in JSON or TOML.")
_port = click.option("--port", type=click.IntRange(0, 65535), help="Listen here or fail; 0 takes any free port.")


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@_manifest
@_port
@_own_name
@click.option("--lesson", metavar="ID", help="Open this lesson.")
@click.option("--read-only", is_flag=True, help="Look, but change nothing.")
@click.pass_context
def cgilab(
    context: click.Context,
    manifest: Path | None,
    port: int | None,
    name: str | None,
    lesson: str | None,
    read_only: bool,
) -> None:
    """Learn how the web is served: run a pool of worker processes and a proxy, break them, watch them heal.

    Without a command, the lab opens in this terminal.
    """
    if context.invoked_subcommand is None:
        from lab import bootstrap

        sys.exit(bootstrap.open_screen(manifest, port=port, name=name, lesson=lesson, read_only=read_only))
    for word, given in context.params.items():
        if given is not None and given is not False:
            option = f"--{word.replace('_', '-')}"
            command = context.invoked_subcommand
            raise click.UsageError(
                f"Found {option} before {command}; a command's options stand behind it: cgilab {command} --help"
            )


@cgilab.command()
@_manifest
@_port
@_own_name
@click.option("--plain", is_flag=True, help="One line an event (the default).")
@_json
@click.option("--for", "seconds", type=click.FloatRange(min=0), help="Stop by itself after this many seconds.")
def up(
    manifest: Path | None, port: int | None, name: str | None, plain: bool, as_json: bool, seconds: float | None
) -> None:
    """Run a lab without a screen, until it is interrupted."""
    if plain and as_json:
        raise click.UsageError("Found --plain and --json; expected one of them.")
    from lab import bootstrap

    sys.exit(bootstrap.serve(manifest, port=port, name=name, as_json=as_json, seconds=seconds))


@cgilab.command()
@_name
@click.option("--read-only", is_flag=True, help="Look, but change nothing.")
def attach(name: str | None, read_only: bool) -> None:
    """Open the screen on a lab that already runs."""
    from lab import bootstrap

    sys.exit(bootstrap.attach_screen(name, read_only=read_only))


@cgilab.command()
@_name
@_json
@click.option("--full", is_flag=True, help="Endpoints, memory and the last words of every worker too.")
def status(name: str | None, as_json: bool, full: bool) -> None:
    """Apps, workers, totals and invariants, now."""
    from lab import report

    async def show(remote: "RemoteLab") -> None:
        snapshot = await remote.snapshot()
        click.echo(report.encoded(snapshot) if as_json else await report.status(remote, snapshot, full=full))

    _speak(name, show)


@cgilab.command()
@_name
@_json
@click.option("--follow", is_flag=True, help="Go on until interrupted.")
@click.option("--since", type=click.IntRange(min=0), default=0, help="Begin with the event of this number.")
def events(name: str | None, as_json: bool, follow: bool, since: int) -> None:
    """What happened, one line an event."""
    from lab import report

    async def show(remote: "RemoteLab") -> None:
        async for batch in report.batches(remote, since, follow=follow):
            for line in report.event_lines(batch, as_json=as_json):
                click.echo(line)

    _speak(name, show)


@cgilab.command()
@click.argument("identity", metavar="[ID]", required=False)
@_name
@_json
@click.option("--slow", is_flag=True, help="Only those that took long.")
def trace(identity: str | None, name: str | None, as_json: bool, slow: bool) -> None:
    """Where the time of a request went, and who was tried.

    Without ID, the newest requests that were kept, one a line.

    Slow, failed, refused and retried requests are kept, those that opened a tunnel, and as many of the others as
    `trace_sample` says: `cgilab set proxy trace_sample=1` keeps all.
    """
    from lab import report

    async def show(remote: "RemoteLab") -> None:
        for line in await report.traces(remote, identity, slow=slow, as_json=as_json):
            click.echo(line)

    _speak(name, show)


@cgilab.command()
@click.argument("app", required=False)
@_name
@_json
def endpoints(app: str | None, name: str | None, as_json: bool) -> None:
    """What the balancer believes, beside what the kernel knows.

    Of each worker of APP, or of all. Where the two differ, a line says so: a frozen process that would still be
    chosen, connections that the kernel has accepted and the process has not.
    """
    from lab import report

    async def show(remote: "RemoteLab") -> None:
        for line in await report.endpoints(remote, app, as_json=as_json):
            click.echo(line)

    _speak(name, show)


def _short(name: str | None, *words: str) -> None:
    """Run one command of the lab's own language, the one that `:` takes on the screen, on a lab that runs."""
    from lab.engine.commands import execute

    async def run(remote: "RemoteLab") -> None:
        click.echo(await execute(remote, shlex.join(words)))

    _speak(name, run)


@cgilab.command()
@click.argument("target")
@click.option("--signal", default="SIGKILL", show_default=True, help="Name or number of the signal.")
@_name
def kill(target: str, signal: str, name: str | None) -> None:
    """Send a signal to a worker, or to all of an app.

    TARGET is a PID, APP, APP/SLOT or `random`. Only the lab's own workers can be hit.
    """
    _short(name, "kill", target, signal)


@cgilab.command()
@click.argument("target")
@_name
def freeze(target: str, name: str | None) -> None:
    """Stop TARGET: it exists, and does not answer (SIGSTOP)."""
    _short(name, "freeze", target)


@cgilab.command()
@click.argument("target")
@_name
def thaw(target: str, name: str | None) -> None:
    """Let a frozen TARGET go on (SIGCONT)."""
    _short(name, "thaw", target)


@cgilab.command()
@click.argument("app")
@click.argument("workers", type=click.IntRange(min=0))
@_name
def scale(app: str, workers: int, name: str | None) -> None:
    """Keep this many WORKERS of APP."""
    _short(name, "scale", app, str(workers))


@cgilab.command("set")
@click.argument("app")
@click.argument("changes", metavar="[KEY=VALUE]...", nargs=-1)
@_name
def set_(app: str, changes: tuple[str, ...], name: str | None) -> None:
    """Change settings of APP or of the proxy, or list them.

    They hold at once, all of them or none. KEY is a setting of the pool (max_workers, policy, max_requests), of the
    app (selection, concurrency), or of a part of it (liveness.interval, resources.files, php.ini.memory_limit). With
    `proxy` for APP: limits.body, timeouts.idle.
    """
    _short(name, "set", app, *changes)


@cgilab.command()
@click.argument("route")
@click.argument("weights", metavar="APP=WEIGHT...", nargs=-1, required=True)
@_name
def shift(route: str, weights: tuple[str, ...], name: str | None) -> None:
    """Share the requests of ROUTE out anew among its apps.

    It holds from the next request on. Apps that are not named keep their weight.
    """
    _short(name, "shift", route, *weights)


@cgilab.command()
@click.argument("app")
@_name
def reload(app: str, name: str | None) -> None:
    """Replace every worker of APP; no request fails."""
    _short(name, "reload", app)


@cgilab.command()
@_name
def heal(name: str | None) -> None:
    """Thaw, end back-off, and try failed slots again."""
    _short(name, "heal")


@cgilab.command()
@click.argument("scenario", default="search")
@_name
@click.option("--users", type=int, default=10, show_default=True, help="The most users at a time.")
@click.option("--rate", type=float, help="Requests/s of all users together. [default: 10 for each]")
@click.option("--for", "seconds", type=float, default=10.0, show_default=True, help="How many seconds.")
@click.option(
    "--shape", type=click.Choice(["constant", "ramp", "spike", "steps"]), default="constant", show_default=True
)
@click.option("--workers", type=int, default=1, show_default=True, help="Generator processes that share the users.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Where the HTML report goes.")
@_json
def load(
    scenario: str,
    name: str | None,
    users: int,
    rate: float | None,
    seconds: float,
    shape: str,
    workers: int,
    html: Path | None,
    as_json: bool,
) -> None:
    """Run locust against the lab, and show the figures.

    SCENARIO is an app, or a path of the lab's listener.
    """
    from lab import report
    from lab.load.profiles import Profile, Shape

    profile = Profile(target=scenario, users=users, rate=rate, seconds=seconds, shape=Shape(shape), workers=workers)
    _speak(name, lambda remote: report.load(remote, profile, html, as_json=as_json))


@cgilab.group()
def lesson() -> None:
    """List lessons, do one line by line, verify them."""


@lesson.command("list")
def lesson_list() -> None:
    """Every lesson, and which ones you have done."""
    from lab.learning import lessons, progress

    for entry in lessons.catalogue(progress.load()):
        done = "done" if entry.done else "    "
        click.echo(f"{done}  {entry.id:<16}  {entry.level}, {entry.minutes} min  {entry.title}")


@lesson.command("run")
@click.argument("lesson_id", metavar="ID")
@_name
def lesson_run(lesson_id: str, name: str | None) -> None:
    """Do a lesson in this terminal, one fact a line.

    On the lab that runs, else on one of its own.
    """
    from lab import bootstrap

    sys.exit(bootstrap.run_lesson(lesson_id, name))


@lesson.command("verify")
@click.argument("lesson_id", metavar="[ID]", required=False)
def lesson_verify(lesson_id: str | None) -> None:
    """Walk a lesson, or all of them, on a fresh lab.

    Each check must fail before its step and pass after it.
    """
    from lab import bootstrap

    sys.exit(bootstrap.verify_lessons(lesson_id))


@cgilab.command()
@_json
def doctor(as_json: bool) -> None:
    """What this machine can run, and how to install the rest."""
    from lab.config import languages
    from lab.engine import doctor as examination

    found = examination.examine(languages.load())
    click.echo(examination.encoded(found) if as_json else examination.render(found))


@cgilab.command()
def version() -> None:
    """The version of cgilab."""
    click.echo(f"cgilab {lab.__version__}")


def _speak(name: str | None, talk: "Callable[[RemoteLab], Awaitable[int | None]]") -> NoReturn:
    """Talk with the lab called `name`, and exit."""
    from lab import conversation

    sys.exit(conversation.speak(name, talk))


def main() -> NoReturn:
    """The script `cgilab`. Every error becomes a sentence; a traceback never reaches the person.

    A reader that leaves, as `| head` does, is click's business: it ends the command quietly with 1.
    """
    try:
        code = cgilab.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except LabError as error:
        click.echo(f"cgilab: {error}", err=True)
        sys.exit(USAGE if isinstance(error, _USAGE_ERRORS) else NO_LAB)
    except Exception:
        click.echo(
            f"cgilab: this is a defect of cgilab. The details are in {_kept_traceback()}: please report them.", err=True
        )
        sys.exit(FAILED)


def _kept_traceback() -> Path:
    """Write the traceback of the error being handled to a file of the user's, and return its place."""
    import traceback

    from lab import paths

    place = paths.state() / "defect.log"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(traceback.format_exc(), encoding="utf-8")
    return place
