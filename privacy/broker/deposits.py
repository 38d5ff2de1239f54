"""The keys that publishers deposited, on the broker's disk.

    broker/MODEL.sealed    content key and policy; see `privacy.client.sealed`
    broker/MODEL.revoked   a revoked one: JSON, what it was of and since when

MODEL is the model digest. A revoked key is erased: nobody can release it again. All are
under one passphrase, without which the broker can be listed but releases nothing.
"""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from privacy.broker.decisions import FOLDER
from privacy.broker.policy import KeyPolicy, before_its_model
from privacy.bundle import Bundle
from privacy.client.passphrase import VARIABLE, Unlock
from privacy.client.sealed import (
    MAX_HEADER_BYTES,
    Header,
    content_key_of,
    read_header,
    seal,
    unseal,
)
from privacy.clock import now
from privacy.encoding import (
    Json,
    b64url,
    b64url_decode,
    canonical_json,
    check_sha256,
    parse_object,
)
from privacy.errors import AuthError, ConflictError, FormatError, NotFoundError
from privacy.files import write_atomic
from privacy.modes import Mode
from privacy.tee.parse import Measurements

_KIND = "model-key"
_NO_PASSPHRASE = (
    f"keys of sealed models are kept under a passphrase: set {VARIABLE}, give a "
    "--passphrase-file, or run this on a terminal"
)
_SEALED, _REVOKED = ".sealed", ".revoked"


@dataclass(frozen=True, slots=True)
class Deposit:
    """What is known of a key without opening it.

    Attributes:
        model: `name/version`.
        model_sha256: The model digest.
        allow_simulated: Whether the policy gives it to enclaves that prove nothing.
        deposited_at: RFC 3339, UTC, as is `revoked_at`, which is "" if it is not.
    """

    model: str
    model_sha256: str
    allow_simulated: bool
    deposited_at: str
    revoked_at: str = ""


@dataclass(frozen=True, slots=True)
class Opened:
    """A deposit with its secret.

    Attributes:
        content_key: Opens the model.
        policy: Whose enclaves get it.
        measurements: What such an enclave measures before it has the model.
    """

    deposit: Deposit
    content_key: bytes = field(repr=False)
    policy: KeyPolicy
    measurements: Measurements


class Deposits:
    """The keys in a broker's home. Safe for several threads and processes."""

    def __init__(self, home: Path, unlock: Unlock) -> None:
        """Use the folder `broker` of a home; `unlock` opens what is in it."""
        self._folder = home / FOLDER
        self._unlock = unlock

    def all(self) -> list[Deposit]:
        """Return every deposit, the newest first.

        Raises:
            FormatError: A file is damaged.
        """
        gone = {path.stem: _of_tombstone(path) for path in self._files(_REVOKED)}
        kept = [
            _of_header(self._header(path))
            for path in self._files(_SEALED)
            if path.stem not in gone
        ]
        found = [*kept, *gone.values()]
        return sorted(found, key=lambda d: d.deposited_at, reverse=True)

    def check_can_open(self) -> None:
        """Refuse a passphrase that is missing, or is not that of the keys here.

        Raises:
            AuthError: It is.
        """
        self._passphrase()

    def add(self, bundle: Bundle, content_key: bytes, policy: KeyPolicy) -> None:
        """Keep the key of a sealed model, and for whom it is.

        Raises:
            AuthError: See `check_can_open`.
        """
        deposit = Deposit(
            model=f"{bundle.manifest.name}/{bundle.manifest.version}",
            model_sha256=bundle.sha256,
            allow_simulated=policy.allow_simulated,
            deposited_at=now(),
        )
        params = bundle.manifest.mode(Mode.TEE).params
        measured = before_its_model(params.get("measurements"))
        secret = {
            "content_key": b64url(content_key),
            "policy": policy.as_dict(),
            "measurements": measured.as_dict(),
        }
        phrase, salt = self._passphrase()
        about = {"kind": _KIND, **asdict(deposit)}
        sealed = seal(canonical_json(secret), about=about, passphrase=phrase, salt=salt)
        write_atomic(self._path(bundle.sha256), sealed, private=True)

    def open(self, model_sha256: str) -> Opened:
        """Return a model's deposit with its content key, and for whom that is.

        Raises:
            NotFoundError: None was deposited here, or it was revoked.
            AuthError: The passphrase is missing or wrong.
            FormatError: The file is damaged.
        """
        self.known(model_sha256)
        path = self._path(model_sha256)
        try:
            raw = path.read_bytes()
        except FileNotFoundError:  # revoked just now
            raise self._missing(model_sha256) from None
        deposit = _of_header(read_header(raw, what=path.name))
        if deposit.model_sha256 != model_sha256:
            raise _damaged(path)
        phrase, _ = self._passphrase()
        secret = parse_object(
            unseal(raw, passphrase=phrase, what=path.name), what=path.name
        )
        return Opened(
            deposit,
            b64url_decode(secret["content_key"], what="content key"),
            KeyPolicy.of(secret["policy"]),
            Measurements.from_dict(secret["measurements"]),
        )

    def known(self, model_sha256: str) -> None:
        """Refuse a model whose key is not here, without opening any.

        Raises:
            NotFoundError: None was deposited here, or it was revoked.
        """
        path = self._path(model_sha256)
        if path.with_suffix(_REVOKED).exists() or not path.is_file():
            raise self._missing(model_sha256)

    def find(self, model: str) -> Deposit:
        """Return the deposit of `name/version`, or of a model digest.

        Raises:
            NotFoundError: There is none.
            ConflictError: There are several of that name and version.
        """
        found = [d for d in self.all() if model in (d.model, d.model_sha256)]
        if not found:
            msg = (
                f"no key of {model[:130]} was deposited here: see `privacy broker list`"
            )
            raise NotFoundError(msg, code="unknown-key")
        if len(found) > 1:
            msg = f"several keys of {model[:130]} are here: give the model digest"
            raise ConflictError(msg, code="ambiguous-key")
        return found[0]

    def revoke(self, model: str) -> Deposit:
        """Erase a key for good and remember that it was here; see `find`."""
        found = self.find(model)
        path = self._path(found.model_sha256)
        if not found.revoked_at:
            found = replace(found, revoked_at=now())
            raw = canonical_json(asdict(found))
            write_atomic(path.with_suffix(_REVOKED), raw, private=True)
        path.unlink(missing_ok=True)  # still there if we died before it, the last time
        return found

    def _missing(self, model_sha256: str) -> NotFoundError:
        tombstone = self._path(model_sha256).with_suffix(_REVOKED)
        if tombstone.is_file():
            gone = _of_tombstone(tombstone)
            msg = f"the key of {gone.model} was revoked at {gone.revoked_at}"
            return NotFoundError(msg, code="key-revoked")
        msg = (
            f"this broker has no key of model {model_sha256[:12]}: ask the publisher "
            "which broker has it"
        )
        return NotFoundError(msg, code="unknown-key")

    def _passphrase(self) -> tuple[str, bytes | None]:
        """Return the passphrase, and the salt of the keys that are under it."""
        there = self._files(_SEALED)
        try:
            phrase = self._unlock.new_passphrase(is_first=not there)
        except AuthError as exc:
            raise AuthError(_NO_PASSPHRASE, code=exc.code) from None
        if phrase is None:  # the unlock allows plaintext, this store does not
            raise AuthError(_NO_PASSPHRASE, code="passphrase-missing")
        if not there:
            return phrase, None
        header = self._header(there[0])
        try:
            content_key_of(header, phrase, what="the broker's keys")
        except AuthError:
            self._unlock.forget()
            raise
        return phrase, b64url_decode(header.lock["salt"], what="salt")

    def _files(self, suffix: str) -> list[Path]:
        return sorted(self._folder.glob(f"*{suffix}"))

    def _header(self, path: Path) -> Header:
        with path.open("rb") as file:
            return read_header(file.read(MAX_HEADER_BYTES + 64), what=path.name)

    def _path(self, model_sha256: str) -> Path:
        name = check_sha256(model_sha256, what="model digest")
        return self._folder / f"{name}{_SEALED}"


def _of_header(header: Header) -> Deposit:
    about = dict(header.about)
    if about.pop("kind", None) != _KIND or not header.is_protected:
        msg = "a file among the broker's keys is none of them: remove it"
        raise FormatError(msg, code="keys-damaged")
    return _deposit(about)


def _of_tombstone(path: Path) -> Deposit:
    return _deposit(parse_object(path.read_bytes(), what=path.name))


def _deposit(value: Json) -> Deposit:
    try:
        return Deposit(**value)
    except TypeError as exc:
        msg = "what the broker noted of a key is not as it notes it: restore the file"
        raise FormatError(msg, code="keys-damaged") from exc


def _damaged(path: Path) -> FormatError:
    msg = f"{path.name} is about another model: restore the broker's files"
    return FormatError(msg, code="keys-damaged")
