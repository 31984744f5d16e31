"""Bodies: whatever the segments, the payload is the same, and nothing behind the end is lost."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.wire.bodies import LAST_CHUNK, ChunkedBody, CountedBody, chunk
from lab.wire.http1 import BadMessageError


def feed(body, data, cuts):
    """The payload of `data`, fed in pieces cut at `cuts`; the pieces after the end are what the body left."""
    payload, left, places = b"", b"", sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for begin, end in pairwise(places):
        piece = data[begin:end]
        if body.done:
            left += piece
        else:
            payload += body.feed(piece)
            left += body.rest
    return payload, left


@given(
    st.lists(st.binary(max_size=40), max_size=6),
    st.lists(st.integers(min_value=0, max_value=400)),
    st.binary(max_size=9),
)
def test_chunks_come_out_as_they_went_in_however_they_are_cut(pieces, cuts, behind):
    data = b"".join(map(chunk, pieces)) + LAST_CHUNK + b"A: b\r\nHost: x\r\n\r\n" + behind
    body = ChunkedBody(400)
    assert feed(body, data, cuts) == (b"".join(pieces), behind)
    assert body.done
    assert body.trailers == b"A: b\r\n"


@given(st.binary(max_size=40), st.lists(st.integers(min_value=0, max_value=60)), st.binary(max_size=9))
def test_a_counted_body_ends_after_its_bytes(payload, cuts, behind):
    body = CountedBody(len(payload))
    assert feed(body, payload + behind, cuts) == (payload, behind)
    assert body.done


@given(st.integers(min_value=0, max_value=30))
def test_a_bad_chunk_is_refused_at_every_cut(cut):
    data = b"3;ext=1\r\nabc\r\n0x4\r\nabcd\r\n0\r\n\r\n"
    body = ChunkedBody(400)
    with pytest.raises(BadMessageError):
        for piece in (data[:cut], data[cut:]):
            body.feed(piece)


def test_extensions_are_bounded_over_the_whole_body():
    body = ChunkedBody(400)
    with pytest.raises(BadMessageError, match="extensions"):
        for _ in range(100):
            body.feed(b"1;" + b"e" * 500 + b"\r\nx\r\n")


def test_an_empty_payload_is_no_chunk_for_that_would_end_the_body():
    assert chunk(b"") == b""
