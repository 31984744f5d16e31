"""Every test run has folders of its own, so that it meets neither the user's progress nor a lab that the user runs."""

import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from types import FrameType

import hypothesis
import pytest

from tests.ports import Reserve, reserving

# What a search finds by chance is for whoever searches: its failure is kept and comes again. A gate asks the same each
# time, or it would refuse a change for what was there before it; and it need not be told which lines failures have in
# common, for which each line of each failing example is traced.
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.register_profile(
    "gate",
    deadline=None,
    derandomize=True,
    phases=[one for one in hypothesis.Phase if one is not hypothesis.Phase.explain],
)
hypothesis.settings.load_profile("gate" if os.environ.get("CI") else "search")

_FOLDERS = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Point the lab's state, cache and sockets to a new folder. Its path is short: that of a Unix socket has to be."""
    # A shell lets what it runs in the background ignore SIGINT, and whatever the tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="cgilab-"))
    config.stash[_FOLDERS] = folder
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    os.environ.setdefault("GOCACHE", f"{caches}/go-build")  # else Go compiles its whole library in each run
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
        os.environ[name] = str(folder / name.split("_")[1].lower())
    os.environ.pop("CGILAB_CONTROL", None)


@pytest.fixture
def reserve() -> Iterator[Reserve]:
    """Ports that are this test's alone."""
    with reserving() as reserve:
        yield reserve


class OutOfTimeError(BaseException):
    """A test has used up its time.

    Not what `pytest.fail` raises: Hypothesis takes that for one more example that fails, and goes on to make it
    smaller, for which nobody has set a bound any more.
    """


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: object) -> Generator[None, object, object]:
    """Have the alarm that pytest-timeout sets end the test, whoever catches what."""
    done = yield
    tell = signal.getsignal(signal.SIGALRM)
    if not callable(tell):
        return done  # --timeout-method=thread sets no alarm, and ends the whole run

    def ring(number: int, frame: FrameType | None) -> None:
        try:
            tell(number, frame)
        except pytest.fail.Exception as failed:
            raise OutOfTimeError(str(failed)) from None

    signal.signal(signal.SIGALRM, ring)
    return done


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a C compiler the lab runs without its C app, and the tests without those of compiled programs."""
    if any(map(shutil.which, ("cc", "gcc", "clang"))):
        return
    for item in items:
        if item.get_closest_marker("compiler") or "search-c" in item.name or item.name.endswith("[c]"):
            item.add_marker(pytest.mark.skip(reason="needs a C compiler"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where CI is set, .ci/run has installed every language and program: a test left out is a failure there."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    left_out = reporter.stats.get("skipped", []) if reporter and os.environ.get("CI") else []
    for report in left_out:
        reporter.write_line(f"LEFT OUT {report.nodeid}: {report.longrepr[2]}")
    if left_out and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove it."""
    shutil.rmtree(config.stash[_FOLDERS], ignore_errors=True)
