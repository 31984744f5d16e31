"""How many workers a pool is to have, as settings and policy change."""

from hypothesis import given
from hypothesis import strategies as st

from lab.core.model import PoolSettings
from lab.core.states import Policy
from lab.pool.policies import Census
from lab.pool.sizing import Sizing

ONDEMAND = PoolSettings(policy=Policy.ONDEMAND, max_workers=2)


def census(sizing: Sizing) -> Census:
    """All of its workers are busy."""
    return Census(100.0, running=sizing.target)


def starve(sizing: Sizing, may_grow: bool = True):
    return sizing.starved(census(sizing), may_grow=may_grow)


def test_a_pool_begins_as_its_policy_says_within_its_bounds():
    assert Sizing(PoolSettings(max_workers=4)).target == 4
    assert Sizing(PoolSettings(policy=Policy.DYNAMIC, max_workers=4, start_workers=3)).target == 3
    assert Sizing(PoolSettings(policy=Policy.DYNAMIC, max_workers=2, start_workers=3)).target == 2
    assert Sizing(PoolSettings(policy=Policy.DYNAMIC, max_workers=9, start_workers=3, min_workers=5)).target == 5
    assert Sizing(ONDEMAND).target == 0


def test_other_settings_move_it_no_further_than_they_must():
    sizing = Sizing(PoolSettings(max_workers=4))
    sizing.change(PoolSettings(policy=Policy.ONDEMAND, max_workers=9), anew=False)
    assert sizing.target == 4
    sizing.change(PoolSettings(policy=Policy.ONDEMAND, max_workers=3), anew=False)
    assert sizing.target == 3
    sizing.change(PoolSettings(policy=Policy.ONDEMAND, max_workers=3), anew=True)
    assert sizing.target == 0


def test_the_limit_is_told_once_until_the_pool_has_grown():
    sizing = Sizing(ONDEMAND)
    assert [starve(sizing).limited for _ in range(5)] == [False, False, True, False, False]
    assert (sizing.times_limited, sizing.is_full) == (1, True)
    sizing.change(PoolSettings(policy=Policy.ONDEMAND, max_workers=3), anew=False)
    assert not sizing.is_full
    assert [starve(sizing).limited for _ in range(3)] == [False, True, False]
    assert sizing.times_limited == 2


def test_a_pool_that_may_not_grow_does_not():
    sizing = Sizing(ONDEMAND)
    assert starve(sizing, may_grow=False).start == 0
    assert sizing.target == 0


SETTINGS = st.builds(
    PoolSettings,
    policy=st.sampled_from(Policy),
    max_workers=st.integers(0, 9),
    min_workers=st.integers(0, 9),
    start_workers=st.integers(0, 9),
    min_spare=st.integers(0, 5),
    max_spare=st.integers(0, 5),
)


@given(st.lists(st.tuples(SETTINGS, st.sampled_from(["change", "anew", "tick", "starved"])), max_size=40))
def test_it_never_leaves_its_bounds(steps):
    settings = PoolSettings()
    sizing = Sizing(settings)
    for other, deed in steps:
        if deed in ("change", "anew"):
            settings = other
            sizing.change(settings, anew=deed == "anew")
        elif deed == "tick":
            sizing.tick(census(sizing), may_grow=True)
        else:
            starve(sizing)
        assert 0 <= sizing.target <= settings.max_workers
        if settings.policy is Policy.DYNAMIC:
            assert sizing.target >= min(settings.min_workers, settings.max_workers)
