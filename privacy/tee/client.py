"""The data owner's side of the mode: check evidence, seal, open, without I/O.

    session = TeeSession(model_sha256=…, reference=…, columns=…)
    evidence = …                                  # fetched with session.nonce
    session.check_evidence(evidence, now=now)     # nothing is sealed before this
    sealed = session.seal(rows)
    outputs = session.open(output, job_evidence, sealed=sealed, now=now)

Rows are standardised features; outputs are raw, before the model's activation. Time
is an argument. Reply keys live in the session only: an answer can be opened by the
session that sealed its input.
"""

import secrets
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np

from privacy.encoding import Json, sha256_hex
from privacy.errors import AppraisalError, CannotVerifyError, VerificationError
from privacy.modes import Mode
from privacy.tee.appraise import AttestationResult, PolicyRefusal
from privacy.tee.attest import Verdict, attest
from privacy.tee.checks import Check, Checklist
from privacy.tee.collateral import CollateralSource, FileCollateral
from privacy.tee.evidence import (
    JOB_BYTES,
    NONCE_BYTES,
    Evidence,
    Statement,
    parse_evidence,
)
from privacy.tee.kem import KemPublicKey, choose
from privacy.tee.origin import names_simulated
from privacy.tee.parse import Measurements
from privacy.tee.platforms import platform_values
from privacy.tee.policy import EvidencePolicy, Relaxations
from privacy.tee.runtime_log import check_started, register_of
from privacy.tee.seal import REPLY_KEY_BYTES, Purpose, open_answer, seal_input
from privacy.tee.simulated_collateral import SimulatedCollateral
from privacy.tee.trust import hardware_trust_store, simulated_trust_store

NOTHING = FileCollateral(())


def new_nonce() -> bytes:
    """Return a fresh random nonce, 32 bytes."""
    return secrets.token_bytes(NONCE_BYTES)


def new_job() -> bytes:
    """Return a fresh random name for a job, 32 bytes."""
    return secrets.token_bytes(JOB_BYTES)


def check_evidence(  # noqa: PLR0913 - all that makes evidence acceptable
    evidence: bytes,
    *,
    nonce: bytes,
    reference: Json,
    model_sha256: str,
    now: datetime,
    collateral: CollateralSource = NOTHING,
    platform: EvidencePolicy | None = None,
    allow_simulated: bool = False,
    circuit_sha256: str = "",
) -> AttestationResult:
    """Return the attestation result if an enclave with this model made the evidence.

    Args:
        evidence: From the node, with or without a job's statement.
        nonce: What the evidence was asked for with; shows that it is fresh.
        reference: `measurements` in the manifest's params of this mode.
        model_sha256: The model digest.
        now: When certificates must be valid, with a time zone.
        collateral: What the platform's TCB status and revocation are looked up in; the
            simulated vendors' is made here.
        platform: What the machine below the enclave must show, where hardware measured
            it as a whole; without it, the enclave's own registers.
        allow_simulated: Accept evidence that proves nothing.
        circuit_sha256: Of the circuit, for an enclave that also proves; see
            `privacy.tee_zkml.circuit.circuit_sha256`.

    Raises:
        FormatError: The evidence is malformed.
        VerificationError: It is not genuine, or not for this nonce or model.
        AppraisalError: It is genuine, but shows something else than the reference, or
            a platform that is not up to date.
        CannotVerifyError: Collateral is missing or out of date.
    """
    shown = parse_evidence(evidence)
    if shown.nonce != nonce:
        msg = "the evidence answers another nonce: it may be a replay; ask again"
        raise VerificationError(msg, code="nonce-mismatch")
    if shown.model_sha256 != model_sha256:
        msg = (
            f"the evidence is about model {shown.model_sha256[:12]}, expected "
            f"{model_sha256[:12]}"
        )
        raise VerificationError(msg, code="model-mismatch")
    expected = replace(
        Measurements.from_dict(reference), rtmr3=register_of(shown.event_log)
    )
    verdict, _ = verdict_on(
        shown,
        expected,
        platform=platform,
        now=now,
        collateral=collateral,
        allow_simulated=allow_simulated,
    )
    check_started(shown.event_log, shown.start(expected, circuit_sha256))
    events = ", ".join(event.name for event in shown.event_log)
    line = Check("event-log", events, "a start as measured", ok=True, code="ok")
    cpu = verdict.claims[0]
    return AttestationResult(
        simulated=any(c.simulated for c in verdict.claims),
        verified_at=now.isoformat(),
        measurements=expected,
        report_data=shown.report_data,
        checks=(*verdict.checks, line),
        tcb_status=cpu.tcb_status,
        advisories=cpu.advisories,
    )


def verify_job_evidence(  # noqa: PLR0913 - all that a receipt says of a job
    evidence: bytes,
    *,
    reference: Json,
    model_sha256: str,
    input_sha256: str,
    output_sha256: str,
    now: datetime,
    collateral: CollateralSource = NOTHING,
    platform: EvidencePolicy | None = None,
    allow_simulated: bool = False,
    circuit_sha256: str = "",
) -> AttestationResult:
    """Return the attestation result if the enclave vouches for a job's digests.

    For anyone with a receipt. Freshness is not shown: the nonce is the evidence's own.

    Args:
        evidence: The job's evidence blob.
        reference: `measurements` in the manifest's params of this mode.
        model_sha256: The model digest.
        input_sha256: Of the sealed input, as the receipt gives it.
        output_sha256: Of the sealed answer, as the receipt gives it.
        now: When certificates must be valid: when the job finished, or now.
        collateral: See `check_evidence`; it must count at that time.
        platform: See `check_evidence`.
        allow_simulated: Accept evidence that proves nothing.
        circuit_sha256: See `check_evidence`.

    Raises:
        CannotVerifyError: Collateral is missing or out of date.
        FormatError: The evidence is malformed.
        VerificationError: It is not genuine, or about another job.
        AppraisalError: It is genuine, but shows something else than the reference.
    """
    shown = parse_evidence(evidence)
    if shown.statement is None:
        msg = "the evidence holds no statement about a job"
        raise VerificationError(msg, code="statement-missing")
    result = check_evidence(
        evidence,
        nonce=shown.nonce,
        reference=reference,
        model_sha256=model_sha256,
        now=now,
        collateral=collateral,
        platform=platform,
        allow_simulated=allow_simulated,
        circuit_sha256=circuit_sha256,
    )
    if bool(shown.statement.proof_sha256) != bool(circuit_sha256):
        msg = "the enclave's statement names proofs, or none, against the job's mode"
        raise VerificationError(msg, code="statement-mismatch")
    expected = Statement(
        model_sha256=model_sha256,
        nonce=shown.nonce,
        job=shown.statement.job,
        input_sha256=input_sha256,
        output_sha256=output_sha256,
        simulated=result.simulated,
        proof_sha256=shown.statement.proof_sha256,
    )
    if shown.statement != expected:
        msg = "the enclave's statement is about another input, output or model"
        raise VerificationError(msg, code="statement-mismatch")
    shown.check_signature(expected)
    return result


class TeeSession:
    """One conversation with one enclave: its nonce, its keys, and our reply keys."""

    def __init__(  # noqa: PLR0913 - all that makes evidence acceptable
        self,
        *,
        model_sha256: str,
        reference: Json,
        columns: int,
        collateral: CollateralSource = NOTHING,
        platform: EvidencePolicy | None = None,
        allow_simulated: bool = False,
        circuit_sha256: str = "",
        require_hybrid: bool = False,
    ) -> None:
        """Choose a nonce.

        Args:
            model_sha256: The model digest.
            reference: `measurements` in the manifest's params of this mode.
            columns: How many features the model takes.
            collateral: See the function `check_evidence`.
            platform: See the function `check_evidence`.
            allow_simulated: Accept evidence that proves nothing.
            circuit_sha256: Of the circuit, for mode tee+zkml; see `check_evidence`.
            require_hybrid: Seal to no key that a quantum computer breaks.
        """
        self.nonce = new_nonce()
        self._model_sha256 = model_sha256
        self._reference = reference
        self._columns = columns
        self._collateral = collateral
        self._platform = platform
        self._allow_simulated = allow_simulated
        self._circuit_sha256 = circuit_sha256
        self._mode = str(Mode.TEE_ZKML if circuit_sha256 else Mode.TEE)
        self._require_hybrid = require_hybrid
        self._enclave: Evidence | None = None
        self._sealed: dict[str, tuple[bytes, Purpose, int]] = {}

    def check_evidence(self, evidence: bytes, *, now: datetime) -> AttestationResult:
        """Return the attestation result, and seal to this enclave from now on.

        Raises:
            See the function `check_evidence`.
        """
        result = check_evidence(
            evidence,
            nonce=self.nonce,
            reference=self._reference,
            model_sha256=self._model_sha256,
            now=now,
            collateral=self._collateral,
            platform=self._platform,
            allow_simulated=self._allow_simulated,
            circuit_sha256=self._circuit_sha256,
        )
        self._enclave = parse_evidence(evidence)
        return result

    @property
    def kem(self) -> str:
        """The key encapsulation that inputs are sealed with.

        Raises:
            VerificationError: No evidence was checked yet, or the enclave offers none
                that this side accepts.
        """
        return self._key().kem

    def seal(self, rows: object, *, salt: bytes = b"") -> bytes:
        """Return rows sealed to the enclave; may be called for several inputs.

        Args:
            rows: Standardised features, a list of rows or an array (rows, columns).
            salt: 32 random bytes for the proofs, in mode tee+zkml.

        Raises:
            VerificationError: No evidence was checked yet.
            FormatError: The rows are not such rows.
        """
        key = self._key()
        as_list = rows.tolist() if isinstance(rows, np.ndarray) else rows
        reply_key = secrets.token_bytes(REPLY_KEY_BYTES)
        purpose = Purpose(self._model_sha256, self.nonce, new_job(), self._mode)
        sealed = seal_input(
            as_list,
            columns=self._columns,
            key=key,
            purpose=purpose,
            reply_key=reply_key,
            salt=salt,
        )
        count = len(as_list)  # type: ignore[arg-type]  # sealing checked it
        self._sealed[sha256_hex(sealed)] = (reply_key, purpose, count)
        return sealed

    def open(
        self,
        output: bytes,
        evidence: bytes,
        *,
        now: datetime,
        sealed: bytes | None = None,
    ) -> Any:
        """Return raw outputs, shape (rows, outputs), after verifying the evidence.

        Args:
            output: The job's output blob.
            evidence: The job's evidence blob.
            now: When certificates must be valid, with a time zone.
            sealed: The input that is answered; may be left out if there was but one.

        Raises:
            FormatError: Evidence or answer are malformed.
            VerificationError: The enclave that was checked did not make this answer
                to this input.
        """
        return self.open_proven(output, evidence, now=now, sealed=sealed)[0]

    def open_proven(
        self,
        output: bytes,
        evidence: bytes,
        *,
        now: datetime,
        sealed: bytes | None = None,
    ) -> tuple[Any, bytes]:
        """Return raw outputs and the proofs that came with them; see `open`.

        The proofs are those that the enclave's statement names; they are not verified.
        """
        enclave = self._checked()
        shown = parse_evidence(evidence)
        input_sha256 = self._which(sealed)
        if shown.statement is None or shown.statement.input_sha256 != input_sha256:
            msg = "the evidence is not about the input that this session sealed"
            raise VerificationError(msg, code="statement-mismatch")
        reply_key, purpose, count = self._sealed[input_sha256]
        if shown.statement.job != purpose.job:
            msg = "the enclave's statement is about another job than was sealed"
            raise VerificationError(msg, code="statement-mismatch")
        if _keys(shown) != _keys(enclave) or shown.nonce != self.nonce:
            msg = "another enclave than the one that was checked made this answer"
            raise VerificationError(msg, code="enclave-changed")
        verify_job_evidence(
            evidence,
            reference=self._reference,
            model_sha256=self._model_sha256,
            input_sha256=input_sha256,
            output_sha256=sha256_hex(output),
            now=now,
            collateral=self._collateral,
            platform=self._platform,
            allow_simulated=self._allow_simulated,
            circuit_sha256=self._circuit_sha256,
        )
        outputs, proofs = open_answer(
            output, reply_key, purpose=purpose, input_sha256=input_sha256
        )
        if len(outputs) != count:
            msg = f"the answer has {len(outputs)} rows, expected {count}"
            raise VerificationError(msg, code="wrong-row-count")
        if shown.statement.proof_sha256 != (sha256_hex(proofs) if proofs else ""):
            msg = "the proofs in the answer are not those that the enclave's statement "
            msg += "names"
            raise VerificationError(msg, code="statement-mismatch")
        return np.asarray(outputs, dtype=np.float64), proofs

    def _which(self, sealed: bytes | None) -> str:
        """Return the digest of one input: a host that has several may swap answers."""
        known = list(self._sealed) if sealed is None else [sha256_hex(sealed)]
        if len(known) != 1 or known[0] not in self._sealed:
            msg = (
                f"this session sealed {len(self._sealed)} inputs, and none or several "
                "of them are meant: give the sealed input that is answered"
            )
            raise VerificationError(msg, code="statement-mismatch")
        return known[0]

    def _key(self) -> KemPublicKey:
        offered = self._checked().hpke_public_keys
        return choose(offered, require_hybrid=self._require_hybrid)

    def _checked(self) -> Evidence:
        if self._enclave is None:
            msg = "no evidence was checked yet: call check_evidence first"
            raise VerificationError(msg, code="evidence-unchecked")
        return self._enclave


def _keys(shown: Evidence) -> tuple[object, ...]:
    return (
        shown.hpke_public_keys,
        shown.signing_public_key,
        shown.chain_public_key,
    )


def verdict_on(
    shown: Evidence,
    measured: Measurements,
    *,
    platform: EvidencePolicy | None,
    now: datetime,
    collateral: CollateralSource,
    allow_simulated: bool,
) -> tuple[Verdict, EvidencePolicy]:
    """Return the verdict on the evidence of CPU and devices, and what it was held to.

    What the event log tells is left to the caller.

    1. Which vendors are trusted follows from what is allowed, and what is named.
    2. The evidence is genuine, its platform up to date and not revoked.
    3. It shows what the enclave's registers give, or what the platform's policy asks
       for, and vouches for all that `shown` tells.
    4. Devices answered this very nonce.
    """
    raw = shown.to_bytes()
    simulated = names_simulated(shown.quote)
    trusted = simulated and allow_simulated
    values = platform_values(shown.format, measured) if simulated else {}
    given = collateral.collateral(raw)
    if trusted:
        given += SimulatedCollateral(now).collateral(raw)
    checks, policy = Checklist(), _wanted(shown, values, platform)
    try:
        verdict = attest(
            raw,
            trust_store=simulated_trust_store() if trusted else hardware_trust_store(),
            collateral=given,
            now=now,
            checks=checks,
            policy=policy,
        )
    except AppraisalError as exc:
        raise PolicyRefusal(tuple(checks.lines)) from exc
    if not (simulated or platform):
        msg = (
            "the evidence is of hardware, which measured a whole machine, and nothing "
            "says what that must be: give a platform policy with its reference values"
        )
        raise CannotVerifyError(msg, code="platform-policy-missing")
    _, *devices = verdict.claims
    if any(device.nonce != shown.nonce.hex() for device in devices):
        msg = "a device answers another nonce: its report may be a replay; ask again"
        raise VerificationError(msg, code="nonce-mismatch")
    return verdict, policy


def _wanted(
    shown: Evidence, values: dict[str, str], platform: EvidencePolicy | None
) -> EvidencePolicy:
    """Return what the evidence must show; what it vouches for is always compared."""
    bound = shown.bound.hex()
    if platform is None:
        return EvidencePolicy(
            relaxations=Relaxations(),
            measurements={shown.format: {n: (v,) for n, v in values.items()}},
            report_data=bound,
            require_gpu=bool(shown.device_evidence),
        )
    relaxations = replace(platform.relaxations, allow_any_report_data=False)
    return replace(platform, relaxations=relaxations, report_data=bound)
