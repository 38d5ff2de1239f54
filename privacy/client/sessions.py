"""What the data owner does in each mode before a job and after it."""

import os
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from privacy.bundle import Bundle
from privacy.client.answer import Check
from privacy.client.fhe_keys import FheKeys, load_fhe, upload_keys
from privacy.client.home import Home
from privacy.client.keystore import KeyStore
from privacy.client.model import Notify
from privacy.client.passphrase import Unlock
from privacy.client.wire import Call, Flow, Reply, Work
from privacy.encoding import b64url, canonical_json, parse_canonical
from privacy.errors import (
    FormatError,
    NotFoundError,
    PrivacyError,
    VerificationError,
)
from privacy.fhe.caveats import clipping_caveats, p_error_caveats
from privacy.modes import Mode

if TYPE_CHECKING:
    from privacy.tee.policy import EvidencePolicy
    from privacy.zkml import Verifier

_MAX_POLICY_BYTES = 1 << 20
T = TypeVar("T")
_VERIFIER = "verifier"
NOT_HYBRID = (
    "sealed with X25519 alone: the enclave or this client has no ML-KEM, and a quantum "
    "computer could read what was recorded"
)
SIMULATED = "the enclave is SIMULATED: it hides nothing from its operator"
SIMULATED_PROVEN = f"{SIMULATED}; the answer is proven all the same"


@dataclass(slots=True)
class Context:
    """What flows share: where things are, what is allowed, whom to tell.

    Attributes:
        tell: Hears each step of a session with an enclave.
        memory: What was loaded, kept for the next job: FHE keys by their key set, and
            by model as its jobs use them.
        lock: Held while `memory` is read or filled.
        unlock: Opens the key store.
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


def load_platform_policy(path: Path | None) -> "EvidencePolicy | None":
    """Return the policy on the machine below an enclave, if a file is given.

    Raises:
        NotFoundError: There is no such file.
        FormatError: It is no such policy.
    """
    if path is None:
        return None
    from privacy.tee.policy import parse_platform_policy

    if not path.is_file():
        raise NotFoundError(f"there is no file {path}", code="no-such-file")
    with path.open("rb") as file:
        return parse_platform_policy(file.read(_MAX_POLICY_BYTES + 1))


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


def session_for(mode: Mode, context: Context, bundle: Bundle) -> Session:
    """Return a new session of a mode for one job."""
    kinds: dict[Mode, type[_Fhe | _Zkml | _Tee | _TeeZkml]] = {
        Mode.FHE: _Fhe,
        Mode.ZKML: _Zkml,
        Mode.TEE: _Tee,
        Mode.TEE_ZKML: _TeeZkml,
    }
    return kinds[mode](context, bundle)


def attest_only(context: Context, bundle: Bundle) -> Flow[None]:
    """Attest a model's enclave and seal nothing; `context.tell` hears the steps.

    Raises:
        VerificationError: The evidence is not acceptable.
    """
    yield from _Tee(context, bundle).attest()


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


@dataclass(slots=True)
class _Fhe:
    context: Context
    bundle: Bundle
    _used: FheKeys | None = None

    def prepare(self, rows: Any) -> Flow[Prepared]:
        keys: FheKeys = yield Work(self._keys)
        self._used = keys  # the answer opens with these and no others
        keys_sha256 = ""
        if param(self.bundle, Mode.FHE, "needs_keys", bool):
            keys_sha256 = yield from upload_keys(self.context, keys)
        blob: bytes = yield Work(lambda: keys.client.encrypt(rows))
        return Prepared(blob, rows, keys_sha256)

    def _keys(self) -> FheKeys:
        memory, model = self.context.memory, self.bundle.sha256
        with self.context.lock:  # jobs at once must not make keys each
            if model not in memory:
                memory[model] = load_fhe(self.context, self.bundle)
            found: FheKeys = memory[model]
        return found

    def finish(
        self, prepared: Prepared, output: bytes, evidence: bytes
    ) -> Flow[Opened]:
        _ = evidence
        keys = self._used
        if keys is None:
            raise VerificationError("there is no input whose answer this could be")
        raw = yield Work(lambda: keys.client.decrypt(output, rows=len(prepared.rows)))
        check = Check("decrypted-here", "the key that opens the answer never left here")
        caveats = (
            *p_error_caveats(self.bundle.manifest.mode(Mode.FHE).params),
            *clipping_caveats(prepared.rows, keys.client.spec),
        )
        return Opened(raw, (check,), caveats)


@dataclass(slots=True)
class _Zkml:
    context: Context
    bundle: Bundle

    def prepare(self, rows: Any) -> Flow[Prepared]:
        from privacy.zkml.params import is_salted

        salt = os.urandom(32)
        message = {"rows": rows.tolist(), "salt": b64url(salt)}
        blob: bytes = yield Work(lambda: canonical_json(message))
        return Prepared(blob, rows, salt=salt if is_salted(self.bundle) else b"")

    def finish(
        self, prepared: Prepared, output: bytes, evidence: bytes
    ) -> Flow[Opened]:
        raw, checks = yield from prove_input(
            self.context, self.bundle, prepared, evidence
        )
        compare_outputs(output, raw)
        same = Check("proof-output", "the proofs' public outputs are the answer")
        return Opened(raw, (*checks, same), proof_caveats(self.bundle))


def prove_input(
    context: Context, bundle: Bundle, prepared: Prepared, proofs: bytes
) -> Flow[tuple[Any, tuple[Check, ...]]]:
    """Verify proofs about a job's input; return the proven outputs and the checks.

    Raises:
        See `verified_outputs`.
    """
    context.notify({"stage": "verify proofs"})
    shows_input = "input-hidden" not in weaknesses(bundle)
    raw = yield Work(
        lambda: verified_outputs(
            bundle,
            proofs,
            prepared.rows if shows_input else None,
            salt=prepared.salt,
            allow_insecure_srs=context.allow_insecure_srs,
            verifier=context.verifier(),
        )
    )
    detail = f"{len(raw)} proofs verify under the pinned verifying key"
    checks: tuple[Check, ...] = (Check("proof", detail),)
    if shows_input:
        of_job = " and this job" if prepared.salt else ""
        about = f"the proofs are about this input{of_job}"
        checks += (Check("proof-input", about),)
    return raw, checks


def proof_caveats(bundle: Bundle) -> tuple[str, ...]:
    """Return what weakens a model's proofs: what they hide, and who made their SRS.

    Whoever made an SRS can forge proofs under it, unless it is of a listed ceremony.
    """
    found = tuple(weaknesses(bundle).values())
    if not param(bundle, Mode.ZKML, "insecure_srs", bool):
        return found
    kind = param(bundle, Mode.ZKML, "srs", dict).get("kind")
    return (
        *found,
        f"INSECURE SRS ({kind}): whoever made it can forge these proofs",
    )


def weaknesses(bundle: Bundle) -> dict[str, str]:
    """Return what a model's proofs hide from their verifier, by code, in words."""
    from privacy.zkml.params import parse_params
    from privacy.zkml.visibility import weaknesses_of

    return weaknesses_of(
        parse_params(bundle.manifest.mode(Mode.ZKML).params).visibility
    )


def verified_outputs(
    bundle: Bundle,
    evidence: bytes,
    rows: Any | None,
    *,
    salt: bytes | None,
    allow_insecure_srs: bool,
    verifier: "Verifier | None" = None,
) -> Any:
    """Return the raw outputs that a job's proofs prove, shape (rows, outputs).

    Args:
        bundle: Where the verifying key, settings and SRS are; checked by digest.
        evidence: The proofs.
        rows: The standardised input, to check that the proofs are about it; or None.
        salt: The job's, which the proofs of salted circuits are about as well.
        allow_insecure_srs: Accept proofs that the maker of the SRS can forge.
        verifier: One that is kept; else a new one.

    Raises:
        VerificationError: A proof is false, about another input, or under an SRS that
            is not allowed.
        CannotVerifyError: The proof system is not installed.
    """
    from privacy.zkml import verify_proofs

    verify = verifier.verify if verifier else verify_proofs
    return verify(
        bundle, evidence, rows=rows, salt=salt, allow_insecure_srs=allow_insecure_srs
    )


def compare_outputs(output: bytes, raw: Any) -> None:
    """Refuse an output blob that says anything else than the proven outputs.

    Raises:
        VerificationError: It does.
    """
    told = parse_canonical(output, what="output").get("outputs")
    if canonical_json(told) != canonical_json(np.asarray(raw).tolist()):
        msg = "the outputs differ from those that the proofs prove"
        raise VerificationError(msg, code="proof-not-about-output")


@dataclass(slots=True)
class _Tee:
    context: Context
    bundle: Bundle
    mode: Mode = Mode.TEE
    _session: Any = None
    _simulated: bool = False

    def prepare(self, rows: Any) -> Flow[Prepared]:
        yield from self.attest()
        return self._sealed(self._session.seal(rows), rows)

    def _sealed(self, blob: bytes, rows: Any, *, salt: bytes = b"") -> Prepared:
        from privacy.tee.seal import parse_sealed

        sealed = parse_sealed(blob)
        self.context.tell(
            {
                "step": "seal",
                "kem": self._session.kem,
                "job": sealed.job.hex(),
                "rows": len(rows),
                "bytes": len(blob),
                "sha256": sealed.sha256,
            }
        )
        return Prepared(blob, rows, salt=salt, job=sealed.job.hex())

    def attest(self) -> Flow[None]:
        """Fetch the enclave's evidence for a fresh nonce, and check it."""
        from privacy.tee.client import TeeSession
        from privacy.tee.collateral import kept_in

        manifest = self.bundle.manifest
        session = self._session = TeeSession(
            model_sha256=self.bundle.sha256,
            reference=param(self.bundle, self.mode, "measurements", dict),
            columns=len(manifest.columns),
            collateral=kept_in(self.context.home.collateral),
            allow_simulated=self.context.allow_simulated,
            require_hybrid=self.context.require_hybrid,
            circuit_sha256=circuit_of(self.bundle, self.mode),
            platform=self.context.platform,
        )
        params = {
            "model": manifest.name,
            "version": manifest.version,
            "nonce": b64url(session.nonce),
            "mode": str(self.mode),
        }
        self.context.notify({"stage": "attest the enclave"})
        self.context.tell({"step": "nonce", "nonce": session.nonce.hex()})
        reply: Reply = yield Call("GET", "/v1/attestations", params=params)
        checks: tuple[Any, ...] = ()
        try:
            self._tell_evidence(reply.body)
            result = session.check_evidence(reply.body, now=self.context.now())
            checks = result.checks
        except FormatError as exc:
            raise VerificationError(exc.message, code=exc.code) from exc
        except PrivacyError as exc:
            checks = getattr(exc, "checks", ())
            raise
        finally:
            for check in checks:
                self.context.tell({"step": "check", **asdict(check)})
        self._simulated = result.simulated
        self.context.tell(
            {
                "step": "attested",
                "simulated": result.simulated,
                "tcb_status": result.tcb_status,
                "kem": session.kem,
            }
        )

    def _tell_evidence(self, evidence: bytes) -> None:
        from privacy.tee.evidence import parse_evidence

        shown = parse_evidence(evidence)
        self.context.tell(
            {
                "step": "evidence",
                "format": shown.format,
                "bytes": len(evidence),
                "offers": [key.kem for key in shown.hpke_public_keys],
                "events": [event.name for event in shown.event_log],
                "devices": bool(shown.device_evidence),
                "raw": evidence,
            }
        )

    def finish(
        self, prepared: Prepared, output: bytes, evidence: bytes
    ) -> Flow[Opened]:
        _ = prepared
        now = self.context.now()
        raw = yield Work(lambda: self._session.open(output, evidence, now=now))
        self.context.tell(
            {
                "step": "answer",
                "bytes": len(output),
                "rows": len(raw),
                "simulated": self._simulated,
            }
        )
        caveats = self._caveats(SIMULATED)
        return Opened(raw, self._checks(), caveats, simulated=self._simulated)

    def _caveats(self, simulated: str) -> tuple[str, ...]:
        from privacy.tee.kem import CLASSIC

        caveats = (simulated,) if self._simulated else ()
        return (*caveats, NOT_HYBRID) if self._session.kem == CLASSIC else caveats

    def _checks(self) -> tuple[Check, ...]:
        kind = "simulated, proves nothing" if self._simulated else "hardware"
        return (
            Check("attestation", f"quote, chain, nonce and measurement ({kind})"),
            Check(
                "sealing", f"to the attested enclave's key alone, {self._session.kem}"
            ),
            Check("enclave-signature", "input and output signed by the attested key"),
        )


def circuit_of(bundle: Bundle, mode: Mode) -> str:
    """Return the digest of the circuit that a mode's enclave proves with, or ""."""
    from privacy.tee_zkml.circuit import circuit_sha256

    return circuit_sha256(bundle.manifest) if mode is Mode.TEE_ZKML else ""


@dataclass(slots=True)
class _TeeZkml(_Tee):
    mode: Mode = Mode.TEE_ZKML

    def prepare(self, rows: Any) -> Flow[Prepared]:
        from privacy.zkml.params import is_salted, parse_params

        # Refused here, where the words may name row and column.
        parse_params(self.bundle.manifest.mode(Mode.ZKML).params).check_range(rows)
        yield from self.attest()
        salt = os.urandom(32)
        blob = self._session.seal(rows, salt=salt)
        about = salt if is_salted(self.bundle) else b""
        return self._sealed(blob, rows, salt=about)

    def finish(
        self, prepared: Prepared, output: bytes, evidence: bytes
    ) -> Flow[Opened]:
        from privacy.tee_zkml.client import check_agreement

        now = self.context.now()
        outputs, proofs = yield Work(
            lambda: self._session.open_proven(output, evidence, now=now)
        )
        raw, checks = yield from prove_input(
            self.context, self.bundle, prepared, proofs
        )
        apart = check_agreement(self.bundle.manifest, outputs, raw)
        agree = f"the enclave's own outputs are within {apart:.2g} of the proven ones"
        return Opened(
            raw,
            (*self._checks(), *checks, Check("agreement", agree)),
            (*self._caveats(SIMULATED_PROVEN), *proof_caveats(self.bundle)),
            simulated=self._simulated,
            proofs=proofs,
        )
