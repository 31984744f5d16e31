"""The corpora as they are: smuggling classics, other protocols, and answers that no client may see as they came."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.conformance.messages import ours
from tests.fuzz import OK, Arena, check_answer, dressed, seeds


@pytest.fixture
async def arena(tmp_path: Path) -> AsyncIterator[Arena]:
    arena = Arena(tmp_path)
    await arena.open()
    yield arena
    await arena.close()


def files(*kinds: str) -> Callable[..., object]:
    """Each file of these corpora."""
    found = [pytest.param(kind, data, id=f"{kind}-{name}") for kind in kinds for name, data in seeds(kind).items()]
    return pytest.mark.parametrize(("kind", "data"), found)


@files("requests", "chunked")
async def test_01_what_a_client_may_send_harms_nobody_and_smuggles_nothing(arena, kind, data):
    sent = dressed(kind, data)
    got = await arena.suffer(sent)
    sent_on = [(method, target) for method, target, *_ in ours(sent.request)]
    assert arena.reached == sent_on[: len(arena.reached)]
    assert got.count(OK) <= len(sent_on)


@files("responses", "chunked", "fastcgi")
async def test_10_what_a_worker_may_say_harms_nobody_and_is_one_answer(arena, kind, data):
    sent = dressed(kind, data, to_client=True)
    check_answer(await arena.suffer(sent))
