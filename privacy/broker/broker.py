"""The decision: does this evidence get that model's key? RATS background check.

    1. A node asks for a nonce for a model; the nonce counts once, for a minute.
    2. The model's enclave, which has no model yet, makes evidence over the nonce and
       its HPKE key; the node carries it here.
    3. The evidence is verified, and held against the publisher's policy.
    4. The decision is signed and written down, before anything is given out.
    5. The content key, sealed to the enclave's HPKE key, goes back the same way.

The node learns neither the key nor how to ask for another enclave: the release opens in
that enclave only, and the evidence vouches for nonce, HPKE key and model together.
"""

import secrets
import threading
from dataclasses import replace
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.broker.decisions import Decision, Decisions
from privacy.broker.deposits import Deposit, Deposits, Opened
from privacy.encoding import Json, b64url
from privacy.errors import (
    AppraisalError,
    CannotVerifyError,
    FormatError,
    PrivacyError,
    VerificationError,
)
from privacy.tee.attest import Verdict
from privacy.tee.client import NOTHING, verdict_on
from privacy.tee.collateral import CollateralSource
from privacy.tee.ear import sign_refusal, sign_result
from privacy.tee.evidence import NONCE_BYTES, Evidence, parse_evidence
from privacy.tee.key_release import seal_release
from privacy.tee.policy import EvidencePolicy
from privacy.tee.runtime_log import check_started, register_of

NONCE_LIFETIME = timedelta(minutes=1)
_MAX_NONCES = 4096
_BEFORE_ITS_MODEL = ("measured", "keys")  # what an enclave has logged by then


class Broker:
    """Releases keys to enclaves that policies accept. Safe for several threads."""

    def __init__(
        self,
        deposits: Deposits,
        decisions: Decisions,
        key: Ed25519PrivateKey,
        *,
        collateral: CollateralSource = NOTHING,
    ) -> None:
        """Release what was deposited.

        Args:
            deposits: The keys, and for whom they are.
            decisions: Where every decision is written down.
            key: The Verifier's, which signs them.
            collateral: What the platforms' TCB status is looked up in.
        """
        self._deposits = deposits
        self._decisions = decisions
        self._key = key
        self._collateral = collateral
        self._lock = threading.Lock()
        self._nonces: dict[bytes, tuple[str, datetime]] = {}

    def challenge(self, model_sha256: str, *, now: datetime) -> bytes:
        """Return a nonce for one request for a model's key.

        Raises:
            NotFoundError: The key was never here, or was revoked.
        """
        self._deposits.known(model_sha256)
        nonce = secrets.token_bytes(NONCE_BYTES)
        with self._lock:
            while self._nonces:  # in the order in which they end
                oldest, (_, until) = next(iter(self._nonces.items()))
                if until > now and len(self._nonces) < _MAX_NONCES:
                    break
                del self._nonces[oldest]
            self._nonces[nonce] = (model_sha256, now + NONCE_LIFETIME)
        return nonce

    def release(self, evidence: bytes, *, now: datetime) -> tuple[bytes, str]:
        """Return a model's key sealed to the enclave that made evidence, and the token.

        Raises:
            FormatError: The evidence is malformed.
            NotFoundError: The key was never here, or was revoked.
            VerificationError: The nonce does not count ("nonce-refused"), or the
                evidence is not genuine; an `AppraisalError` if the policy refuses it.
            CannotVerifyError: Collateral of the platform is missing here.
        """
        shown = parse_evidence(evidence)
        self._spend(shown, now)
        opened = self._deposits.open(shown.model_sha256)
        deposit = opened.deposit
        try:
            verdict, held = self._appraise(shown, opened, now)
            sealed = seal_release(opened.content_key, shown)
        except (VerificationError, CannotVerifyError, FormatError) as exc:
            self._write_down(shown, deposit, now, exc)
            raise
        about = {**_about(deposit), "key_released": True}
        token = sign_result(
            verdict, held, self._key, nonce=b64url(shown.nonce), about=about
        )
        self._decisions.add(_decision(deposit, now, token, None))
        return sealed, token

    def _spend(self, shown: Evidence, now: datetime) -> None:
        with self._lock:
            model_sha256, until = self._nonces.pop(shown.nonce, ("", now))
        if model_sha256 != shown.model_sha256 or until <= now:
            msg = (
                "the evidence answers no nonce that this broker gave for this model "
                "within the last minute: it may be a replay; ask for a new nonce"
            )
            raise VerificationError(msg, code="nonce-refused")

    def _appraise(
        self, shown: Evidence, opened: Opened, now: datetime
    ) -> tuple[Verdict, EvidencePolicy]:
        """Return the verdict on the evidence, and the policy it was held against."""
        log = shown.event_log
        expected = replace(opened.measurements, rtmr3=register_of(log))
        verdict = verdict_on(
            shown,
            expected,
            platform=opened.policy.platform,
            now=now,
            collateral=self._collateral,
            allow_simulated=opened.policy.allow_simulated,
        )
        start = shown.start(expected)
        check_started(log, {name: start[name] for name in _BEFORE_ITS_MODEL})
        if len(log) != len(_BEFORE_ITS_MODEL):
            msg = "the enclave's log goes on after its keys: it has a model already"
            raise AppraisalError(msg, code="event-log-mismatch")
        return verdict

    def _write_down(
        self, shown: Evidence, deposit: Deposit, now: datetime, why: PrivacyError
    ) -> None:
        token = sign_refusal(
            why,
            self._key,
            form=shown.format,
            at=now,
            nonce=b64url(shown.nonce),
            about={**_about(deposit), "key_released": False},
        )
        self._decisions.add(_decision(deposit, now, token, why))


def _about(deposit: Deposit) -> Json:
    return {"model": deposit.model, "model_sha256": deposit.model_sha256}


def _decision(
    deposit: Deposit, now: datetime, token: str, why: PrivacyError | None
) -> Decision:
    return Decision(
        at=now.isoformat(timespec="milliseconds"),
        model=deposit.model,
        model_sha256=deposit.model_sha256,
        released=why is None,
        code=why.code if why else "ok",
        message=why.message if why else "",
        ear=token,
    )
