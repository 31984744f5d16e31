"""What the proxy is told of a lab, and whom the lab's own requests may go to."""

from typing import Any

from msgspec.structs import replace

from lab.core.model import AppSpec, HashSpec, ListenerSpec, PoolSettings, SiteSpec, WorkerId
from lab.core.states import WorkerState
from lab.engine.lab import LabSpec
from lab.engine.upstreams import askable, proxy_spec
from lab.pool.manager import AppView, PoolView, WorkerView

APP = AppSpec(name="a", route="/a", language="c", source="/a.c")


def worker(pid: int | None) -> WorkerView:
    return WorkerView(
        worker=WorkerId("a", 0, 1), state=WorkerState.READY if pid else WorkerState.PENDING, pid=pid, stopped=False,
        endpoint=None, restarts=0, started_at=None, cpu_percent=None, rss_bytes=None, retry_at=None, why="",
    )  # fmt: skip


def asked(app: AppSpec = APP, *, needs: tuple[str, ...] = (), **seen: Any) -> list[tuple[str, str]]:
    view = AppView(**{"name": "a", "wanted": 1, "workers": (), "unavailable": None, "building": False} | seen)
    return askable((app,), PoolView(apps=(view,), zombies=0), lambda app: needs)


def test_an_app_without_a_process_is_asked_unless_it_is_known_that_none_can_come_now() -> None:
    assert asked() == [("a", "/a")]  # on demand: the request brings the first one
    assert asked(workers=(worker(None),)) == [("a", "/a")]
    assert asked(workers=(worker(None),), building=True) == []
    assert asked(workers=(worker(None),), changing=True) == []  # it is being looked at whether it has to be built
    assert asked(needs=("redis",)) == []
    assert asked(unavailable="no compiler") == []
    assert asked(replace(APP, pool=PoolSettings(max_workers=0))) == []


def test_an_app_with_a_process_is_asked_while_its_next_program_is_built() -> None:
    assert asked(workers=(worker(7),), building=True) == [("a", "/a")]


def test_a_site_is_asked_for_its_front_page() -> None:
    assert asked(replace(APP, site=SiteSpec(root="/srv"))) == [("a", "/a/")]


def test_18_the_proxy_is_told_all_that_selection_goes_by_and_how_often_its_file_was_edited() -> None:
    told = {"selection": "/mine.py", "weights": (3, 1), "slow_start": 5.0, "hash": HashSpec(key="path", factor=2.0)}
    apps = (replace(APP, **told), replace(APP, name="b", route="/b"))
    nothing = PoolView(apps=(), zombies=0)
    spec = proxy_spec(LabSpec(apps=apps), ListenerSpec(), nothing, lambda app: (), {"/mine.py": 7, "/other.py": 1})
    mine, other = spec.upstreams
    assert {key: getattr(mine, key) for key in told} == told
    assert (mine.edition, other.edition) == (7, 0)
