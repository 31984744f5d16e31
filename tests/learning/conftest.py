"""A real lab on a free port, for lessons to run on, and a short lesson to take apart."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from lab import bootstrap
from lab.core.model import Tls
from lab.engine.local import LocalLab

MakeLab = Callable[[], Awaitable[LocalLab]]

LESSON = """
format_version = 1
id = "short"
level = "beginner"
minutes = 1

[setup]
traffic = 0
apps = [{ name = "search", route = "/api/search", sample = "search", language = ["c", "python"], workers = 2 }]

[[step]]
id = "kill"
scene = 1
target = 1
predict = "heal"
settles = "heal"
ask = "why"
allow = ["kill"]
check = [{ id = "gone", expr = "worker_replaced(app='search', cause='killed') and not alive(death.pid)" }]
say = [{ text = "killed" }]
walk = ["kill"]

[[predict]]
id = "heal"
scale = "log"
truth = "death.heal_ms"
values = ["1", "100000"]

[[ask]]
id = "why"
right = 2
"""

TEXT = """# A short lesson

## kill: Kill
Press **k** to kill {{ target.pid }}.

## predict-heal
How long?
- 1 ms
- 100 s

## check-gone: it was replaced

## killed
PID {{ death.pid }} died by {{ death.signal }}.

## ask-why
Who told the lab?
- Nobody.
  > Somebody did.
- The kernel.
  > Yes.

## meet: Where you meet this
Everywhere.

## read-on: Read on
`man 2 wait`

## teach
One minute.
"""


@pytest.fixture
def make_lab() -> MakeLab:
    """Starts a new lab with the default apps on a free port."""

    async def make() -> LocalLab:
        lab = bootstrap.local_lab(bootstrap.lab_spec(None, port=0, name="lesson"), control=None)
        lab.start()
        return lab

    return make


@pytest.fixture
def make_tls_lab() -> MakeLab:
    """The same, with a listener that speaks TLS."""

    async def make() -> LocalLab:
        spec = bootstrap.lab_spec(None, port=0, name="lesson")
        listener = msgspec.structs.replace(spec.listener, tls=Tls.SELF_SIGNED)
        lab = bootstrap.local_lab(msgspec.structs.replace(spec, listener=listener), control=None)
        lab.start()
        return lab

    return make


@pytest.fixture
async def lab(make_lab: MakeLab) -> AsyncIterator[LocalLab]:
    """A running lab, stopped after the test."""
    lab = await make_lab()
    yield lab
    await lab.close()


@pytest.fixture
def write_lesson(tmp_path: Path) -> Callable[..., Path]:
    """Writes the short lesson, `old` in its files replaced by `new`; returns the folder of lessons."""

    def write(old: str = "", new: str = "") -> Path:
        folder = tmp_path / "lessons" / "01-short"
        folder.mkdir(parents=True, exist_ok=True)
        assert not old or old in LESSON + TEXT
        (folder / "lesson.toml").write_text(LESSON.replace(old, new) if old else LESSON)
        (folder / "text.en.md").write_text(TEXT.replace(old, new) if old else TEXT)
        return folder.parent

    return write
