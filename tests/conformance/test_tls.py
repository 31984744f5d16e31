"""TLS at the listener: real handshakes by OpenSSL's client, and everything that can be wrong with certificates."""

import asyncio
import os
import socket
import ssl
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from lab.core.errors import UnavailableError
from lab.core.model import ListenerSpec, Timeouts, Tls
from lab.proxy.backends.python_builtin import tls
from tests.conformance.conftest import GET, OK, Client

SELF_SIGNED = ListenerSpec(port=0, tls=Tls.SELF_SIGNED)


def trusting(world, version=None):
    """A client's side of TLS that trusts the certificate that the gateway made."""
    context = ssl.create_default_context(cafile=world.proxy.observe().certificate)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


async def secret(world, context=None, name="localhost"):
    """A client that speaks TLS."""
    context = context or trusting(world)
    client = Client(*await asyncio.open_connection(*world.address, ssl=context, server_hostname=name))
    world._clients.append(client)
    return client


async def started(world, **start):
    await world.start(listener=SELF_SIGNED, **start)
    return await world.worker()


@pytest.mark.parametrize("name", tls.NAMES)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_a_certificate_made_here_speaks_for_this_machine_by_every_name(world, name, version):
    worker = await started(world)
    assert world.url.startswith("https://127.0.0.1:")
    client = await secret(world, trusting(world, version), name)
    for _ in range(3):
        await client.send(GET)
        assert (await client.response())[2] == b"ok"
    assert b"\r\nX-Forwarded-Proto: https\r\n" in worker.requests[0]
    assert b"proto=https\r\n" in worker.requests[0]
    assert b"X-Forwarded-For: 127.0.0.1\r\n" in worker.requests[0]


async def test_tls_older_versions_are_refused(world):
    await started(world)
    context = trusting(world)
    with pytest.warns(DeprecationWarning, match="TLSv1 "):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await secret(world, context)
    await (client := await secret(world)).send(GET)
    assert (await client.response())[0] == 200


async def test_tls_nobody_trusts_it_unasked(world):
    await started(world)
    with pytest.raises(ssl.SSLCertVerificationError):
        await secret(world, ssl.create_default_context())
    with pytest.raises(ssl.SSLCertVerificationError):
        await secret(world, name="example.org")


@pytest.mark.parametrize("said", [GET, b"G", b"\x00\x01", b"SSH-2.0-x\r\n"])
async def test_tls_who_speaks_none_is_told_so(world, said):
    worker = await started(world)
    client = await world.client()
    await client.send(said)
    status, _, body = await client.response()
    assert status == 400
    assert b"TLS is spoken here" in body
    assert f"https://127.0.0.1:{world.address[1]}".encode() in body
    assert await client.ended() is None
    assert worker.requests == []
    totals = world.proxy.observe().totals
    assert (totals.accepted, totals.answered) == (1, 1)


async def test_tls_a_client_without_a_word_is_hung_up_on_in_time(world):
    await world.start(listener=SELF_SIGNED, clients=None)
    silent = [await world.client() for _ in range(3)]
    silent[1].writer.write_eof()
    silent[2].close()
    assert await silent[1].ended() is None
    await world.proxy.close()
    assert await silent[0].ended() is None


async def test_tls_a_handshake_that_stops_in_the_middle_harms_nobody(world):
    await started(world)
    stuck = await world.client()
    await stuck.send(b"\x16\x03\x01")
    broken = await world.client()
    await broken.send(b"\x16\x03\x01\x02\x00" + bytes(600))
    await (client := await secret(world)).send(GET)
    assert (await client.response())[0] == 200
    await broken.ended()
    assert world.proxy.observe().totals.accepted == 1


@pytest.mark.parametrize("size", [1, 100_000, 8 << 20])
async def test_tls_bodies_of_any_size_pass_both_ways(world, size):
    async def handler(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Content-Length: %d" % size in head
        body = await reader.readexactly(size)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body)
        await writer.drain()

    await world.start(listener=SELF_SIGNED)
    await world.worker(handler=handler)
    client = await secret(world)
    body = os.urandom(size)
    sending = asyncio.ensure_future(
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size, body)
    )
    assert (await client.response())[2] == body
    await sending


@pytest.mark.parametrize("length", [b"Content-Length: 9\r\n", b""], ids=["by count", "endless"])
async def test_tls_p10_an_answer_that_breaks_off_is_broken_off(world, length):
    seen = asyncio.Event()

    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + length + b"\r\nthis")
        await seen.wait()
        writer.get_extra_info("socket").setsockopt(1, 13, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        writer.transport.abort()

    await world.start(listener=SELF_SIGNED)
    await world.worker(handler=handler)
    client = await secret(world)
    await client.send(b"GET / HTTP/1.0\r\n\r\n")
    await client.reader.readuntil(b"this")
    seen.set()
    assert await client.ended() is ConnectionResetError


async def test_tls_a_complete_answer_ends_in_order(world):
    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nthis is all")

    await world.start(listener=SELF_SIGNED)
    await world.worker(handler=handler)
    client = await secret(world)
    await client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert (await client.response())[2] == b"this is all"
    assert await client.ended() is None


async def test_tls_a_refused_upload_is_answered_before_the_end(world):
    await world.start(listener=SELF_SIGNED)
    await world.worker()
    client = await secret(world)
    await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc")
    assert (await client.response())[0] == 400
    await client.ended()


async def test_tls_p15_tunnels_work_as_they_do_without_it(world):
    over = asyncio.Event()

    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        while data := await reader.read(100):
            writer.write(data)
        over.set()

    await world.start(listener=SELF_SIGNED, timeouts=Timeouts(drain=1))
    await world.worker(handler=handler)
    client = await secret(world)
    await client.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"))
    assert (await client.response())[0] == 101
    await client.send(b"back")
    assert await asyncio.wait_for(client.reader.readexactly(4), 30) == b"back"
    client.writer.close()
    await asyncio.wait_for(over.wait(), 30)
    await world.until(lambda: world.proxy.observe().totals.tunnels == 0)


async def test_tls_programs_are_told(world, tmp_path):
    await world.start(listener=SELF_SIGNED, script="/srv/app")
    worker = await world.fastcgi(tmp_path / "socket")
    await (client := await secret(world)).send(GET)
    assert (await client.response())[0] == 200
    assert (worker.requests[0][b"HTTPS"], worker.requests[0][b"REQUEST_SCHEME"]) == (b"on", b"https")


async def test_tls_a_lab_that_closes_lets_requests_finish(world):
    go = asyncio.Event()

    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await go.wait()
        writer.write(OK)

    await world.start(listener=SELF_SIGNED)
    await world.worker(handler=handler)
    client = await secret(world)
    await client.send(GET)
    await world.until(lambda: world.proxy.observe().totals.in_flight == 1)
    closing = asyncio.ensure_future(world.proxy.close())
    await asyncio.sleep(0)
    go.set()
    assert (await client.response())[2] == b"ok"
    client.writer.close()
    await asyncio.wait_for(closing, 30)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(world.address)


# -- certificates


def made(folder: Path) -> x509.Certificate:
    tls.context(SELF_SIGNED, folder)
    return x509.load_pem_x509_certificate((folder / "self-signed.crt").read_bytes())


def test_tls_nothing_older_than_1_2_is_offered_whatever_openssl_would_allow(tmp_path):
    context, _ = tls.context(SELF_SIGNED, tmp_path)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_tls_one_connection_has_one_handshake(tmp_path):
    context, _ = tls.context(SELF_SIGNED, tmp_path)
    assert ssl.OP_NO_RENEGOTIATION in context.options


def test_tls_a_certificate_is_kept_and_its_key_is_for_its_user_alone(tmp_path):
    first = made(tmp_path / "tls")
    assert made(tmp_path / "tls") == first
    assert stat.S_IMODE((tmp_path / "tls" / "self-signed.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700
    assert b"PRIVATE" not in (tmp_path / "tls" / "self-signed.crt").read_bytes()
    assert first.not_valid_after_utc - datetime.now(UTC) > timedelta(days=300)


def test_tls_one_that_ends_soon_or_was_tampered_with_is_made_anew(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(tls, "_VALID", timedelta(days=20))
        old = made(tmp_path)
    new = made(tmp_path)
    assert new != old
    (tmp_path / "self-signed.pem").chmod(0o644)
    other = made(tmp_path)
    assert other != new
    (tmp_path / "self-signed.pem").write_bytes(b"rubbish")
    assert made(tmp_path) != other


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Certificates and keys, good and bad, by openssl's own hand where it is at hand, else by ours."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("one", "other"):
        key, certificate = tls._made()
        (folder / f"{name}.key").write_bytes(key)
        (folder / f"{name}.crt").write_bytes(certificate)
    (folder / "rubbish.crt").write_text("this is no certificate")
    (folder / "half.crt").write_bytes((folder / "one.crt").read_bytes()[:200])
    lock = ("openssl", "pkey", "-in", folder / "one.key", "-aes256", "-passout", "pass:secret")
    locked = subprocess.run(lock, capture_output=True, check=True)
    (folder / "locked.key").write_bytes(locked.stdout)
    return folder


BAD = {
    "no certificate": ("none.crt", "one.key", "none.crt cannot be read: No such file"),
    "no key": ("one.crt", "none.key", "none.key cannot be read: No such file"),
    "a folder": (".", "one.key", "cannot be read: Is a directory"),
    "another's key": ("one.crt", "other.key", "does not belong to the certificate"),
    "rubbish": ("rubbish.crt", "one.key", "are no certificate with its key"),
    "half a certificate": ("half.crt", "one.key", "are no certificate with its key"),
    "a key for a certificate": ("one.key", "one.key", "are no certificate with its key"),
    "a certificate for a key": ("one.crt", "one.crt", "are no certificate with its key"),
    "a locked key": ("one.crt", "locked.key", "is locked with a password"),
}


@pytest.mark.parametrize(("certificate", "key", "told"), BAD.values(), ids=BAD)
async def test_tls_files_that_cannot_be_used_are_told_before_anything_listens(world, files, certificate, key, told):
    listener = ListenerSpec(port=0, tls=Tls.FILES, certificate=str(files / certificate), key=str(files / key))
    with pytest.raises(UnavailableError) as error:
        await world.start(listener=listener)
    assert told in str(error.value)
    assert error.value.remedy
    assert world.proxy._server is None


async def test_tls_with_files_that_are_given(world, files):
    listener = ListenerSpec(port=0, tls=Tls.FILES, certificate=str(files / "one.crt"), key=str(files / "one.key"))
    await world.start(listener=listener)
    await world.worker()
    assert world.proxy.observe().certificate is None
    await (client := await secret(world, ssl.create_default_context(cafile=str(files / "one.crt")))).send(GET)
    assert (await client.response())[0] == 200
