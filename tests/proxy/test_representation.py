"""What of a file is sent, rule by rule of RFC 9110."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.model import Limits
from lab.proxy.representation import Answer, Representation
from lab.wire.http1 import RequestHead, parse_request

MODIFIED = 1_700_000_000
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
LATER = "Tue, 14 Nov 2023 22:13:21 GMT"
EARLIER = "Tue, 14 Nov 2023 22:13:19 GMT"
FILE = Representation("/srv/style.css", 1000, MODIFIED * 1_000_000_000 + 5)
ETAG = FILE.etag.decode()


def ask(*fields: str, method: str = "GET") -> RequestHead:
    head = "\r\n".join([f"{method} /style.css HTTP/1.1", "Host: x", *fields]) + "\r\n\r\n"
    request = parse_request(head.encode(), Limits())
    assert request is not None
    return request


def answer(*fields: str, method: str = "GET", file: Representation = FILE) -> Answer:
    return file.answer(ask(*fields, method=method))


def status(answer: Answer) -> int:
    return int(answer.head.split()[1])


def body(answer: Answer) -> tuple[int, int]:
    return answer.start, answer.start + answer.length


def test_the_whole_file_comes_with_its_type_its_length_and_both_validators() -> None:
    whole = answer()
    assert (status(whole), body(whole)) == (200, (0, 1000))
    for field in (
        "Content-Type: text/css; charset=utf-8",
        "Content-Length: 1000",
        f"Last-Modified: {DATE}",
        f"ETag: {ETAG}",
        "Accept-Ranges: bytes",
    ):
        assert f"\r\n{field}\r\n".encode() in whole.head


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.html", "text/html; charset=utf-8"),
        ("a.png", "image/png"),
        ("a.js", "javascript"),
        ("a.tar.gz", "application/gzip"),
        ("a", "application/octet-stream"),
    ],
)
def test_the_type_is_that_of_the_suffix(name: str, kind: str) -> None:
    assert kind in Representation(name, 1, 0).media_type


@pytest.mark.parametrize("tags", [ETAG, f"W/{ETAG}", "*", f'"other", {ETAG}', f'"a,b",{ETAG}', f'"",W/{ETAG}'])
def test_a_known_tag_brings_304_without_a_body(tags: str) -> None:
    known = answer(f"If-None-Match: {tags}")
    assert (status(known), known.length) == (304, 0)
    assert b"ETag:" in known.head
    assert b"Content-Length" not in known.head


def test_an_unknown_tag_brings_the_file_whatever_the_date_says() -> None:
    assert status(answer('If-None-Match: "other"', f"If-Modified-Since: {LATER}")) == 200


@pytest.mark.parametrize(
    ("since", "expected"), [(EARLIER, 200), (DATE, 304), (LATER, 304), ("yesterday", 200), ("\xff", 200), ("", 200)]
)
def test_a_date_brings_304_unless_the_file_is_newer(since: str, expected: int) -> None:
    head = ask().lines + b"If-Modified-Since: " + since.encode("latin-1") + b"\r\n"
    request = parse_request(head + b"\r\n", Limits())
    assert request is not None
    assert status(FILE.answer(request)) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([f"If-Match: {ETAG}"], 200),
        ([f'If-Match: "other", {ETAG}'], 200),
        (["If-Match: *"], 200),
        ([f"If-Match: W/{ETAG}"], 412),
        (['If-Match: "other"'], 412),
        ([f"If-Unmodified-Since: {DATE}"], 200),
        ([f"If-Unmodified-Since: {EARLIER}"], 412),
        (["If-Unmodified-Since: yesterday"], 200),
        ([f"If-Match: {ETAG}", f"If-Unmodified-Since: {EARLIER}"], 200),
        (['If-Match: "other"', f"If-None-Match: {ETAG}"], 412),
    ],
)
def test_a_client_that_speaks_of_an_earlier_version_is_told_so(fields: list[str], expected: int) -> None:
    assert status(answer(*fields)) == expected


@pytest.mark.parametrize(
    ("wanted", "first", "behind"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=990-", 990, 1000),
        ("bytes=990-5000", 990, 1000),
        ("bytes=-10", 990, 1000),
        ("bytes=-5000", 0, 1000),
        ("Bytes=5-5", 5, 6),
    ],
)
def test_a_range_is_sent_alone(wanted: str, first: int, behind: int) -> None:
    part = answer(f"Range: {wanted}")
    assert (status(part), body(part)) == (206, (first, behind))
    assert f"Content-Range: bytes {first}-{behind - 1}/1000\r\n".encode() in part.head
    assert f"Content-Length: {behind - first}\r\n".encode() in part.head


@pytest.mark.parametrize("wanted", ["bytes=1000-", "bytes=5000-6000", "bytes=-0"])
def test_a_range_behind_the_end_cannot_be_had(wanted: str) -> None:
    refused = answer(f"Range: {wanted}")
    assert (status(refused), refused.length) == (416, 0)
    assert b"Content-Range: bytes */1000\r\n" in refused.head


@pytest.mark.parametrize("wanted", ["bytes=5-4", "bytes=-", "bytes=0-1,3-4", "lines=1-2", "bytes=a-b", "bytes=0x1-2"])
def test_a_range_that_is_none_is_ignored(wanted: str) -> None:
    assert body(answer(f"Range: {wanted}")) == (0, 1000)


@pytest.mark.parametrize(("known", "expected"), [(ETAG, 206), (DATE, 206), ('"other"', 200), (f"W/{ETAG}", 200)])
def test_a_range_of_another_version_brings_the_whole_file(known: str, expected: int) -> None:
    assert status(answer("Range: bytes=0-9", f"If-Range: {known}")) == expected


def test_a_head_request_is_told_of_the_whole_file() -> None:
    assert status(answer("Range: bytes=0-9", method="HEAD")) == 200


def test_a_file_that_the_client_has_is_not_sent_in_part_either() -> None:
    assert status(answer("Range: bytes=0-9", f"If-None-Match: {ETAG}")) == 304


def test_another_size_or_time_is_another_tag() -> None:
    tags = {Representation("a", size, time).etag for size in range(10) for time in range(10)}
    assert len(tags) == 100


@given(wanted=st.text(st.sampled_from("bytes=0123456789-, "), max_size=20), size=st.integers(0, 50))
def test_no_range_reaches_beyond_the_file(wanted: str, size: int) -> None:
    part = answer(f"Range: {wanted}", file=Representation("a", size, 0))
    assert 0 <= part.start <= size
    assert part.start + part.length <= size
