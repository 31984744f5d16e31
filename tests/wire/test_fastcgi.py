"""FastCGI records: both sides understand each other however the bytes are cut, and neither believes nonsense."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.wire import fastcgi
from lab.wire.fastcgi import Aborted, Application, Begun, Body, Ending, Kind, Reply
from lab.wire.http1 import BadMessageError

NAMES = st.binary(min_size=1, max_size=300)
PARAMS = st.dictionaries(NAMES, st.binary(max_size=300), max_size=20)
CONTENT = st.one_of(st.binary(max_size=300), st.integers(65_530, 70_000).map(lambda size: b"x" * size))


def segments(data, draw):
    """`data` in pieces of random lengths."""
    pieces = []
    while data:
        size = draw(st.integers(1, len(data)))
        pieces.append(data[:size])
        data = data[size:]
    return pieces


def served(application, pieces):
    return [event for piece in pieces for event in application.feed(piece)]


@given(st.data(), PARAMS, CONTENT, st.booleans())
@settings(max_examples=60, deadline=None)
def test_an_application_receives_the_request_that_the_web_server_sent_however_it_is_cut(draw, params, content, keep):
    pairs = [fastcgi.pair(name, value) for name, value in params.items()]
    sent = fastcgi.request_head(pairs, keep) + fastcgi.stream(Kind.STDIN, content) + fastcgi.STDIN_END
    begun, *body = served(Application({}), segments(sent, draw.draw))
    assert begun == Begun(params, keep)
    assert b"".join(one.piece for one in body) == content
    assert body[-1] == Body(b"")


@given(st.data(), CONTENT, st.binary(max_size=300), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_web_server_receives_the_answer_that_the_application_sent_however_it_is_cut(draw, content, errors, status):
    application = Application({})
    application.feed(fastcgi.request_head([], keep=True) + fastcgi.STDIN_END)
    application.write(content)
    application.write(errors, Kind.STDERR)
    application.end_request(status)
    reply = Reply()
    assert b"".join(reply.feed(piece) for piece in segments(application.take(), draw.draw)) == content
    assert (reply.done, reply.rest, reply.errors, reply.app_status) == (True, False, errors, status)


@given(
    st.lists(st.sampled_from([b"\x01", b"\x00", b"\x06", b"\x07", b"\x03", b"\x00\x01", b"\x00\x08", b"abc", b"\x02"]))
)
@settings(max_examples=300)
def test_any_bytes_are_records_incomplete_or_refused_by_both_sides(pieces):
    for reader, statuses in ((Reply(), {502}), (Application({}), {400, 431})):
        refused = None
        try:
            for piece in pieces:
                reader.feed(piece)
        except BadMessageError as bad:
            refused = bad.status
        assert refused is None or refused in statuses


SENT = st.builds(
    fastcgi.record,
    st.one_of(st.sampled_from([Kind.STDOUT, Kind.STDERR, Kind.END_REQUEST]), st.integers(0, 12)),
    st.sampled_from([1, 1, 1, 1, 0, 2]),
    st.one_of(st.just(bytes(8)), st.binary(max_size=20)),
)


@given(st.data(), st.lists(SENT, max_size=8))
@settings(max_examples=200, deadline=None)
def test_whatever_records_come_and_however_they_are_cut_the_answer_is_the_same(draw, records):
    def heard(pieces):
        reply, output = Reply(), b""
        try:
            for piece in pieces:
                output += reply.feed(piece)
        except BadMessageError as bad:
            return bad.detail
        return output, reply.done, reply.rest, reply.errors, reply.app_status, reply.ending

    sent = b"".join(records)
    assert heard(segments(sent, draw.draw)) == heard([sent])


@given(st.data(), st.lists(SENT, max_size=8))
@settings(max_examples=200, deadline=None)
def test_whatever_records_come_and_however_they_are_cut_an_application_hears_the_same(draw, records):
    def heard(pieces):
        application = Application({"FCGI_MPXS_CONNS": "0"})
        try:
            events = served(application, pieces)
        except BadMessageError as bad:
            return bad.detail
        return events, application.take()

    sent = begin(1) + b"".join(records)
    assert heard(segments(sent, draw.draw)) == heard([sent])


def test_every_record_is_padded_to_a_multiple_of_eight_and_content_of_any_length_survives():
    for size in (0, 1, 7, 8, 9, fastcgi.LARGEST):
        data = fastcgi.record(Kind.STDOUT, 1, bytes(size))
        assert len(data) % 8 == 0
        assert fastcgi.Records(502).feed(data)[0].content == bytes(size)


def test_no_name_value_pair_is_split_over_two_records_because_php_cannot_read_that():
    pairs = [fastcgi.pair(b"N%d" % number, b"v" * 30_000) for number in range(5)]
    records = fastcgi.Records(400).feed(fastcgi.params(pairs))
    assert records[-1].content == b""
    contents = [one.content for one in records[:-1]]
    assert len(contents) > 1
    assert sum(len(fastcgi.parse_pairs(content, 400)) for content in contents) == 5


def test_a_pair_that_fits_into_no_record_is_refused_with_431():
    with pytest.raises(BadMessageError) as refused:
        fastcgi.params([fastcgi.pair(b"N", bytes(fastcgi.LARGEST))])
    assert refused.value.status == 431


@pytest.mark.parametrize(("size", "length"), [(127, 1), (128, 4)])
def test_lengths_up_to_127_take_one_byte_and_others_four(size, length):
    assert len(fastcgi.pair(b"", bytes(size))) == 1 + length + size


@pytest.mark.parametrize("content", [b"\x05", b"\x01\x05a", b"\x80\x00\x00", b"\x01\xff\xff\xff\xffa"])
def test_torn_pairs_are_refused(content):
    with pytest.raises(BadMessageError):
        fastcgi.parse_pairs(content, 400)


def test_an_application_tells_the_variables_that_it_was_asked_for_and_knows():
    application = Application({"FCGI_MPXS_CONNS": "0", "FCGI_MAX_REQS": "1"})
    question = fastcgi.get_values(["FCGI_MPXS_CONNS", "FCGI_MAX_CONNS"])
    assert application.feed(question) == []
    assert fastcgi.values(application.take()) == {"FCGI_MPXS_CONNS": "0"}


def test_an_incomplete_answer_to_get_values_is_none_and_another_record_is_refused():
    answer = fastcgi.record(Kind.GET_VALUES_RESULT, 0, fastcgi.pair(b"FCGI_MPXS_CONNS", b"0"))
    assert fastcgi.values(answer[:-1]) is None
    with pytest.raises(BadMessageError, match="FCGI_STDOUT"):
        fastcgi.values(fastcgi.record(Kind.STDOUT, 1))


def test_a_management_record_of_unknown_type_is_answered_as_such():
    application = Application({})
    application.feed(fastcgi.record(77, 0, b"?"))
    (answer,) = fastcgi.Records(502).feed(application.take())
    assert (answer.kind, answer.content[0]) == (Kind.UNKNOWN_TYPE, 77)


def begin(request, role=1):
    return fastcgi.record(Kind.BEGIN_REQUEST, request, bytes((0, role, 1, 0, 0, 0, 0, 0)))


@pytest.mark.parametrize(
    ("second", "ending"), [(begin(2), Ending.CANT_MPX_CONN), (begin(2, role=3), Ending.CANT_MPX_CONN)]
)
def test_a_second_request_on_a_busy_connection_is_refused_and_the_first_goes_on(second, ending):
    application = Application({})
    application.feed(begin(1) + second)
    (answer,) = fastcgi.Records(502).feed(application.take())
    assert (answer.kind, answer.request, answer.content[4]) == (Kind.END_REQUEST, 2, ending)
    ignored = fastcgi.record(Kind.PARAMS, 2)
    assert application.feed(ignored + fastcgi.record(Kind.PARAMS, 1)) == [Begun({}, keep=True)]


def test_a_role_other_than_responder_is_refused():
    application = Application({})
    application.feed(begin(1, role=2))
    (answer,) = fastcgi.Records(502).feed(application.take())
    assert answer.content[4] == Ending.UNKNOWN_ROLE


def test_an_abort_reaches_the_application():
    application = Application({})
    assert application.feed(fastcgi.request_head([], keep=False) + fastcgi.ABORT)[-1] == Aborted()


def test_an_application_serves_one_request_after_the_other_on_a_connection():
    application = Application({})
    for path in (b"/a", b"/b"):
        request = fastcgi.request_head([fastcgi.pair(b"PATH_INFO", path)], keep=True) + fastcgi.STDIN_END
        assert application.feed(request)[0] == Begun({b"PATH_INFO": path}, keep=True)
        application.end_request()


def test_parameters_are_bounded():
    application = Application({})
    application.feed(begin(1))
    with pytest.raises(BadMessageError) as refused:
        for _ in range(5):
            application.feed(fastcgi.record(Kind.PARAMS, 1, bytes(60_000)))
    assert refused.value.status == 431


END = fastcgi.record(Kind.END_REQUEST, 1, bytes(8))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\n", "version 72"),
        (fastcgi.record(Kind.STDOUT, 2, b"x"), "request 2"),
        (fastcgi.record(Kind.GET_VALUES_RESULT, 0), "request 0"),
        (fastcgi.record(Kind.STDIN, 1, b"x"), "only a web server"),
        (fastcgi.record(99, 1, b"x"), "type 99"),
        (fastcgi.record(Kind.STDOUT, 1) + fastcgi.record(Kind.STDOUT, 1, b"x"), "behind the end"),
        (fastcgi.record(Kind.END_REQUEST, 1, bytes(7)), "7 bytes"),
        (fastcgi.record(Kind.END_REQUEST, 1, bytes((0, 0, 0, 0, 9, 0, 0, 0))), "status 9"),
    ],
)
def test_an_answer_that_breaks_the_protocol_is_refused_and_told(answer, said):
    with pytest.raises(BadMessageError, match=said) as refused:
        Reply().feed(answer)
    assert refused.value.status == 502


@pytest.mark.parametrize("behind", [END, b"\x01"])
def test_what_comes_behind_the_end_of_an_answer_is_noticed(behind):
    reply = Reply()
    reply.feed(END + behind)
    assert reply.done
    assert reply.rest


def test_only_so_much_of_the_complaints_is_kept():
    reply = Reply()
    reply.feed(fastcgi.record(Kind.STDERR, 1, bytes(fastcgi.STDERR_KEPT)) * 2)
    assert len(reply.errors) == fastcgi.STDERR_KEPT
