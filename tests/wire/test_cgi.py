"""CGI without processes: requests as variables, outputs as responses, whatever bytes they are made of."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.model import Limits
from lab.wire import cgi
from lab.wire.http1 import CHUNKED, BadMessageError, RequestHead, ResponseHead, parse_request

CLIENT = ("127.0.0.1", 4711)
SCRIPT = cgi.Script(b"/srv/app", b"/app", b"/x")


def told(
    fields: bytes = b"", line: bytes = b"GET /app/x?q HTTP/1.1", *, authorized: bool = False
) -> dict[bytes, bytes]:
    request = parse_request(line + b"\r\nHost: [::1]:81\r\n" + fields + b"\r\n", Limits())
    return dict(variables(request, authorized=authorized))


def variables(request: RequestHead, script: cgi.Script = SCRIPT, *, authorized: bool = False) -> cgi.Variables:
    introduced = cgi.of_connection(request.fields.host or b"gateway:80", CLIENT, request.fields.modern)
    return introduced + cgi.of_request(request, script, authorized=authorized)


def test_every_variable_is_there_once():
    request = parse_request(b"GET / HTTP/1.1\r\nHost: x\r\nA: 1\r\na: 2\r\nContent-Type: b\r\n\r\n", Limits())
    found = cgi.constants(80, b"/root", secure=False) + variables(request, authorized=True)
    assert len(dict(found)) == len(found)


def test_the_servers_name_is_the_host_that_was_asked_for_without_its_port():
    assert told()[b"SERVER_NAME"] == b"[::1]"
    old = parse_request(b"GET / HTTP/1.0\r\n\r\n", Limits())
    assert dict(variables(old))[b"SERVER_NAME"] == b"gateway"


def test_cookies_are_joined_by_semicolons_and_other_fields_by_commas():
    found = told(b"Cookie: a=1\r\nCookie: b=2\r\nX: 1\r\nx:  2 \r\n")
    assert (found[b"HTTP_COOKIE"], found[b"HTTP_X"]) == (b"a=1; b=2", b"1, 2")


@pytest.mark.parametrize(
    "fields",
    [b"Proxy: x\r\n", b"a_b: x\r\n", b"a.b: x\r\n", b"TE: x\r\n", b"X-Forwarded-For: x\r\n", b"Expect: x\r\n"],
)
def test_fields_that_could_mislead_a_program_do_not_reach_it(fields):
    assert told(fields) == told()


def test_authorization_is_passed_only_where_it_is_asked_for():
    fields = b"Authorization: Basic x\r\n"
    assert b"HTTP_AUTHORIZATION" not in told(fields)
    assert told(fields, authorized=True)[b"HTTP_AUTHORIZATION"] == b"Basic x"


def test_two_content_types_are_refused():
    with pytest.raises(BadMessageError):
        told(b"Content-Type: a/b\r\nContent-Type: c/d\r\n")


def test_a_document_root_translates_what_follows_the_scripts_name():
    request = parse_request(b"GET / HTTP/1.0\r\n\r\n", Limits())
    script = cgi.Script(b"/srv/a.php", b"/a.php", b"/b", root=b"/srv")
    assert dict(variables(request, script))[b"PATH_TRANSLATED"] == b"/srv/b"


@pytest.mark.parametrize(
    ("route", "target", "name", "path_info"),
    [
        ("/app", b"/app?q=/x", b"/app", b""),
        ("/app", b"/app/a%20b/", b"/app", b"/a b/"),
        ("/app/", b"/app/x", b"/app", b"/x"),
        ("/", b"/x", b"", b"/x"),
    ],
)
def test_what_lies_behind_the_route_is_the_path_info(route, target, name, path_info):
    script = cgi.script_below("/srv/app", route, target)
    assert (script.name, script.path_info) == (name, path_info)


@pytest.mark.parametrize(
    ("location", "local"),
    [(b"/a?b=c", True), (b"/", True), (b"//host/a", False), (b"/a#b", False), (b"http://x/", False), (b"a/b", False)],
)
def test_only_an_absolute_path_is_a_local_redirect(location, local):
    answer = cgi.parse_answer(b"Location: " + location + b"\n\n", 1000)
    assert isinstance(answer.head, cgi.LocalRedirect) is local
    if not local:
        assert answer.head.status == 302


def test_with_a_status_a_location_is_the_clients_affair():
    answer = cgi.parse_answer(b"Status: 303 See Other\nLocation: /a\n\n", 1000)
    assert answer.head.lines == b"HTTP/1.1 303 See Other\r\nLocation: /a\r\n"


def test_a_local_redirect_keeps_the_client_and_drops_the_body():
    fields = b"Host: x\r\nCookie: c\r\nContent-Type: a/b\r\nContent-Length: 3\r\nExpect: 100-continue\r\n"
    request = parse_request(b"POST /a HTTP/1.1\r\n" + fields + b"\r\n", Limits())
    request = cgi.redirected(request, cgi.LocalRedirect(b"/b?c"))
    assert (request.method, request.target, request.fields.length) == (b"GET", b"/b?c", 0)
    assert request.lines == b"GET /b?c HTTP/1.1\r\nHost: x\r\nCookie: c\r\n"


@given(st.binary(max_size=200), st.lists(st.sampled_from([b"Content-Type: a", b"Status: 404", b"X: y"]), max_size=3))
def test_any_output_is_an_answer_incomplete_or_refused_and_never_injects_a_line(noise, fields):
    data = b"\n".join([*fields, noise])
    answer = None
    with contextlib.suppress(BadMessageError):
        answer = cgi.parse_answer(data, 150)
    if answer is not None and isinstance(answer.head, ResponseHead):
        lines = answer.head.lines
        assert lines.count(b"\n") == lines.count(b"\r") == lines.count(b"\r\n")
        assert b"\0" not in lines


@pytest.mark.parametrize("end", range(30))
def test_every_prefix_of_a_header_is_incomplete(end):
    data = b"Content-Type: text/plain\r\n\r\nx"
    answer = cgi.parse_answer(data[:end], 1000)
    assert (answer is None) is (end < len(data) - 1)


def test_a_length_that_is_not_told_is_unknown_and_what_follows_is_the_body():
    answer = cgi.parse_answer(b"Content-Type: a/b\n\nbody", 1000)
    assert (answer.head.length, answer.rest) == (CHUNKED, b"body")


def test_a_header_longer_than_its_limit_is_refused_complete_or_not():
    for data in (b"X: " + b"y" * 100, b"Content-Type: " + b"y" * 100 + b"\n\n"):
        with pytest.raises(BadMessageError, match="longer than 50 bytes"):
            cgi.parse_answer(data, 50)
