"""The folder of a private certificate authority.

    certs.json            authorities and certificates that were issued, 0600
    ca/ID.crt, ca/ID.key  each authority; the key under a passphrase if one was given
    trust.pem             whom to trust: authorities with their revocation lists
    issued/NAME/          tls.crt, tls.key (0600), trust.pem: to copy to that machine

An authority is rotated by overlap: a new one is made beside the old, `trust.pem` holds
both, certificates are renewed under the new one, and the old one is retired when no
machine shows a certificate of it any more. What is signed lives days, not years.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    load_pem_private_key,
)

from privacy.bundle import check_name
from privacy.certs.make import (
    Key,
    key_pem,
    make_authority,
    make_leaf,
    make_revocations,
    new_key,
)
from privacy.client.sealed import seal, unseal
from privacy.encoding import Json, canonical_json, parse_canonical
from privacy.errors import ConflictError, FormatError, NotFoundError
from privacy.files import locked, write_atomic

LEAF_DAYS = 30.0
AUTHORITY_DAYS = 5 * 365.0
_DUE_SHARE = 3  # of its life left when a certificate is due to be renewed: a third
_LIST, _TRUST = "certs.json", "trust.pem"
_FORMAT = "privacy-compute/certs/1"
_WHAT = "the key of the certificate authority"


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority; times are RFC 3339 in UTC.

    Attributes:
        id: Its serial number, hex.
        lists: How many revocation lists it has signed.
    """

    id: str
    name: str
    made_at: str
    expires_at: str
    lists: int = 0


@dataclass(frozen=True, slots=True)
class Earlier:
    """A certificate that was renewed before it expired, so it is valid all the same."""

    authority: str
    serial: str
    expires_at: str


@dataclass(frozen=True, slots=True)
class Issued:
    """The certificate that a name has now, or one that was revoked.

    Attributes:
        hosts: DNS names and addresses it serves under.
        authority: Id of who signed.
        serial: Serial number, hex.
        revoked_at: "" if it is good.
        earlier: Those that it replaces and that have not expired; they are revoked
            with it.
    """

    name: str
    kind: str
    hosts: tuple[str, ...]
    authority: str
    serial: str
    issued_at: str
    expires_at: str
    revoked_at: str = ""
    earlier: tuple[Earlier, ...] = ()


class Certificates:
    """A private authority in a folder. Safe for several processes."""

    def __init__(
        self,
        folder: Path,
        *,
        passphrase: str | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Use a folder; `passphrase` protects the authority's key, if given."""
        self.folder = folder
        self._passphrase = passphrase
        self._clock = clock

    @property
    def trust(self) -> Path:
        """The file that every machine needs."""
        return self.folder / _TRUST

    def files(self, name: str) -> Path:
        """Return the folder of what one machine needs."""
        return self.folder / "issued" / check_name(name)

    def init(self, name: str, *, days: float = AUTHORITY_DAYS) -> Authority:
        """Make the first authority.

        Raises:
            ConflictError: There is one.
        """
        check_name(name)
        with self._locked():
            if self._path.exists():
                msg = f"{self.folder} holds an authority: see `privacy certs rotate`"
                raise ConflictError(msg, code="already-made")
            return self._add_authority(name, days, [], [])

    def rotate(self, *, days: float = AUTHORITY_DAYS) -> Authority:
        """Make a new authority, trusted beside the old, which signs from now on."""
        with self._locked():
            authorities, issued = self._read()
            if len(authorities) > 1:
                msg = "the last rotation has not ended: `privacy certs retire` first"
                raise ConflictError(msg, code="rotation-under-way")
            return self._add_authority(authorities[0].name, days, authorities, issued)

    def retire(self) -> Authority:
        """Trust the old authority no more, once nothing that it signed is in use.

        Raises:
            ConflictError: There is only one, or certificates of it are still good.
        """
        with self._locked():
            authorities, issued = self._read()
            if len(authorities) == 1:
                msg = "there is one authority only: `privacy certs rotate` first"
                raise ConflictError(msg, code="nothing-to-retire")
            old = authorities[0]
            now = _text(self._clock())
            using = [
                i.name
                for i in issued
                if i.authority == old.id and not i.revoked_at and i.expires_at > now
            ]
            if using:
                names = ", ".join(using)[:200]
                msg = f"still signed by the old authority: {names}: renew them first"
                raise ConflictError(msg, code="authority-in-use")
            kept = [i for i in issued if i.authority != old.id]
            self._write(authorities[1:], kept)
            for ending in ("key", "crl", "crt"):
                (self._ca / f"{old.id}.{ending}").unlink(missing_ok=True)
            return old

    def issue(
        self,
        name: str,
        *,
        kind: str,
        hosts: Sequence[str] = (),
        days: float = LEAF_DAYS,
    ) -> Issued:
        """Make a certificate with a new key; see `files` for where they lie.

        Raises:
            ConflictError: The name has a certificate already.
            FormatError: A name or host is not one.
        """
        with self._locked():
            authorities, issued = self._read()
            if any(i.name == name and not i.revoked_at for i in issued):
                msg = f"{name} has a certificate: `privacy certs renew {name}`"
                raise ConflictError(msg, code="already-issued")
            made = self._make(authorities[-1], name, kind, hosts, days)
            self._write(authorities, [*issued, made])
            return made

    def renew(self, names: Sequence[str] = (), *, days: float = LEAF_DAYS) -> list[str]:
        """Issue anew, with new keys, and return for which names.

        Args:
            names: Those; by default all that have little of their life left or are
                signed by an authority that is being replaced.
            days: How long the new ones are valid.

        Raises:
            NotFoundError: A name has no certificate.
        """
        with self._locked():
            authorities, issued = self._read()
            good = {i.name: i for i in issued if not i.revoked_at}
            for name in names:
                self._known(good, name)
            chosen = names or [
                i.name for i in good.values() if self.due(i, authorities[-1])
            ]
            for name in chosen:
                old = good[name]
                made = self._make(authorities[-1], name, old.kind, old.hosts, days)
                made = replace(made, earlier=self._earlier(old))
                issued = [made if i == old else i for i in issued]
                self._write(authorities, issued)
            return list(chosen)

    def revoke(self, name: str) -> Issued:
        """Put a name's certificate, and those it replaced, on the revocation list.

        They are refused by every machine that has the new `trust.pem`.

        Raises:
            NotFoundError: The name has no certificate.
        """
        with self._locked():
            authorities, issued = self._read()
            found = self._known({i.name: i for i in issued if not i.revoked_at}, name)
            gone = replace(found, revoked_at=_text(self._clock()))
            issued = [gone if i == found else i for i in issued]
            signers = {one.authority for one in _serials(found)}
            renewed = [
                self._sign_list(a, issued) if a.id in signers else a
                for a in authorities
            ]
            self._write(renewed, issued)
            return gone

    def all(self) -> tuple[list[Authority], list[Issued]]:
        """Return the authorities, the one that signs last, and the certificates."""
        with self._locked():
            return self._read()

    def due(self, one: Issued, current: Authority) -> bool:
        """Whether a certificate should be renewed now."""
        begin, end = map(datetime.fromisoformat, (one.issued_at, one.expires_at))
        left = end - self._clock()
        return left < (end - begin) / _DUE_SHARE or one.authority != current.id

    @property
    def _path(self) -> Path:
        return self.folder / _LIST

    @property
    def _ca(self) -> Path:
        return self.folder / "ca"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(self.folder / ".lock"):
            yield

    @staticmethod
    def _known(good: dict[str, Issued], name: str) -> Issued:
        if name not in good:
            names = ", ".join(sorted(good))[:200]
            msg = f"{name[:63]!r} has no certificate; there are: {names or 'none'}"
            raise NotFoundError(msg, code="unknown-certificate")
        return good[name]

    def _read(self) -> tuple[list[Authority], list[Issued]]:
        if not self._path.is_file():
            msg = f"{self.folder} holds no authority: `privacy certs init` first"
            raise NotFoundError(msg, code="no-authority")
        value = parse_canonical(self._path.read_bytes(), what=str(self._path))
        try:
            issued = [_issued(i) for i in value["issued"]]
            authorities = [Authority(**a) for a in value["authorities"]]
        except (KeyError, TypeError):
            authorities, issued = [], []
        if value.get("format") != _FORMAT or not authorities:
            msg = f"{self._path} is not as this version writes it: restore it"
            raise FormatError(msg, code="certs-damaged")
        return authorities, issued

    def _write(self, authorities: list[Authority], issued: list[Issued]) -> None:
        """Write the list, then whom to trust, here and beside each certificate."""
        value = {
            "format": _FORMAT,
            "authorities": [asdict(a) for a in authorities],
            "issued": [_json(i) for i in issued],
        }
        write_atomic(self._path, canonical_json(value), private=True)
        files = (self._ca / f"{a.id}.{e}" for a in authorities for e in ("crt", "crl"))
        trust = b"".join(path.read_bytes() for path in files)
        write_atomic(self.trust, trust)
        for name in {i.name for i in issued if not i.revoked_at}:
            write_atomic(self.files(name) / _TRUST, trust)

    def _add_authority(
        self,
        name: str,
        days: float,
        authorities: list[Authority],
        issued: list[Issued],
    ) -> Authority:
        key, now = new_key(), self._clock()
        made = make_authority(key, name, now=now, lifetime=_days(days))
        serial = f"{made.serial_number:x}"
        sealed = seal(
            key_pem(key), about={"authority": serial}, passphrase=self._passphrase
        )
        write_atomic(self._ca / f"{serial}.key", sealed, private=True)
        write_atomic(self._ca / f"{serial}.crt", made.public_bytes(Encoding.PEM))
        end = _text(made.not_valid_after_utc)
        authority = Authority(serial, name, _text(now), end)
        authority = self._sign_list(authority, issued, key=key)
        self._write([*authorities, authority], issued)
        return authority

    def _sign_list(
        self, authority: Authority, issued: list[Issued], *, key: Key | None = None
    ) -> Authority:
        gone = [
            (int(one.serial, 16), datetime.fromisoformat(i.revoked_at))
            for i in issued
            if i.revoked_at
            for one in _serials(i)
            if one.authority == authority.id
        ]
        found = make_revocations(
            gone,
            authority=self._certificate(authority),
            authority_key=key or self._key(authority),
            number=authority.lists + 1,
            now=self._clock(),
        )
        path = self._ca / f"{authority.id}.crl"
        write_atomic(path, found.public_bytes(Encoding.PEM))
        return replace(authority, lists=authority.lists + 1)

    def _make(
        self,
        authority: Authority,
        name: str,
        kind: str,
        hosts: Sequence[str],
        days: float,
    ) -> Issued:
        folder, key, now = self.files(name), new_key(), self._clock()
        if authority.expires_at <= _text(now):
            msg = f"the authority expired at {authority.expires_at}: rotate it"
            raise FormatError(msg, code="authority-expired")
        made = make_leaf(
            key,
            name,
            kind=kind,
            hosts=hosts,
            authority=self._certificate(authority),
            authority_key=self._key(authority),
            now=now,
            lifetime=_days(days),
        )
        write_atomic(folder / "tls.key", key_pem(key), private=True)
        write_atomic(folder / "tls.crt", made.public_bytes(Encoding.PEM))
        return Issued(
            name=name,
            kind=kind,
            hosts=tuple(hosts),
            authority=authority.id,
            serial=f"{made.serial_number:x}",
            issued_at=_text(now),
            expires_at=_text(made.not_valid_after_utc),
        )

    def _earlier(self, old: Issued) -> tuple[Earlier, ...]:
        """Return what is still valid of a certificate and those that it replaced."""
        now = _text(self._clock())
        last = Earlier(old.authority, old.serial, old.expires_at)
        return tuple(one for one in (*old.earlier, last) if one.expires_at > now)

    def _certificate(self, authority: Authority) -> x509.Certificate:
        raw = (self._ca / f"{authority.id}.crt").read_bytes()
        return x509.load_pem_x509_certificate(raw)

    def _key(self, authority: Authority) -> Key:
        raw = (self._ca / f"{authority.id}.key").read_bytes()
        pem = unseal(raw, passphrase=self._passphrase, what=_WHAT)
        return cast("Key", load_pem_private_key(pem, None))


def _serials(issued: Issued) -> tuple[Issued | Earlier, ...]:
    return (issued, *issued.earlier)


def _issued(value: Json) -> Issued:
    earlier = tuple(Earlier(**one) for one in value.get("earlier", ()))
    return Issued(**{**value, "hosts": tuple(value["hosts"]), "earlier": earlier})


def _json(issued: Issued) -> Json:
    earlier = [asdict(one) for one in issued.earlier]
    return {**asdict(issued), "hosts": list(issued.hosts), "earlier": earlier}


def _days(days: float) -> timedelta:
    if not 0 < days <= 20 * 366:
        msg = f"a certificate is valid for up to 7320 days, not {days:g}"
        raise FormatError(msg, code="usage")
    return timedelta(days=days)


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
