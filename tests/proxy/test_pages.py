"""Who may look at the gateway's own pages."""

import pytest

from lab.proxy.backends.python_builtin.pages import may_look


@pytest.mark.parametrize(
    ("peer", "networks", "may"),
    [
        ("127.0.0.1", (), True),
        ("127.3.2.1", (), True),
        ("::1", (), True),
        ("::ffff:127.0.0.1", (), True),
        ("192.168.1.5", (), False),
        ("::ffff:192.168.1.5", (), False),
        ("192.168.1.5", ("192.168.1.0/24",), True),
        ("::ffff:192.168.1.5", ("192.168.1.0/24",), True),
        ("192.168.2.5", ("192.168.1.0/24", "10.0.0.1"), False),
        ("10.0.0.1", ("192.168.1.0/24", "10.0.0.1"), True),
        ("fe80::1%eth0", (), False),
        ("2001:db8::1", ("2001:db8::/32",), True),
        ("", (), False),
    ],
)
def test_28_pages_are_for_this_machine_and_the_networks_that_are_named(peer, networks, may):
    assert may_look(peer, networks) is may
