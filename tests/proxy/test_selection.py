"""Selection policies, on candidates alone."""

from dataclasses import dataclass

import pytest

from lab import plugins
from lab.core.model import Limits, Selection
from lab.proxy.selection.least_connections import LeastConnections
from lab.proxy.selection.round_robin import RoundRobin
from lab.wire.http1 import parse_request

REQUEST = parse_request(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", Limits())


@dataclass(eq=False)
class Candidate:
    in_flight: int = 0
    chosen: int = 0


def choices(policy, candidates, times, first=1):
    """The places of `times` choices in a row, the first of which has the number `first`."""
    places = []
    for one in candidates if hasattr(policy, "offered") else ():
        policy.offered(one)
    for number in range(first, first + times):
        one = policy.choose(candidates, REQUEST)
        one.chosen = number
        places.append([one is candidate for candidate in candidates].index(True))
    return places


@pytest.mark.parametrize("name", list(Selection))
def test_every_selection_a_manifest_may_name_is_a_plugin_whose_ties_rotate(name):
    policy = plugins.load("cgilab.selection", name)()
    assert choices(policy, [Candidate(), Candidate(), Candidate()], 6) == [0, 1, 2, 0, 1, 2]


def test_round_robin_is_blind_to_load():
    assert choices(RoundRobin(), [Candidate(in_flight=9), Candidate()], 4) == [0, 1, 0, 1]


def test_least_connections_takes_the_idlest_whoever_was_last():
    assert choices(LeastConnections(), [Candidate(in_flight=2), Candidate(in_flight=1)], 3) == [1, 1, 1]


def test_p18_a_newcomer_gets_one_turn_and_then_waits_like_the_rest():
    policy, candidates = RoundRobin(), [Candidate(chosen=7), Candidate(chosen=8), Candidate()]
    assert choices(policy, candidates, 4, first=9) == [2, 0, 1, 2]


def test_p18_who_comes_back_joins_the_end_of_the_line():
    policy, candidates = RoundRobin(), [Candidate(), Candidate(), Candidate()]
    assert choices(policy, candidates, 1) == [0]
    policy.withdrawn(candidates[1])
    policy.offered(candidates[1])
    assert [candidates.index(policy.choose(candidates, REQUEST)) for _ in range(4)] == [2, 0, 1, 2]


def test_p18_round_robin_skips_what_the_request_has_tried():
    policy, candidates = RoundRobin(), [Candidate(), Candidate(), Candidate()]
    for one in candidates:
        policy.offered(one)
    assert policy.choose(candidates[1:], REQUEST) is candidates[1]
    assert [candidates.index(policy.choose(candidates, REQUEST)) for _ in range(3)] == [0, 2, 1]
