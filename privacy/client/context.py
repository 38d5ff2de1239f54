"""What the client side of a job shares in every mode, and what a session is."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from privacy.bundle import Bundle
from privacy.client.answer import Check
from privacy.client.home import Home
from privacy.client.keystore import KeyStore
from privacy.client.model import Notify
from privacy.client.passphrase import Unlock
from privacy.client.wire import Flow
from privacy.encoding import Json
from privacy.errors import FormatError
from privacy.modes import Mode

if TYPE_CHECKING:
    from privacy.tee.policy import EvidencePolicy
    from privacy.zkml import Verifier

_MAX_POLICY_BYTES = 1 << 20
T = TypeVar("T")
_VERIFIER = "verifier"


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What a job is sent with beside its input.

    Attributes:
        options: What its receipt shall say was chosen for it.
        verify: Whether the gateway shall look at it twice: `always`, `never` or
            `sampled`; "" leaves it to the gateway.
    """

    options: Json = field(default_factory=dict)
    verify: str = ""


@dataclass(slots=True)
class Context:
    """What flows share: where things are, what is allowed, whom to tell.

    Attributes:
        tell: Hears each step of a session with an enclave.
        memory: What was loaded, kept for the next job: FHE keys by their key set, and
            by model as its jobs use them.
        lock: Held while `memory` is read or filled.
        unlock: Opens the key store.
        extras: What a job is sent with.
    """

    home: Home
    gateway: str
    notify: Notify
    allow_simulated: bool = False
    allow_insecure_srs: bool = False
    allow_out_of_range: bool = False
    require_hybrid: bool = False
    tell: Notify = lambda _: None
    platform: "EvidencePolicy | None" = None
    unlock: Unlock = field(default_factory=Unlock)
    extras: Extras = field(default_factory=Extras)
    memory: dict[str, Any] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    @property
    def store(self) -> KeyStore:
        """The data owner's FHE keys."""
        return KeyStore(self.home, self.unlock)

    def verifier(self) -> "Verifier":
        """Return the one that checks proofs, kept for the next job."""
        from privacy.zkml import Verifier

        with self.lock:
            found: Verifier = self.memory.setdefault(_VERIFIER, Verifier())
        return found

    def close(self) -> None:
        """End what runs beside this process."""
        with self.lock:
            verifier = self.memory.pop(_VERIFIER, None)
        if verifier:
            verifier.close()


@dataclass(frozen=True, slots=True)
class Prepared:
    """An input ready for upload.

    Attributes:
        blob: What the node gets; its SHA-256 is the input commitment.
        keys_sha256: The evaluation keys that are on the gateway, or "".
        rows: The standardised rows, which never leave the client unless the mode says.
        salt: What the evidence is about, beside the rows; empty if it is not.
        job: The data owner's name for the job, if the input is bound to one.
    """

    blob: bytes
    rows: Any
    keys_sha256: str = ""
    salt: bytes = b""
    job: str = ""


@dataclass(frozen=True, slots=True)
class Opened:
    """A verified output: raw outputs, shape (rows, outputs), and what was checked.

    Attributes:
        proofs: What came inside a sealed answer, to be kept and perhaps given away.
    """

    raw: Any
    checks: tuple[Check, ...]
    caveats: tuple[str, ...] = ()
    simulated: bool = False
    proofs: bytes = b""


class Session(Protocol):
    """One job's client side."""

    def prepare(self, rows: Any) -> Flow[Prepared]:
        """Return the input blob for standardised rows, shape (rows, features)."""
        ...

    def finish(
        self, prepared: Prepared, output: bytes, evidence: bytes
    ) -> Flow[Opened]:
        """Verify the evidence and return the opened output."""
        ...


def load_platform_policy(path: Path | None) -> "EvidencePolicy | None":
    """Return the policy on the machine below an enclave, if a file is given.

    Raises:
        FormatError: There is no such file, or it is no such policy.
    """
    if path is None:
        return None
    from privacy.tee.policy import parse_platform_policy

    if not path.is_file():
        raise FormatError(f"there is no file {path}", code="no-such-file")
    with path.open("rb") as file:
        return parse_platform_policy(file.read(_MAX_POLICY_BYTES + 1))


def param(bundle: Bundle, mode: Mode, name: str, kind: type[T]) -> T:
    """Return what the manifest says of a mode under a name.

    Raises:
        NotFoundError: The model does not offer the mode.
        FormatError: The manifest does not say it, or not as that type.
    """
    value = bundle.manifest.mode(mode).params.get(name)
    if not isinstance(value, kind):
        msg = f"the manifest's {mode} part lacks {name}: the model must be republished"
        raise FormatError(msg, code="bundle-format")
    return value
