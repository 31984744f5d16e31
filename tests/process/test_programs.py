"""What becomes of programs when their source is edited, and of those that nobody uses any more."""

import os
import signal
import time
from pathlib import Path

import pytest

from lab.core.events import EventKind
from lab.core.states import WorkerState

_S = WorkerState
DAY = 24 * 3600


async def refused(bench):
    return await bench.seen(lambda event: event.kind is EventKind.RELOAD and event.data["step"] == "refused")


async def test_while_an_edited_script_is_refused_dead_workers_are_refilled_with_the_text_that_served(bench):
    await bench.pool.apply((bench.app(max_workers=2),))
    for slot in range(2):
        await bench.state(_S.READY, slot=slot)
    await bench.pool.apply((bench.app("raise SystemExit(3)\n", max_workers=2),))
    note = await refused(bench)
    for worker in bench.view().workers:
        bench.pool.signal(worker.worker, signal.SIGKILL)
    for slot in range(2):
        await bench.state(_S.READY, note.seq, slot=slot)
    assert bench.count(_S.BACKOFF) == 0


async def test_a_script_that_is_removed_goes_on_serving(bench):
    spec = bench.app()
    await bench.pool.apply((spec,))
    await bench.state(_S.READY)
    Path(spec.source).unlink()
    bench.pool.signal(bench.worker().worker, signal.SIGKILL)
    await bench.state(_S.READY, generation=2)


async def test_a_script_runs_from_its_own_place_while_it_is_what_was_verified(bench):
    tells = "import sys\nprint(__file__, flush=True)\n"
    spec = bench.app(tells + bench.PROGRAM)
    await bench.pool.apply((spec,))
    await bench.state(_S.READY)
    await bench.until(lambda: bench.pool.output("app", 0) == (spec.source,))


@pytest.mark.compiler
async def test_programs_that_nobody_used_for_thirty_days_are_removed(bench):
    programs = bench.folder / "cache" / "programs"
    (programs / "old-folder" / "inside").mkdir(parents=True)
    (programs / "old").write_text("")
    (programs / "recent").write_text("")
    for name, days in (("old-folder", 31), ("old", 31), ("recent", 29)):
        then = time.time() - days * DAY
        os.utime(programs / name, (then, then))
    await bench.pool.apply((bench.app("#include <unistd.h>\nint main(void) { pause(); }\n", language="c"),))
    await bench.state(_S.STARTING)
    assert {path.name.partition("-")[0] for path in programs.iterdir()} == {"recent", "app"}
