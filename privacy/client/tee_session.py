"""The data owner's side of a job in the modes tee and tee+zkml: attest, seal, open."""

import os
from dataclasses import asdict, dataclass
from typing import Any

from privacy.bundle import Bundle
from privacy.client.answer import Check
from privacy.client.context import Context, Opened, Prepared, param
from privacy.client.wire import Call, Flow, Reply, Work
from privacy.client.zkml_session import proof_caveats, prove_input
from privacy.encoding import b64url
from privacy.errors import FormatError, PrivacyError, VerificationError
from privacy.modes import Mode

NOT_HYBRID = (
    "sealed with X25519 alone: the enclave or this client has no ML-KEM, and a quantum "
    "computer could read what was recorded"
)
SIMULATED = "the enclave is SIMULATED: it hides nothing from its operator"
SIMULATED_PROVEN = f"{SIMULATED}; the answer is proven all the same"


@dataclass(slots=True)
class TeeModeSession:
    """Seals rows to an enclave that it attested."""

    context: Context
    bundle: Bundle
    mode: Mode = Mode.TEE
    _session: Any = None
    _simulated: bool = False

    def prepare(self, rows: Any) -> Flow[Prepared]:
        """Return the input blob; see `Session`."""
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
        """Verify and open the output; see `Session`."""
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
class TeeZkmlSession(TeeModeSession):
    """As mode tee, and the sealed answer holds proofs, which it checks."""

    mode: Mode = Mode.TEE_ZKML

    def prepare(self, rows: Any) -> Flow[Prepared]:
        """Return the input blob; see `Session`."""
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
        """Verify and open the output; see `Session`."""
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
