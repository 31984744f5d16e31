"""TLS for the listener: what it is known by, and how a connection comes to speak it.

A certificate is either given, or made here: signed by nobody but itself, for this machine's own names, kept for later
labs of the same user, so that what was told to trust it once still does. Everything that can be wrong with files is
found before the lab listens. A client that speaks plain HTTP to a port of TLS is told so: its first byte is looked at
before OpenSSL takes it for rubbish and hangs up without a word.
"""

import asyncio
import contextlib
import fcntl
import ipaddress
import os
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from lab.core.errors import UnavailableError
from lab.core.model import ListenerSpec, Tls
from lab.core.tasks import background

NAMES: Final = ("localhost", "127.0.0.1", "::1")
"""Whom a certificate that is made here speaks for."""

_VALID: Final = timedelta(days=365)
_RENEWED: Final = timedelta(days=30)
"""So long before its end another one is made."""

_HANDSHAKE: Final = b"\x16"
"""The first byte that a TLS client says: the type of a record that carries a handshake (RFC 8446 5.1)."""

_AT_ONCE: Final = 100
"""Connections accepted in one turn of the loop."""
_PAUSE: Final = 0.5
"""Seconds until the next attempt, when this process may open no further descriptor."""
_FAREWELL: Final = 2.0
"""Seconds that a client has to answer the end of TLS."""


def context(spec: ListenerSpec, folder: Path) -> tuple[ssl.SSLContext, Path | None]:
    """TLS 1.2 and newer for a listener, and the file that its clients may trust, where that is one made in `folder`.

    Reads and writes files. Raises `UnavailableError` for files that cannot be used, saying which and why.
    """
    made = spec.tls is Tls.SELF_SIGNED
    both = _self_signed(folder) if made else Path(spec.certificate)
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.minimum_version = ssl.TLSVersion.TLSv1_2
    found.set_alpn_protocols(["http/1.1"])
    for file in (both,) if made else (both, Path(spec.key)):
        _readable(file)
    try:
        found.load_cert_chain(both, None if made else spec.key, password=_no_password)
    except _LockedKeyError as error:
        remedy = f"Unlock it: openssl pkey -in {spec.key} -out OPEN-KEY"
        raise _unusable(f"The key in {spec.key} is locked with a password", remedy) from error
    except ssl.SSLError as error:
        remedy = "Expected PEM files: the certificate, perhaps with its chain, and the private key that belongs to it."
        raise _unusable(_told(error, spec), remedy) from error
    return found, folder / "self-signed.crt" if made else None


def _told(error: ssl.SSLError, spec: ListenerSpec) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"The key in {spec.key} does not belong to the certificate in {spec.certificate}"
    return f"{spec.certificate} and {spec.key} are no certificate with its key ({error.reason or 'no PEM'})"


def _readable(file: Path) -> None:
    try:
        file.open("rb").close()
    except OSError as error:
        raise _unusable(f"{file} cannot be read: {error.strerror}", "Name another file, or change its mode.") from error


def _unusable(found: str, remedy: str) -> UnavailableError:
    return UnavailableError(f"TLS cannot begin. {found}.", remedy)


class _LockedKeyError(Exception):
    """The key wants a password, and nobody is there to be asked."""


def _no_password() -> str:
    raise _LockedKeyError


def _self_signed(folder: Path) -> Path:
    """A key and its certificate in one file that this user alone may read; made, or made anew, where it has to be.

    The certificate alone stands beside it, for clients. Labs that start at the same time take turns.
    """
    both, public = folder / "self-signed.pem", folder / "self-signed.crt"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (public.is_file() and _is_good(both)):
                key, certificate = _made()
                _write(both, key + certificate, 0o600)
                _write(public, certificate, 0o644)
    except OSError as error:
        raise _unusable(f"No certificate can be kept in {folder}: {error.strerror}", "Free it, or name one.") from error
    return both


def _write(file: Path, data: bytes, mode: int) -> None:
    """All of it or nothing, and never readable for more than `mode` says."""
    new = file.with_suffix(".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as writing:
        writing.write(data)
    new.replace(file)


def _is_good(file: Path) -> bool:
    """Whether a certificate that was made before is there, private, and good for a while."""
    from cryptography import x509  # takes 60 ms, and only a lab with TLS needs it

    try:
        if file.stat().st_mode & 0o077:
            return False
        known = x509.load_pem_x509_certificate(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return known.not_valid_after_utc - datetime.now(UTC) > _RENEWED


def _made() -> tuple[bytes, bytes]:
    """A new key and its certificate, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cgilab on this machine")])
    alternatives: list[x509.GeneralName] = []
    for known in NAMES:
        try:
            alternatives.append(x509.IPAddress(ipaddress.ip_address(known)))
        except ValueError:
            alternatives.append(x509.DNSName(known))
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # of another machine whose clock is behind
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return secret, certificate.public_bytes(pem)


Factory = Callable[[], asyncio.Protocol]


class TlsServer:
    """Accepts connections, and looks at the first byte of each: TLS is handed to `secure`, anything else to `plain`.

    `patience` tells how many seconds a client has for its first byte, and again for its handshake.
    """

    def __init__(
        self, sock: socket.socket, tls: ssl.SSLContext, secure: Factory, plain: Factory, patience: Callable[[], float]
    ) -> None:
        self._sock = sock
        self._tls = tls
        self._secure, self._plain = secure, plain
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[socket.socket, asyncio.TimerHandle] = {}
        """Who has not said anything yet."""
        self._introduced: set[asyncio.Task[None]] = set()
        """Handshakes that are under way."""
        self._pause: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        """Accept no more, and hang up on those who have not said anything."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()
        for client in list(self._waiting):
            self._drop(client)
        for task in self._introduced:
            task.cancel()

    def _listen(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                client, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no descriptor is left: the kernel keeps who comes now
                self._loop.remove_reader(self._sock)
                self._pause = self._loop.call_later(_PAUSE, self._listen)
                return
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._waiting[client] = self._loop.call_later(self._patience(), self._drop, client)
            self._loop.add_reader(client, self._look, client)

    def _look(self, client: socket.socket) -> None:
        try:
            first = client.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            first = b""
        if first:
            self._forget(client)
            task = background(self._introduce(client, first == _HANDSHAKE))
            self._introduced.add(task)
            task.add_done_callback(self._introduced.discard)
        else:
            self._drop(client)

    async def _introduce(self, client: socket.socket, speaks_tls: bool) -> None:
        """What goes wrong here is the client's affair: it has left, or knows no protocol, name or cipher in common."""
        connect = self._loop.connect_accepted_socket
        with contextlib.suppress(OSError):  # ssl.SSLError is one
            if speaks_tls:
                patience = self._patience()
                await connect(
                    self._secure,
                    client,
                    ssl=self._tls,
                    ssl_handshake_timeout=patience,
                    ssl_shutdown_timeout=_FAREWELL,
                )
            else:
                await connect(self._plain, client)

    def _drop(self, client: socket.socket) -> None:
        self._forget(client)
        client.close()

    def _forget(self, client: socket.socket) -> None:
        self._waiting.pop(client).cancel()
        self._loop.remove_reader(client)
