"""Check a job's proofs, as a client or as anyone who holds the public files."""

import json
import tempfile
import threading
from pathlib import Path
from typing import Any, Self

import numpy as np

from privacy.bundle import Bundle
from privacy.child import Child, ChildDied, Handler, Progress
from privacy.encoding import Json, sha256_hex
from privacy.errors import (
    AppraisalError,
    BackendError,
    CannotVerifyError,
    FormatError,
    NotFoundError,
    UnavailableError,
    VerificationError,
)
from privacy.modes import Mode
from privacy.zkml.blobs import Evidence, Proof, parse_evidence
from privacy.zkml.field import MODULUS, dequantize, from_hex
from privacy.zkml.params import ZkmlParams, parse_params
from privacy.zkml.srs import (
    check_verifier_srs,
    is_public,
    srs_facts,
    verifier_srs,
)
from privacy.zkml.system import CircuitFiles, ProofSystem, load_backend
from privacy.zkml.visibility import public_files

_MEMORY_BYTES = 8 << 30
_COMMITTED = frozenset({"hashed", "committed"})


def verify_proofs(
    bundle: Bundle,
    evidence: bytes,
    *,
    rows: Any | None,
    salt: bytes | None = None,
    allow_insecure_srs: bool = False,
    timeout_s: float = 120.0,
) -> Any:
    """Return the raw outputs that a job's proofs prove; see `Verifier.verify`."""
    with Verifier() as verifier:
        return verifier.verify(
            bundle,
            evidence,
            rows=rows,
            salt=salt,
            allow_insecure_srs=allow_insecure_srs,
            timeout_s=timeout_s,
        )


class Verifier:
    """Verifies proofs in a child process that is kept for the next ones.

    The engine takes a second to load, and then milliseconds a proof.

        with Verifier() as verifier:
            outputs = verifier.verify(bundle, evidence, rows=rows)
    """

    def __init__(self) -> None:
        """Start nothing yet."""
        self._child: Child | None = None
        self._lock = threading.Lock()

    def verify(
        self,
        bundle: Bundle,
        evidence: bytes,
        *,
        rows: Any | None,
        salt: bytes | None = None,
        allow_insecure_srs: bool = False,
        timeout_s: float = 120.0,
    ) -> Any:
        """Return the raw outputs that a job's proofs prove.

        After this a verifier knows, if the SRS comes from the public ceremony: somebody
        holds inputs with the commitments that stand in the proofs, and the circuit
        behind this verifying key maps them to these outputs. With `rows` given, those
        inputs are these rows, in this order; in salted circuits, of the job with this
        salt. The verifier does not know that the circuit is the model it was told about
        (the publisher made both), nor when or by whom the proof was made: in circuits
        without salt, a proof of an earlier job about the same row is as good. Without
        `rows`, nothing ties the proofs to any input: commitments to guessable rows can
        be searched where no salt is in them, and rows of another job would pass.

        Plan:
            1. Parse the evidence, exact to the byte; it must name this model.
            2. Read the verifying files and compare them with the manifest's digests.
            3. See from their own bytes whether the SRS is the public ceremony's.
            4. In a child process under a wall limit: verify each proof, and compare
               each commitment with my row.
            5. Compare inputs that are shown, and the weights, with the instances.
            6. Judge the SRS, and decode the outputs from the other instances.

        Args:
            bundle: The model as pinned by its digest; only the public files are read.
            evidence: The evidence blob; see `privacy.zkml.blobs`.
            rows: The standardised input, shape (rows, features), or None.
            salt: The job's 32 bytes of salt; needed with `rows` in salted circuits.
            allow_insecure_srs: Accept proofs that the SRS's maker can forge.
            timeout_s: Wall limit for all proofs together.

        Returns:
            float64, shape (rows, outputs).

        Raises:
            VerificationError: Something was checked and is false; the code says what:
                `evidence-malformed`, `wrong-model`, `wrong-proof-count`,
                `bundle-changed`, `proof-invalid`, `proof-not-about-input`,
                `proof-not-about-model`, `srs-degenerate` or `srs-mislabelled`.
            AppraisalError: All is true, but the SRS is `insecure-srs`.
            CannotVerifyError: The engine is missing or failed, or ran out of time; or
                the proofs hide the input that should be compared (`input-hidden`), or
                its salt is missing (`salt-missing`).
            FormatError: `rows` could not have been an input of this circuit.
        """
        params = parse_params(bundle.manifest.mode(Mode.ZKML).params)
        ours = None if rows is None else _our_rows(params, rows, salt)
        claim = _parse(evidence, params, None if ours is None else len(ours))  # 1
        if claim.model_sha256 != bundle.sha256:
            msg = (
                f"the proofs are of model {claim.model_sha256[:12]}, expected "
                f"{bundle.sha256[:12]}: ask for proofs of this model"
            )
            raise VerificationError(msg, code="wrong-model")
        compared = ours if params.visibility.input in _COMMITTED else None
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch)
            _pinned_files(bundle, root, params, whole_srs=compared is not None)  # 2
            insecure = _is_insecure(root)  # 3
            job = {
                "proofs": [p.to_json() for p in claim.proofs],
                "rows": compared,
                "input": params.visibility.input,
            }
            (root / "job.json").write_text(json.dumps(job))
            about = self._ask(root, timeout_s)  # 4
        for i, proof in enumerate(claim.proofs):  # 5
            if params.visibility.params == "hashed":
                _check_weights(params, proof)
            if ours is not None:
                same = about[i] if compared else _shows(params, proof, ours[i])
                _check_input(i, same=same)
        _appraise_srs(  # 6
            insecure,
            told={params.insecure_srs, claim.insecure_srs},
            allow_insecure_srs=allow_insecure_srs,
        )
        outputs = [params.outputs_of(p.instances) for p in claim.proofs]
        bits = params.output_scale_bits
        decoded = [dequantize(values, scale_bits=bits) for values in outputs]
        return np.array(decoded, dtype=np.float64)

    def _ask(self, root: Path, timeout_s: float) -> list[bool]:
        """Return of each proof whether it is about the row; raise if one is false."""
        engine = self._engine()
        try:
            answer = engine.call({"root": str(root)}, timeout_s=timeout_s)
        except ChildDied as exc:
            msg = f"the proof engine gave no answer within {timeout_s:g} s: "
            msg += exc.message
            raise CannotVerifyError(msg, code="verify-died") from exc
        except UnavailableError as exc:
            raise CannotVerifyError(exc.message, code=exc.code) from exc
        except BackendError as exc:
            self._end(engine)  # after a panic nobody knows its state
            msg = f"the proof engine failed: {exc.message}"
            raise CannotVerifyError(msg, code="verify-failed") from exc
        return [about is True for about in answer["about"]]

    def _engine(self) -> Child:
        with self._lock:
            if self._child is None or not self._child.alive:
                self.close()
                target = "privacy.zkml.verify:handler"
                self._child = Child(target, memory_bytes=_MEMORY_BYTES)
            return self._child

    def _end(self, engine: Child) -> None:
        with self._lock:
            if self._child is engine:
                self.close()

    def close(self) -> None:
        """End the child process, if there is one."""
        if self._child:
            self._child.close()
        self._child = None

    def __del__(self) -> None:
        """End the child process of one that nobody closed."""
        self.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the child process."""
        self.close()


def _our_rows(params: ZkmlParams, rows: Any, salt: bytes | None) -> list[list[int]]:
    """Return the rows as the circuit took them."""
    if params.visibility.input == "private":
        msg = "proofs of this model hide the input: nobody can compare it with rows"
        raise CannotVerifyError(msg, code="input-hidden")
    if params.visibility.salted and salt is None:
        msg = (
            "proofs of this model are about rows and the salt of their job: give the "
            "salt, which the data owner keeps beside the proofs (--salt)"
        )
        raise CannotVerifyError(msg, code="salt-missing")
    return params.circuit_rows(rows, salt or b"")


def _shows(params: ZkmlParams, proof: Proof, row: list[int]) -> bool:
    """Return whether the input among the instances is this row."""
    first = params.instances.index("input 1")
    shown = proof.instances[first : first + len(row)]
    return shown == tuple(v % MODULUS for v in row)


def _check_input(i: int, *, same: bool) -> None:
    if not same:
        msg = (
            f"proof {i + 1} is valid, but about another input than row {i + 1} of this "
            "job: the node answered a different question"
        )
        raise VerificationError(msg, code="proof-not-about-input")


def _is_insecure(root: Path) -> bool:
    """Return whether the SRS is another one than the public ceremony's.

    Raises:
        VerificationError: Under this SRS proofs mean nothing, or the verifier's part is
            not of the whole SRS, if that is here.
    """
    cut, whole = (root / "verifier.srs").read_bytes(), root / "kzg.srs"
    check_verifier_srs(cut)
    insecure = not is_public(cut)
    if whole.exists():
        try:
            facts, part = srs_facts(whole, development=True), verifier_srs(whole)
        except FormatError as exc:
            raise VerificationError(exc.message, code="srs-mislabelled") from exc
        if part != cut or (facts.kind != "public") != insecure:
            msg = "the verifier's part of the SRS and the whole are not of one ceremony"
            raise VerificationError(msg, code="srs-mislabelled")
    return insecure


def _check_weights(params: ZkmlParams, proof: Proof) -> None:
    if params.model_hash_of(proof.instances) != int(params.params_hash, 16):
        msg = "a proof is valid, but about other weights than the manifest's"
        raise VerificationError(msg, code="proof-not-about-model")


def _appraise_srs(
    insecure: bool,  # noqa: FBT001 - what was found
    *,
    told: set[bool],
    allow_insecure_srs: bool,
) -> None:
    if told != {insecure}:
        truth = "not the public ceremony's" if insecure else "the public ceremony's"
        msg = f"the SRS is {truth}, but the manifest or the proofs say otherwise"
        raise VerificationError(msg, code="srs-mislabelled")
    if insecure and not allow_insecure_srs:
        msg = (
            "the proofs hold, but under an SRS that its maker can forge with: have the "
            "model published under the public ceremony's, or accept that you trust the "
            "publisher with allow_insecure_srs (--allow-insecure-srs)"
        )
        raise AppraisalError(msg, code="insecure-srs")


def _parse(evidence: bytes, params: ZkmlParams, count: int | None) -> Evidence:
    try:
        claim = parse_evidence(
            evidence,
            instances=len(params.instances),
            proof_bytes=params.proof_bytes,
        )
    except FormatError as exc:
        msg = f"the proofs are not as this circuit makes them: {exc.message}"
        raise VerificationError(msg, code="evidence-malformed") from exc
    if count is not None and len(claim.proofs) != count:
        msg = f"there are {len(claim.proofs)} proofs for {count} rows"
        raise VerificationError(msg, code="wrong-proof-count")
    return claim


def _pinned_files(
    bundle: Bundle, root: Path, params: ZkmlParams, *, whole_srs: bool
) -> None:
    """Copy the verifying files, so that what was checked is what is used."""
    for name in public_files(params.visibility):
        if name == "kzg.srs" and not whole_srs:
            continue
        try:
            raw = bundle.path(f"zkml/{name}").read_bytes()
            expected = bundle.manifest.files[f"zkml/{name}"].sha256
        except (NotFoundError, OSError) as exc:
            msg = f"zkml/{name} is not here: download the model's public files"
            raise CannotVerifyError(msg, code="verifier-file-missing") from exc
        if sha256_hex(raw) != expected:
            msg = (
                f"zkml/{name} is {sha256_hex(raw)[:12]}, expected {expected[:12]}: "
                "the bundle was changed; download it again"
            )
            raise VerificationError(msg, code="bundle-changed")
        (root / name).write_bytes(raw)


def handler() -> Handler:
    """Return what the verifying child serves; see `_in_child`."""
    backend = load_backend()

    def serve(request: Json, progress: Progress) -> Json:
        files = CircuitFiles(Path(request["root"]))
        job = json.loads((files.root / "job.json").read_text())
        about: list[bool] = []
        rows = job["rows"]
        for i, item in enumerate(job["proofs"]):
            felts = [from_hex(f, what="an instance") for f in item["instances"]]
            proof = Proof(tuple(felts), bytes.fromhex(item["proof"]))
            backend.verify(files, proof)
            if rows is not None:
                about.append(_is_about(backend, files, job["input"], proof, rows[i]))
            progress({"stage": "verify", "done": i + 1, "total": len(job["proofs"])})
        return {"about": about}

    return serve


def _is_about(
    backend: ProofSystem, files: CircuitFiles, how: str, proof: Proof, row: list[int]
) -> bool:
    if how == "committed":
        return backend.commits_to(files, proof, row)
    return backend.hash_input(row) == proof.instances[0]
