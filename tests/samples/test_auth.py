"""auth: a token that one worker issues, any worker verifies; and a password is never sent in an address."""

import base64
import json
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

Start = Callable[..., Any]

ADA = json.dumps({"user": "ada", "password": "lovelace"}).encode()


@pytest.fixture
def worker(start: Start) -> Any:
    return start("auth-python", AUTH_SECRET="one")


def token(worker: Any) -> str:
    status, body = worker.ask("/api/auth/login", "POST", body=ADA)
    assert status == 200
    return str(json.loads(body)["token"])


def verify(worker: Any, issued: str) -> tuple[int, dict[str, Any]]:
    status, body = worker.ask("/api/auth/verify", fields=f"Authorization: Bearer {issued}\r\n")
    return status, json.loads(body)


@pytest.mark.parametrize("target", ["/api/auth", "/api/auth/", "/api/auth?x=1"])
def test_it_says_who_it_is(worker: Any, target: str) -> None:
    status, body = worker.ask(target)
    assert status == 200
    assert json.loads(body) == {"service": "auth", "pid": worker.process.pid, "language": "python"}


def test_health_answers_200(worker: Any) -> None:
    assert worker.ask("/health")[0] == 200


def test_a_token_of_one_worker_is_good_at_another_one_with_the_same_secret(start: Start, worker: Any) -> None:
    issued = token(worker)
    assert verify(worker, issued) == (200, {"user": "ada", "pid": worker.process.pid, "language": "python"})
    assert verify(start("auth-python", AUTH_SECRET="one"), issued)[0] == 200
    assert verify(start("auth-python", AUTH_SECRET="two"), issued)[0] == 401


def test_a_forged_or_damaged_token_is_refused(worker: Any) -> None:
    claims, _, signature = token(worker).partition(".")
    for_ever = base64.urlsafe_b64encode(b'{"user": "grace", "expires": 99999999999}').rstrip(b"=").decode()
    for forged in (
        f"{for_ever}.{signature}",
        f"{claims}.",
        f".{signature}",
        claims,
        "",
        "a.b.c",
        f"{claims}.{signature[:-2]}",
    ):
        assert verify(worker, forged)[0] == 401
    assert worker.ask("/api/auth/verify")[0] == 401


@pytest.mark.parametrize("user", ["ada", "nobody", "gräce"])
def test_a_wrong_password_is_401_whoever_the_user_is(worker: Any, user: str) -> None:
    body = json.dumps({"user": user, "password": "hopper"}).encode()
    assert worker.ask("/api/auth/login", "POST", body=body)[0] == 401


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"user": "ada"}', b'{"user": 1, "password": 2}', b"\xff", b'"\\ud800"']
)
def test_a_login_that_is_no_user_and_password_is_400(worker: Any, body: bytes) -> None:
    assert worker.ask("/api/auth/login", "POST", body=body)[0] == 400


REFUSED = {
    "a password in the address": (b"GET /api/auth/login?user=ada HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    "no such page": (b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "chunked": (b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
    "too long": (b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n", 413),
    "two lengths": (b"GET /api/auth HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
    "garbage": (b'gar"bage\r\n\r\n', 400),
    "unknown method": (b"BREW /api/auth HTTP/1.1\r\nHost: x\r\n\r\n", 501),
}


@pytest.mark.parametrize(("request_bytes", "status"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_json_with_its_status(worker: Any, request_bytes: bytes, status: int) -> None:
    answer = worker.send(request_bytes)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(body)["error"]


def test_a_connection_stays_open_and_bodies_are_read_to_their_end(worker: Any) -> None:
    login = b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(ADA) + ADA
    nowhere = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nGET "
    with worker.connect() as client:
        client.sendall(login + nowhere + login)
        assert [status for status, _ in client.answers(3)] == [200, 404, 200]


def test_100_continue_is_sent_before_the_body_comes(worker: Any) -> None:
    with worker.connect() as client:
        client.sendall(b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"{}")
        assert client.answers(1)[0][0] == 400


def test_several_logins_are_checked_at_the_same_time(worker: Any) -> None:
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(worker.ask("/api/auth/login", "POST", body=ADA)[0]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 8


def test_sigterm_ends_it_with_0_although_a_client_stays_connected(worker: Any) -> None:
    with worker.connect() as idle:
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        idle.answers(1)
        assert worker.stop() == 0
        assert idle.rest() == b""


def test_a_client_that_resets_its_connection_is_no_traceback(worker: Any) -> None:
    with worker.connect() as client:
        client.sendall(b"GET /api/auth HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert worker.ask("/health")[0] == 200
    assert worker.stop() == 0
    assert len(worker.said.read_text().splitlines()) == 1  # where it listens
