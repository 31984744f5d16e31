"""Every test run has folders of its own, so that it meets neither the user's progress nor a lab that the user runs."""

import os
import shutil
import signal
import tempfile
from pathlib import Path

import hypothesis
import pytest

# What a search finds by chance is for whoever searches: its failure is kept and comes again. A gate asks the same each
# time, or it would refuse a change for what was there before it.
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.register_profile("gate", deadline=None, derandomize=True)
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
