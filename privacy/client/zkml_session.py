"""The data owner's side of a job in mode zkml: check proofs against the own input."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from privacy.bundle import Bundle
from privacy.client.answer import Check
from privacy.client.context import Context, Opened, Prepared, param
from privacy.client.wire import Flow, Work
from privacy.encoding import b64url, canonical_json, parse_canonical
from privacy.errors import AppraisalError, VerificationError
from privacy.modes import Mode

if TYPE_CHECKING:
    from privacy.zkml import Verifier


def check_srs(context: Context, bundle: Bundle, mode: Mode) -> None:
    """Refuse a mode whose proofs would not be accepted, before a row is sent for them.

    Raises:
        AppraisalError: Their SRS is one that its maker can forge with.
    """
    if mode not in {Mode.ZKML, Mode.TEE_ZKML} or context.allow_insecure_srs:
        return
    if param(bundle, Mode.ZKML, "insecure_srs", bool):
        msg = (
            "nothing was sent: the proofs would be under an SRS that its maker can "
            "forge with. Have the model published under the public ceremony's, or say "
            "that you trust the publisher: allow_insecure_srs (--allow-insecure-srs)"
        )
        raise AppraisalError(msg, code="insecure-srs")


@dataclass(slots=True)
class ZkmlSession:
    """Sends clear rows, and checks the proofs about them."""

    context: Context
    bundle: Bundle

    def prepare(self, rows: Any) -> Flow[Prepared]:
        """Return the input blob; see `Session`."""
        from privacy.zkml.params import is_salted

        salt = os.urandom(32)
        message = {"rows": rows.tolist(), "salt": b64url(salt)}
        blob: bytes = yield Work(lambda: canonical_json(message))
        return Prepared(blob, rows, salt=salt if is_salted(self.bundle) else b"")

    def finish(
        self, prepared: Prepared, output: bytes, evidence: bytes
    ) -> Flow[Opened]:
        """Verify and open the output; see `Session`."""
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
