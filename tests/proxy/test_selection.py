"""Selection policies over simulated endpoints: whom they choose, how often, and what they are blind to."""

import random
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import plugins
from lab.core.model import HashSpec
from lab.proxy.ewma import DECAY, PeakEwma
from lab.proxy.manager import UpstreamSpec
from lab.proxy.selection.consistent_hash import ConsistentHash
from lab.proxy.selection.first_available import FirstAvailable
from lab.proxy.selection.least_connections import LeastConnections
from lab.proxy.selection.peak_ewma import PeakEwma as PeakEwmaPolicy
from lab.proxy.selection.random_choice import RandomChoice
from lab.proxy.selection.round_robin import RoundRobin
from lab.proxy.selection.sticky_cookie import StickyCookie
from lab.proxy.selection.two_choices import TwoChoices, two
from lab.proxy.selection.weighted_round_robin import WeightedRoundRobin
from lab.proxy.slow_start import share


@dataclass(eq=False)
class Endpoint:
    slot: int = 0
    in_flight: int = 0
    chosen: int = 0
    weight: float = 1.0
    ewma: float = 0.0
    full: bool = False


@dataclass
class Asking:
    everyone: list[Endpoint]
    client: str = "127.0.0.1"
    path: str = "/"
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    cookies: dict[str, str] = field(default_factory=dict)
    set: str | None = None

    def offers(self, endpoint):
        return not endpoint.full

    def header(self, name):
        return self.headers.get(name.lower())

    def cookie(self, name):
        return self.cookies.get(name)

    def set_cookie(self, cookie):
        self.set = cookie


def spec(**settings):
    return UpstreamSpec(app="app", route="/app", **settings)


class Run:
    """A policy at work on endpoints, as the balancer has it work."""

    def __init__(self, policy, endpoints, **settings):
        self.policy, self.endpoints = policy, endpoints
        self.choices = max((one.chosen for one in endpoints), default=0)
        if hasattr(policy, "configure"):
            policy.configure(spec(**settings))
        if hasattr(policy, "offered"):
            for one in endpoints:
                policy.offered(one)

    def choose(self, asking=None):
        home = self.policy.home(asking or Asking(self.endpoints)) if hasattr(self.policy, "home") else None
        if home is not None:
            return self.endpoints.index(home)
        offered = [one for one in self.endpoints if not one.full]
        chosen = self.policy.choose(offered, asking or Asking(self.endpoints))
        assert chosen in offered
        self.choices += 1
        chosen.chosen = self.choices
        return self.endpoints.index(chosen)

    def times(self, number):
        return [self.choose() for _ in range(number)]


def endpoints(number, **fields):
    return [Endpoint(slot, **fields) for slot in range(number)]


def unlikely(counts, expected):
    """Pearson's chi-square of what was counted, by degree of freedom: about 1 when only chance is at work."""
    return sum((counts[place] - want) ** 2 / want for place, want in enumerate(expected)) / (len(expected) - 1)


@pytest.mark.parametrize("name", ["round_robin", "weighted_round_robin", "least_connections"])
def test_18_ties_rotate(name):
    policy = plugins.load("cgilab.selection", name)()
    assert Run(policy, endpoints(3)).times(6) == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("name", ["two_choices", "peak_ewma"])
def test_18_of_two_that_are_equal_the_one_that_was_chosen_longer_ago_has_the_turn(name):
    policy = plugins.load("cgilab.selection", name)()
    assert all(one != other for one, other in pairwise(Run(policy, endpoints(2)).times(20)))


@pytest.mark.parametrize("name", plugins.names("cgilab.selection"))
@given(st.data())
def test_18_whatever_there_is_a_policy_chooses_what_was_offered(name, data):
    policy = plugins.load("cgilab.selection", name)()
    made = data.draw(
        st.lists(
            st.builds(
                Endpoint,
                in_flight=st.integers(0, 9),
                weight=st.floats(0.1, 100),
                ewma=st.floats(0, 10),
                full=st.booleans(),
            ),
            min_size=2,
            max_size=12,
        )
    )
    for slot, one in enumerate(made):
        one.slot = slot
    made[0].full = made[-1].full = False
    run = Run(policy, made, weights=(100,))
    if hasattr(policy, "withdrawn"):
        for one in made:
            if one.full:
                policy.withdrawn(one)
    run.times(5)


# -- in turn


def test_18_round_robin_is_blind_to_load():
    assert Run(RoundRobin(), [Endpoint(0, in_flight=9), Endpoint(1)]).times(4) == [0, 1, 0, 1]


def test_18_a_newcomer_gets_one_turn_and_then_waits_like_the_rest():
    assert Run(RoundRobin(), [Endpoint(0, chosen=7), Endpoint(1, chosen=8), Endpoint(2)]).times(4) == [2, 0, 1, 2]


def test_18_who_comes_back_joins_the_end_of_the_line():
    made = endpoints(3)
    run = Run(RoundRobin(), made)
    assert run.times(2) == [0, 1]
    run.policy.withdrawn(made[0])
    run.policy.offered(made[0])
    assert run.times(4) == [2, 1, 0, 2]


def test_18_round_robin_passes_over_what_the_request_has_tried():
    made = endpoints(3)
    run = Run(RoundRobin(), made)
    assert run.policy.choose(made[1:], Asking(made)) is made[1]
    assert run.times(3) == [0, 2, 1]


def test_18_weighted_round_robin_is_smooth_as_nginx_has_it():
    made = [Endpoint(0, weight=5), Endpoint(1, weight=1), Endpoint(2, weight=1)]
    assert Run(WeightedRoundRobin(), made).times(14) == [0, 0, 1, 0, 2, 0, 0] * 2


@given(st.lists(st.integers(1, 20), min_size=2, max_size=8))
def test_18_in_each_round_weights_are_kept_exactly(weights):
    made = [Endpoint(slot, weight=weight) for slot, weight in enumerate(weights)]
    run = Run(WeightedRoundRobin(), made)
    for _ in range(2):
        assert [Counter(run.times(sum(weights)))[slot] for slot in range(len(weights))] == weights


# -- by chance


def test_18_random_choice_is_even():
    counts = Counter(Run(RandomChoice(random.Random(1).random), endpoints(10)).times(10_000))
    assert unlikely(counts, [1000] * 10) < 2.5


@pytest.mark.parametrize("heaviest", [8, 100])
def test_18_random_choice_keeps_to_the_weights_also_when_the_heaviest_is_full(heaviest):
    made = [
        Endpoint(0, weight=1),
        Endpoint(1, weight=2),
        Endpoint(2, weight=5),
        Endpoint(3, weight=heaviest, full=True),
    ]
    counts = Counter(Run(RandomChoice(random.Random(2).random), made, weights=(1, 2, 5, heaviest)).times(8_000))
    assert unlikely(counts, [1000, 2000, 5000]) < 5


def test_18_every_pair_is_equally_likely():
    rng, made = random.Random(3), endpoints(5)
    pairs = Counter(frozenset(one.slot for one in two(made, rng.random)) for _ in range(10_000))
    assert set(map(len, pairs)) == {2}
    assert len(pairs) == 10
    assert unlikely(list(pairs.values()), [1000] * 10) < 2.5


def fullest(policy, number=1000):
    """The most that one endpoint gets of as many requests as there are endpoints, none of which ends."""
    made = endpoints(number)
    run = Run(policy, made)
    for _ in range(number):
        made[run.choose()].in_flight += 1
    return max(one.in_flight for one in made)


def test_18_two_choices_are_far_more_even_than_one():
    rng = random.Random(4)
    assert fullest(TwoChoices(rng.random)) <= 4
    assert fullest(RandomChoice(rng.random)) >= 5


# -- by load


def test_18_least_connections_takes_the_idlest_whoever_was_last():
    made = [Endpoint(0, in_flight=2), Endpoint(1, in_flight=1)]
    assert Run(LeastConnections(), made).times(3) == [1, 1, 1]


def test_18_least_connections_counts_load_for_each_weight():
    made = [Endpoint(0, weight=1), Endpoint(1, weight=3)]
    run = Run(LeastConnections(), made, weights=(1, 3))
    for _ in range(80):
        made[run.choose()].in_flight += 1
    assert [one.in_flight for one in made] == [20, 60]


def served(policy, durations, requests=2000, every=0.010):
    """How many requests each endpoint gets that answers in so many seconds, with a request `every` so often."""
    made = endpoints(len(durations))
    run, meters, ends, counts = Run(policy, made), [PeakEwma() for _ in made], [], Counter()
    for number in range(requests):
        now = number * every
        for end, place, took in [end for end in ends if end[0] <= now]:
            ends.remove((end, place, took))
            made[place].in_flight -= 1
            meters[place].record(took, end)
        for one, meter in zip(made, meters, strict=True):
            one.ewma = meter.value(now)
        place = run.choose()
        counts[place] += 1
        made[place].in_flight += 1
        ends.append((now + durations[place], place, durations[place]))
    return [counts[place] for place in range(len(durations))]


@pytest.mark.parametrize("name", ["least_connections", "two_choices", "peak_ewma"])
def test_18_a_slow_endpoint_is_avoided(name):
    fast, slow = served(plugins.load("cgilab.selection", name)(), [0.002, 0.200])
    assert slow < fast / 5


def test_18_round_robin_does_not_notice_a_slow_endpoint():
    assert served(RoundRobin(), [0.002, 0.200]) == [1000, 1000]


def test_18_peak_ewma_notices_slowness_that_leaves_nothing_in_flight():
    counted, measured = (served(policy, [0.001, 0.009]) for policy in (LeastConnections(), PeakEwmaPolicy()))
    assert counted == [1000, 1000]
    assert measured[1] < 100


def test_18_peak_ewma_tries_again_when_the_peak_has_faded():
    meter = PeakEwma()
    meter.record(0.010, 0)
    meter.record(5.0, 1)
    assert meter.value(1) == 5.0, "a peak is believed at once"
    meter.record(0.010, 2)
    assert 4 < meter.value(2) < 5, "and forgotten slowly"
    assert meter.value(2 + 10 * DECAY) < 0.001


def test_18_a_quick_failure_is_no_praise_and_a_late_one_is_a_warning():
    meter = PeakEwma()
    meter.record(0.5, 0)
    meter.at_least(0.001, 0)
    assert meter.value(0) == 0.5
    meter.at_least(2.0, 0)
    assert meter.value(0) == 2.0


def test_18_an_endpoint_that_has_never_answered_is_not_flooded():
    made = [Endpoint(0, ewma=0.1), Endpoint(1, in_flight=1)]
    assert Run(PeakEwmaPolicy(), made).choose() == 0


def test_18_first_available_packs():
    made = endpoints(4)
    run = Run(FirstAvailable(), made)
    assert run.times(3) == [0, 0, 0]
    made[0].full = True
    assert run.times(2) == [1, 1]


def test_18_first_available_knows_who_comes_and_goes_in_whatever_order():
    made = [Endpoint(slot) for slot in (2, 0, 1, 1)]  # a worker and its successor have the same slot
    policy = FirstAvailable()
    asking = Asking(made)
    for one in made:
        policy.offered(one)
    for gone, first in ((1, 2), (3, 2), (2, 0)):
        policy.withdrawn(made[gone])
        assert policy.choose(made, asking) is made[first]
    policy.offered(made[3])
    assert policy.choose(made, asking) is made[3]


def test_18_slow_start_grows_from_a_tenth_to_all():
    assert share(0, 10) == pytest.approx(0.1)
    assert share(5, 10) == pytest.approx(0.55)
    assert (share(10, 10), share(99, 10), share(0, 0)) == (1, 1, 1)


# -- the same to the same


def homes(made, keys=2000, **settings):
    """Where each key goes when nothing is in flight."""
    run = Run(ConsistentHash(), made, **settings)
    return [run.choose(Asking(made, client=f"10.0.{key // 250}.{key % 250}")) for key in range(keys)]


def test_18_equal_keys_go_to_the_same_endpoint_in_every_process():
    assert homes(endpoints(5)) == homes(endpoints(5))
    assert homes(endpoints(3), keys=12) == [0, 2, 2, 1, 2, 2, 1, 0, 2, 2, 1, 1]


@pytest.mark.parametrize("gone", [0, 3, 9])
def test_18_when_one_of_n_leaves_its_own_keys_move_and_no_others(gone):
    made = endpoints(10)
    before = homes(made)
    after = homes([one for one in made if one.slot != gone])
    moved = [was for was, now in zip(before, after, strict=True) if was != now + (now >= gone)]
    assert set(moved) == {gone}
    assert len(moved) == Counter(before)[gone] < 2 * len(before) / 10


def test_18_keys_are_shared_out_about_evenly():
    counts = Counter(homes(endpoints(10), keys=5000))
    assert 300 < min(counts.values()) <= max(counts.values()) < 750


@given(st.lists(st.integers(0, 3), min_size=1, max_size=300), st.sampled_from([1.05, 1.25, 2.0]), st.integers(2, 9))
def test_18_nobody_gets_more_than_the_bound_however_famous_a_key_is(keys, factor, number):
    made = endpoints(number)
    run = Run(ConsistentHash(), made, hash=HashSpec(factor=factor))
    for total, key in enumerate(keys, start=1):
        place = run.choose(Asking(made, client=str(key)))
        made[place].in_flight += 1
        assert made[place].in_flight <= -(-factor * total // number)


def test_18_a_full_endpoints_keys_go_on_along_the_ring_and_come_back():
    made = endpoints(4)
    before = homes(made)
    made[1].full = True
    meanwhile = homes(made)
    assert all(now == was for was, now in zip(before, meanwhile, strict=True) if was != 1)
    assert len({now for was, now in zip(before, meanwhile, strict=True) if was == 1}) == 3
    made[1].full = False
    assert homes(made) == before


@pytest.mark.parametrize(
    ("key", "same", "other"),
    [
        ("path", {"path": "/b", "client": "9"}, {"path": "/a", "client": "1"}),
        ("header:X-User", {"headers": {"x-user": "b"}, "client": "9"}, {"headers": {"x-user": "a"}, "client": "1"}),
        ("cookie:user", {"cookies": {"user": "b"}, "client": "9"}, {"cookies": {"user": "a"}, "client": "1"}),
        ("header:X-User", {"client": "b"}, {"client": "a"}),
    ],
)
def test_18_what_is_hashed_is_a_setting(key, same, other):
    made = endpoints(100)
    run, by_client = Run(ConsistentHash(), made, hash=HashSpec(key=key)), Run(ConsistentHash(), made)
    assert run.choose(Asking(made, **same)) == by_client.choose(Asking(made, client=same.get("path", "b")))
    assert run.choose(Asking(made, **same)) != run.choose(Asking(made, **other))


# -- sessions


def cookie_of(asking):
    """Name and value of the cookie that an answer brings."""
    assert asking.set is not None
    return asking.set.partition(";")[0].split("=")


def visit(run, cookies, **asking):
    """A request with these cookies; what the answer sets is kept. Returns where it went."""
    request = Asking(run.endpoints, cookies=cookies, **asking)
    place = run.choose(request)
    run.policy.assigned(run.endpoints[place], request)
    if request.set is not None:
        name, value = cookie_of(request)
        cookies[name] = value
    return place


def test_18_a_client_with_a_cookie_stays_and_clients_without_are_spread():
    run = Run(StickyCookie(), endpoints(3))
    jars = [{} for _ in range(6)]
    first = [visit(run, jar) for jar in jars]
    assert first == [0, 1, 2, 0, 1, 2]
    run.endpoints[0].in_flight = 50
    for _ in range(3):
        assert [visit(run, jar) for jar in jars] == first
    assert len({tuple(jar.items()) for jar in jars}) == 3


def test_18_the_cookie_is_set_once_and_says_nothing():
    run = Run(StickyCookie(), endpoints(3))
    asking = Asking(run.endpoints)
    run.policy.assigned(run.endpoints[1], asking)
    name, value = cookie_of(asking)
    assert asking.set == f"{name}={value}; Path=/app; HttpOnly; SameSite=Lax"
    assert len(value) == 32
    again = Asking(run.endpoints, cookies={name: value}, set="left over")
    run.policy.assigned(run.endpoints[1], again)
    assert again.set is None
    other = Run(StickyCookie(), endpoints(3))
    asking = Asking(other.endpoints)
    other.policy.assigned(other.endpoints[1], asking)
    assert cookie_of(asking)[1] != value, "another lab has another key"


def test_18_a_cookie_that_nobody_gave_is_ignored_and_replaced():
    run = Run(StickyCookie(), endpoints(3))
    jar = {"cgilab-app": "1"}
    place = visit(run, jar)
    assert jar["cgilab-app"] != "1"
    assert visit(run, jar) == place


def test_18_clients_of_a_worker_that_is_gone_move_and_are_told():
    run, jar = Run(StickyCookie(), endpoints(3)), {}
    home, before = visit(run, jar), dict(jar)
    run.endpoints = [one for one in run.endpoints if one.slot != home]
    moved = run.endpoints[visit(run, jar)].slot
    assert moved != home
    assert jar != before
    run.endpoints.insert(home, Endpoint(home))
    assert visit(run, jar) == moved, "its successor does not get them back"


def test_18_endpoints_of_different_policies_have_about_the_same_share():
    """A sanity check over all: nobody is forgotten when everybody is equal."""
    for name in (
        "round_robin",
        "weighted_round_robin",
        "random_choice",
        "least_connections",
        "two_choices",
        "peak_ewma",
    ):
        random.seed(5)
        counts = Counter(Run(plugins.load("cgilab.selection", name)(), endpoints(8)).times(4000))
        assert mean(counts.values()) == 500
        assert 400 < min(counts.values()) <= max(counts.values()) < 600, name
