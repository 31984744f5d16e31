"""Point 18: a choice that is ended from outside. Real threads, and interruptions that come as often as they can."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.proxy.selection.watchdog import Watchdog
from lab.proxy.selection.written import WrittenPolicy, _load

POLICY = """
import time

class Wait:
    __getitem__ = staticmethod(time.sleep)

class Policy:
    def choose(self, endpoints, request):
        for _ in range(request._seen.turns):
            pass
        wait[request._seen.seconds]
        return endpoints[0]

wait = Wait()
"""
"""Its last wait is in C and none of the steps behind it is one at which an exception may come: so it is still on its
way when `choose` has returned, where it arrives in time at all."""


class Candidate:
    """The least that a policy needs."""

    chosen = in_flight = 0
    weight, ewma = 1.0, 0.0

    def __init__(self, slot: int) -> None:
        self.slot = slot


class Question:
    """It takes `turns` steps to answer, and a wait."""

    turns, seconds = 0, 0.0


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
def test_18_a_choice_that_ends_just_then_is_not_interrupted_afterwards(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    loaded = _load(file, POLICY.encode())
    told: list[str] = []
    policy: WrittenPolicy[Candidate] = WrittenPolicy(str(file), time.monotonic, lambda text, data: told.append(text))
    endpoints = [Candidate(0), Candidate(1)]
    for one in endpoints:
        policy.offered(one)
    question, ended, chosen = Question(), 0, 0
    until = time.monotonic() + 3
    while time.monotonic() < until:
        policy._loaded = loaded
        policy._dog = dog = Watchdog(str(file), every=0.0002, looks=1)
        dog.start()
        while policy._loaded is not None and time.monotonic() < until:
            question.turns = (question.turns + 97) % 4000
            question.seconds = (question.turns % 7) * 0.0001
            policy.choose(endpoints, question)
            chosen += policy._loaded is not None
            for _ in range(200):
                pass  # here an interruption that comes late would be seen
        ended += policy._loaded is None
        dog.stop()
    assert ended > 5
    assert chosen > 5
    assert any("did not return" in text for text in told)


def test_18_the_last_resort_is_ready_from_the_start_until_nobody_watches_any_more():
    def seconds() -> float:
        return signal.getitimer(signal.ITIMER_PROF)[0]

    def threads() -> int:
        return sum(thread.name == "watchdog" for thread in threading.enumerate())

    before = threads()
    one, other = Watchdog("one.py", every=0.01), Watchdog("other.py", every=1000.0)
    other.start()
    assert seconds() > 0
    one.start()
    one.stop()
    while threads() > before + 1:
        time.sleep(0.001)
    assert seconds() > 0, "somebody watches still, who does not look again for long"
    other.stop()
    while threads() > before:
        time.sleep(0.001)
    assert before or seconds() == 0
