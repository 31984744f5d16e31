"""A profile is right before anything starts."""

import msgspec
import pytest

from lab.core.errors import NotPossibleError
from lab.load.profiles import Profile, Shape


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"users": 0}, "Found users = 0; expected 1 to 2000."),
        ({"users": 5000}, "Found users = 5000; expected 1 to 2000."),
        ({"rate": -1.0}, "Found rate = -1; expected 0.1 to 10000."),
        ({"seconds": 0.0}, "Found seconds = 0; expected 1 to 3600."),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_the_bounds(wrong: dict[str, float], told: str) -> None:
    with pytest.raises(NotPossibleError) as caught:
        Profile(target="search", **wrong)
    assert str(caught.value) == told


def test_ten_requests_a_second_a_user_are_sent_unless_told_otherwise() -> None:
    assert Profile(target="search", users=20).peak_rate == 200.0


def test_a_rate_is_shared_evenly_by_all_users() -> None:
    assert Profile(target="search", users=20, rate=50.0).user_rate == 2.5


@pytest.mark.parametrize(
    ("shape", "users"),
    [
        (Shape.CONSTANT, [40, 40, 40, 40, 40, 40]),
        (Shape.RAMP, [1, 12, 17, 33, 38, 40]),
        (Shape.SPIKE, [4, 4, 40, 40, 4, 4]),
        (Shape.STEPS, [10, 10, 20, 30, 40, 40]),
    ],
)
def test_each_shape_has_its_curve(shape: Shape, users: list[int]) -> None:
    profile = Profile(target="search", users=40, seconds=12.0, shape=shape)
    assert [profile.users_at(elapsed) for elapsed in (0, 2.9, 4.1, 7.9, 9.1, 11.9)] == users


@pytest.mark.parametrize("shape", Shape)
def test_every_run_has_an_end_and_at_least_one_user_before_it(shape: Shape) -> None:
    profile = Profile(target="search", users=1, seconds=2.0, shape=shape)
    assert profile.users_at(0.0) == 1
    assert profile.users_at(1.99) == 1
    assert profile.users_at(2.0) is None


def test_a_profile_survives_its_way_to_the_child_process() -> None:
    profile = Profile(target="/api/search?q=a%20b", users=3, rate=7.5, seconds=2.5, shape=Shape.STEPS)
    assert msgspec.json.decode(msgspec.json.encode(profile), type=Profile) == profile
