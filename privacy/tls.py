"""TLS from files: whom to trust, and the certificate to show.

A trust file is PEM: certificates of authorities and, if they revoke, their revocation
lists. Contexts read their files anew when one of them changes, so that certificates are
renewed and authorities rotated without a restart; what cannot be used is not taken up.
"""

import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from privacy.errors import FormatError

_CRL = "BEGIN X509 CRL"
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files of one side of a connection.

    Attributes:
        trust: Authorities, and their revocation lists; None for those of the system
            (a client), or to ask for no certificate (a server).
        certificate: This side's certificate, and those between it and an authority.
        key: Its private key.
    """

    trust: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        """Refuse a certificate without its key.

        Raises:
            FormatError: One of the two is missing.
        """
        if bool(self.certificate) != bool(self.key):
            msg = "a TLS certificate and its private key go together: give both files"
            raise FormatError(msg, code="tls-files")

    def __bool__(self) -> bool:
        """Whether any file is given."""
        return bool(self.trust or self.certificate)

    @property
    def all(self) -> tuple[Path, ...]:
        """The files that are given."""
        return tuple(p for p in (self.trust, self.certificate, self.key) if p)


NO_TLS = TlsFiles()
_VARIABLES = {
    "trust": "PRIVACY_TLS_CA",
    "certificate": "PRIVACY_TLS_CERT",
    "key": "PRIVACY_TLS_KEY",
}


def files_of_environment() -> TlsFiles:
    """Return the files of a client that the environment names.

    Raises:
        FormatError: A certificate without its key.
    """
    named = {
        part: Path(text)
        for part, variable in _VARIABLES.items()
        if (text := os.environ.get(variable))
    }
    return TlsFiles(**named)


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """Return what connects: servers must be named in a certificate that is trusted.

    Raises:
        FormatError: A file is missing, or is not what it should be.
    """
    return _Reloading.of(files, _client)


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Return what serves; with `trust`, only clients that show a trusted certificate.

    Raises:
        FormatError: A file is missing, or is not what it should be.
    """
    return _Reloading.of(files, _server)


def tls_problem(exc: BaseException) -> str:
    """Return what TLS found wrong, as one sentence, or "" if it was something else."""
    seen: BaseException | None = exc
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return f"its certificate was refused: {seen.verify_message}"
        if isinstance(seen, ssl.SSLError) and "ALERT" in (seen.reason or ""):
            said = str(seen.reason).lower().replace("_", " ")
            return f"it refused the client certificate, or the lack of one ({said})"
        if isinstance(seen, ssl.SSLError):
            why = seen.reason or type(seen).__name__
            if "EOF" in why:
                # In TLS 1.3 a client learns of its certificate's refusal by that.
                return "it broke off, perhaps for want of another client certificate"
            return f"TLS failed ({why})"
        seen = seen.__cause__ or seen.__context__
    return ""


class _Reloading(ssl.SSLContext):
    """Makes the TLS state of each connection from the files as they are then."""

    _files: TlsFiles
    _make: Callable[[TlsFiles], ssl.SSLContext]
    _made: ssl.SSLContext
    _stamp: tuple[tuple[int, int], ...]
    _looked_at: float

    @classmethod
    def of(
        cls, files: TlsFiles, make: Callable[[TlsFiles], ssl.SSLContext]
    ) -> ssl.SSLContext:
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context._files, context._make = files, make
        context._stamp = _stamp(files)
        context._made = make(files)
        context._looked_at = time.monotonic()
        return context

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        return self._current().wrap_bio(*args, **kwargs)

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        return self._current().wrap_socket(*args, **kwargs)

    def _current(self: Self) -> ssl.SSLContext:
        now = time.monotonic()
        if now - self._looked_at > _LOOK_EVERY_S:
            self._looked_at = now
            self._renew()
        return self._made

    def _renew(self) -> None:
        try:
            stamp = _stamp(self._files)
            if stamp != self._stamp:
                self._made = self._make(self._files)
                self._stamp = stamp
        except FormatError:
            return  # half replaced: the next connection looks again


def _stamp(files: TlsFiles) -> tuple[tuple[int, int], ...]:
    try:
        stats = [path.stat() for path in files.all]
    except OSError as exc:
        msg = f"{exc.filename}: {exc.strerror}: name a PEM file that can be read"
        raise FormatError(msg, code="tls-files") from exc
    return tuple((s.st_mtime_ns, s.st_ino) for s in stats)


def _client(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    if files.trust:  # its authorities and no others
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return _loaded(context, files)


def _server(files: TlsFiles) -> ssl.SSLContext:
    if not files.certificate:
        msg = "a server needs a TLS certificate: see `privacy certs issue`"
        raise FormatError(msg, code="tls-files")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if files.trust:
        context.verify_mode = ssl.CERT_REQUIRED
    return _loaded(context, files)


def _loaded(context: ssl.SSLContext, files: TlsFiles) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    path = files.trust
    try:
        if path:
            context.load_verify_locations(path)
            if _CRL in path.read_text("ascii", "replace"):
                context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        if files.certificate:
            path = files.certificate
            context.load_cert_chain(files.certificate, files.key, password=_refuse)
    except (OSError, ValueError) as exc:  # SSLError is an OSError
        why = getattr(exc, "reason", None) or getattr(exc, "strerror", None)
        msg = f"{path} cannot be used for TLS ({why or type(exc).__name__})"
        raise FormatError(msg, code="tls-files") from exc
    return context


def _refuse() -> str:
    msg = "a private key under a passphrase cannot be used by a server"
    raise ValueError(msg)
