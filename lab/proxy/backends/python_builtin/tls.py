"""TLS for the listener: what it is known by.

A certificate is either given, or made here: signed by nobody but itself, for this machine's own names, kept for later
labs of the same user, so that what was told to trust it once still does. Everything that can be wrong with files is
found before the lab listens.
"""

import fcntl
import ipaddress
import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from lab.core.errors import UnavailableError
from lab.core.model import ListenerSpec, Tls

NAMES: Final = ("localhost", "127.0.0.1", "::1")
"""Whom a certificate that is made here speaks for."""

_VALID: Final = timedelta(days=365)
_RENEWED: Final = timedelta(days=30)
"""So long before its end another one is made."""


def context(spec: ListenerSpec, folder: Path) -> tuple[ssl.SSLContext, Path | None]:
    """TLS 1.2 and newer for a listener, and the file that its clients may trust, where that is one made in `folder`.

    Reads and writes files. Raises `UnavailableError` for files that cannot be used, saying which and why.
    """
    made = spec.tls is Tls.SELF_SIGNED
    both = _self_signed(folder) if made else Path(spec.certificate)
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.minimum_version = ssl.TLSVersion.TLSv1_2
    found.options |= ssl.OP_NO_RENEGOTIATION  # which asks for a handshake's work as often as a client likes
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
