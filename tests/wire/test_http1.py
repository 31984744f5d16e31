"""Heads: strict, total, and of one mind with an independent parser."""

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.core.model import Limits
from lab.wire.http1 import CHUNKED, UNTIL_CLOSE, BadMessageError, parse_request, parse_response

LIMITS = Limits()
BYTES = st.lists(
    st.sampled_from(
        [b"GET", b" ", b"/", b"HTTP/1.1", b"\r\n", b"\n", b"\r", b"Host: x", b"a", b":", b"\x00", b"Content-Length: 1"]
    )
).map(b"".join)


@given(BYTES)
@settings(max_examples=400)
def test_any_bytes_are_a_head_an_incomplete_one_or_refused_and_never_laxer_than_h11(data):
    head = refused = None
    try:
        head = parse_request(data, LIMITS)
    except BadMessageError as bad:
        refused = bad.status
    assert refused in (None, 400, 414, 431, 501, 505)
    if head is not None:
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(data[: head.end])
        assert connection.next_event().target == head.target


@pytest.mark.parametrize("end", range(1, 58))
def test_every_prefix_of_a_head_is_incomplete(end):
    data = b"GET /api/search?q=test HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n"
    head = parse_request(data[:end], LIMITS)
    assert (head is None) is (end < len(data))


def test_a_clean_head_travels_on_unchanged_but_for_its_empty_line():
    data = b"GET /a?b HTTP/1.1\r\nHost: x\r\nCookie: a=b\r\n\r\nrest"
    head = parse_request(data, LIMITS)
    assert head.lines == data[: head.end - 2]
    assert data[head.end :] == b"rest"
    assert (head.target, head.length, head.keep_alive) == (b"/a?b", 0, True)


@pytest.mark.parametrize(
    ("fields", "to_head", "length", "keep_alive"),
    [
        (b"Content-Length: 5\r\n", False, 5, True),
        (b"Content-Length: 5\r\n", True, 0, True),
        (b"Transfer-Encoding: chunked\r\n", False, CHUNKED, True),
        (b"", False, UNTIL_CLOSE, False),
        (b"Content-Length: 5\r\nConnection: close\r\n", False, 5, False),
    ],
)
def test_a_response_is_framed_as_rfc_9112_says(fields, to_head, length, keep_alive):
    head = parse_response(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n", to_head)
    assert (head.length, head.keep_alive) == (length, keep_alive)


def test_what_was_mended_keeps_its_body_where_it_was():
    data = b"HTTP/1.1 200 OK\r\nA   : b\r\nContent-Length: 2\r\n\r\nok"
    head = parse_response(data, False)
    assert data[head.end :] == b"ok"
    assert b"A: b\r\n" in head.lines


def test_a_connection_option_removes_a_field_and_never_a_piece_of_the_start_line():
    request = parse_request(b"GET /a:b HTTP/1.1\r\nHost: x\r\nConnection: a\r\nA: c\r\n\r\n", LIMITS)
    assert request.lines == b"GET /a:b HTTP/1.1\r\nHost: x\r\n"
    response = parse_response(b"HTTP/1.1 200 a:b\r\nConnection: a\r\nContent-Length: 0\r\n\r\n", False)
    assert response.lines == b"HTTP/1.1 200 a:b\r\nContent-Length: 0\r\n"


def test_only_the_request_line_of_an_older_client_is_raised_to_our_version():
    head = parse_request(b"GET http://y/ HTTP/1.0\r\nA: b HTTP/1.0\r\n\r\n", LIMITS)
    assert head.lines == b"GET / HTTP/1.1\r\nHost: y\r\nA: b HTTP/1.0\r\n"
