"""Questions about health: what counts as an answer, and what as a right one."""

import pytest

from lab.wire import fastcgi
from lab.wire.question import Get, GetValues, unanswered

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
VALUES = fastcgi.record(fastcgi.Kind.GET_VALUES_RESULT, 0, fastcgi.pair(b"FCGI_MAX_CONNS", b"1"))


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (OK, ""),
        (b"HTTP/1.0 204 No Content\r\n\r\n", ""),
        (HINTS + OK, ""),
        (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", "answered GET /health with status 500"),
        (b"HTTP/1.1 301 No\r\nContent-Length: 0\r\n\r\n", "answered GET /health with status 301"),
        (b"hello\r\n\r\n", "answered GET /health with b'hello\\r\\n\\r\\n', which is not HTTP"),
        (b"HTTP/1.1 200 OK\r\n", "answered GET /health with b'HTTP/1.1 200 OK\\r\\n', which is not HTTP"),
        (b"HTTP/1.1 200 OK\n\nok", "answered GET /health with b'HTTP/1.1 200 OK\\n\\nok', which is not HTTP"),
        (HINTS, f"answered GET /health with {HINTS[:40]!r}, which is not HTTP"),
    ],
)
def test_22_an_answer_is_read_as_strictly_as_the_gateway_reads_one(answer, wrong):
    assert Get("/health").wrong(answer) == wrong


@pytest.mark.parametrize("before", [b"", HINTS, HINTS + HINTS])
@pytest.mark.parametrize("answer", [OK, b"HTTP/1.1 204 No\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
def test_an_answer_is_whole_at_its_last_byte_and_not_before(before, answer):
    question, data = Get("/"), before + answer
    assert [end for end in range(len(data) + 1) if question.is_whole(data[:end])] == [len(data)]


def test_an_answer_that_ends_with_its_connection_is_whole_only_then():
    assert not Get("/").is_whole(b"HTTP/1.0 200 OK\r\n\r\nany number of bytes")


def test_nobody_waits_for_the_rest_of_what_is_wrong_already():
    assert Get("/").is_whole(b"hello")
    assert GetValues().is_whole(OK)


def test_a_fastcgi_worker_has_to_answer_in_its_own_language():
    question = GetValues()
    assert [end for end in range(len(VALUES) + 1) if question.is_whole(VALUES[:end])] == [len(VALUES)]
    assert question.wrong(VALUES) == ""
    assert question.wrong(OK) == f"answered FCGI_GET_VALUES with {OK!r}, which is not FCGI_GET_VALUES_RESULT"
    assert "which is not" in question.wrong(VALUES[:-1])


def test_a_question_is_one_request_that_asks_for_no_second_one():
    words = Get("/health?deep=1", "[::1]:80").words
    assert words.startswith(b"GET /health?deep=1 HTTP/1.1\r\nHost: [::1]:80\r\n")
    assert words.endswith(b"\r\nConnection: close\r\n\r\n")


def test_silence_is_told_with_the_question_and_the_time():
    assert unanswered(Get("/health"), 0.5) == "did not answer GET /health within 0.5 s"
