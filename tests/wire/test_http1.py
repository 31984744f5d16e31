"""Heads: strict, total, and of one mind with an independent parser."""

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.core.model import Limits
from lab.wire.http1 import (
    CHUNKED,
    UNTIL_CLOSE,
    BadMessageError,
    parse_request,
    parse_response,
    repeated,
    section_of,
)
from tests.conformance.messages import FIELDS, METHODS, TARGETS

LIMITS = Limits()
MORE_FIELDS = st.sampled_from([b"X-Request-Id: a", b"TE: trailers", b"Connection: upgrade\r\nUpgrade: websocket"])
SECTIONS = st.lists(st.one_of(FIELDS, MORE_FIELDS), max_size=5).map(
    lambda fields: b"".join(field + b"\r\n" for field in [b"Host: x", *fields])
)
REQUEST_LINES = st.one_of(
    st.tuples(METHODS, TARGETS, st.sampled_from([b"1.1", b"1.1", b"1.0", b"1.2", b"2.0"])).map(
        lambda parts: b"%b %b HTTP/%b\r\n" % parts
    ),
    st.sampled_from(
        [b"\r\nGET / HTTP/1.1\r\n", b"GET /a b HTTP/1.1\r\n", b"CONNECT /x HTTP/1.1\r\n", b"TRACE / HTTP/1.1\r\n"]
    ),
    st.integers(150, 250).map(lambda length: b"GET /" + b"a" * length + b" HTTP/1.1\r\n"),
)
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
    assert (head.target, head.fields.length, head.fields.keep_alive) == (b"/a?b", 0, True)


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


def heard(data, limits):
    """The head that `data` begins with, or None for what is not one."""
    try:
        return parse_request(data, limits)
    except BadMessageError:
        return None


@given(first=REQUEST_LINES, later=REQUEST_LINES, section=SECTIONS, other=SECTIONS, change=st.booleans())
@settings(max_examples=1500, deadline=None)
def test_what_is_known_of_a_section_of_fields_never_changes_what_a_request_is(first, later, section, other, change):
    limits = Limits(request_line=240)
    head = heard(first + section + b"\r\n", limits)
    known = head and section_of(first + section + b"\r\n", head, limits)
    if known is not None:
        following = later + (other if change else section) + b"\r\n"
        found = repeated(following + b"behind it", known, limits)
        assert found is None or found == heard(following, limits)


def test_a_client_that_repeats_itself_is_known_again_unless_it_may_not_be():
    data = b"GET /a HTTP/1.1\r\nHost: x\r\nCookie: a=b\r\nConnection: keep-alive\r\n\r\n"
    known = section_of(data, parse_request(data, LIMITS), LIMITS)
    again = b"DELETE /longer?b HTTP/1.1\r\n" + data[data.index(b"\n") + 1 :]
    assert repeated(again, known, LIMITS) == parse_request(again, LIMITS) is not None
    assert repeated(again[:-1], known, LIMITS) is None
    assert repeated(again, known, Limits(fields=1)) is None
    assert repeated(again.replace(b"/longer", b"/" + b"a" * 9000), known, LIMITS) is None
    assert repeated(again.replace(b"HTTP/1.1", b"HTTP/1.0"), known, LIMITS) is None


@pytest.mark.parametrize(
    "fields",
    [
        *(b"Connection: close", b"Connection: keep-alive, x\r\nX: y", b"Connection: upgrade\r\nUpgrade: websocket"),
        *(
            b"Content-Length: 3",
            b"Transfer-Encoding: chunked",
            b"Expect: 100-continue",
            b"TE: trailers",
            b"X-Request-Id: a",
        ),
        *(b"X-Forwarded-For: 1.2.3.4", b"Forwarded: for=x", b"Proxy: x", b"Cookie: a=b"),
    ],
)
def test_nothing_that_fields_say_is_lost_when_they_are_known(fields):
    data = b"POST /a HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n\r\n"
    known = section_of(data, parse_request(data, LIMITS), LIMITS)
    again = data.replace(b"/a", b"/longer?b", 1)
    assert repeated(again, known, LIMITS) == parse_request(again, LIMITS) is not None


STATUS_LINES = st.sampled_from(
    [b"200 OK", b"200", b"200 ", b"404 Not Found", b"304 Not Modified", b"204 No Content", b"205 R", b"100 Continue"]
)
ANSWER_FIELDS = st.sampled_from(
    [
        *(
            b"Date: Sat, 21 Nov 2026 18:00:00 GMT",
            b"dAtE: x",
            b"Dated: x",
            b"D: x",
            b"Content-Length: 5",
            b"CONTENT-LENGTH:5 ",
        ),
        *(
            b"Content-Type: a/b",
            b"Content-Lengths: 9",
            b"X-Request-Id: a",
            b"X-Requested: b",
            b"Connected: x",
            b"T: x",
            b"Te: x",
        ),
        *(
            b"Upgraded: no",
            b"Keep: x",
            b"Keep-Alive: timeout=5",
            b"Proxy: x",
            b"Cache-Control: max-age=3",
            b"Set-Cookie: a=b; Path=/",
        ),
    ]
)


@given(status=STATUS_LINES, fields=st.lists(ANSWER_FIELDS, max_size=6), place=st.integers(0, 6), to_head=st.booleans())
@settings(max_examples=1500, deadline=None)
def test_a_simple_answer_means_the_same_as_one_that_has_to_be_looked_at_closely(status, fields, place, to_head):
    def heard_as(lines):
        data = b"".join(line + b"\r\n" for line in [b"HTTP/1.1 " + status, *lines, b""])
        try:
            head = parse_response(data + b"body", to_head)
        except BadMessageError as bad:
            return bad.status
        assert head is None or data.startswith(head.lines[:13])
        return head and (
            head.status,
            head.length,
            head.keep_alive,
            head.lines,
            head.dated,
            head.named,
            len(data) - head.end,
        )

    # A field for the neighbour alone is cut out, and keeps the quick expression from matching.
    assert heard_as(fields) == heard_as([*fields[:place], b"Proxy-Connection: x", *fields[place:]])
    names = [field.partition(b":")[0].lower() for field in fields]
    if isinstance(found := heard_as(fields), tuple):
        assert (found[4], found[5]) == (b"date" in names, b"x-request-id" in names)
