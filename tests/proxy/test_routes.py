"""Routes: longest prefix, ending at a slash."""

import pytest

from lab.proxy.routes import Routes

ROUTES = Routes([("/api", "api"), ("/api/search", "search"), ("/files/", "files")])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/api/search", "search"),
        (b"/api/search?q=/api", "search"),
        (b"/api/search/", "search"),
        (b"/api/search/deep", "search"),
        (b"/api/searching", "api"),
        (b"/api", "api"),
        (b"/apix", None),
        (b"/files/a", "files"),
        (b"/", None),
        (b"*", None),
    ],
)
def test_the_longest_prefix_that_ends_at_a_slash_wins(target, expected):
    assert ROUTES.match(target) == expected


def test_a_route_at_the_root_takes_what_no_other_takes():
    routes = Routes([("/", "root"), ("/api", "api")])
    assert [routes.match(target) for target in (b"/", b"/x", b"/api/x", b"/?q")] == ["root", "root", "api", "root"]
