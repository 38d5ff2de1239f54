"""What travels in a zkml job: the input, the outputs and the proofs, canonical JSON.

    input     {"rows": [[number, ...], ...], "salt": base64url of 32 random bytes}
    outputs   {"outputs": [[number, ...], ...]}
    evidence  {"insecure_srs": bool, "model_sha256": hex,
               "proofs": [{"instances": [felt, ...], "proof": hex}, ...]}

Rows are standardised features. The salt makes the blob's SHA-256 unguessable, and in
salted circuits the proof's commitment too (`privacy.zkml.salt`). A felt is 64 hex
digits, big-endian; `ZkmlParams.instances` says what the instances of a proof are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from privacy.encoding import (
    Json,
    b64url,
    b64url_decode,
    canonical_json,
    check_sha256,
    finite_rows,
    parse_canonical,
)
from privacy.errors import FormatError
from privacy.runs import MAX_ROWS
from privacy.zkml.field import from_hex, to_hex

_SALT_BYTES = 32
_EVIDENCE = {"insecure_srs", "model_sha256", "proofs"}


@dataclass(frozen=True, slots=True)
class Proof:
    """One proof and the instances (public inputs) it claims, as field elements."""

    instances: tuple[int, ...]
    proof: bytes

    def to_json(self) -> Json:
        """Return the proof as evidence holds it."""
        return {
            "instances": [to_hex(v) for v in self.instances],
            "proof": self.proof.hex(),
        }


def make_input(rows: Any, *, salt: bytes) -> bytes:
    """Return the input blob.

    Args:
        rows: Standardised features, shape (rows, features).
        salt: 32 fresh random bytes.

    Raises:
        FormatError: The rows or the salt could not be read back.
    """
    values = np.asarray(rows, dtype=np.float64).tolist()
    blob = canonical_json({"rows": values, "salt": b64url(salt)})
    parse_input(blob, columns=len(values[0]) if values else 0)
    return blob


def parse_input(raw: bytes, *, columns: int) -> tuple[list[list[float]], bytes]:
    """Return the rows of an input blob, each `columns` wide, at most 256, and its salt.

    Raises:
        FormatError: Not such a blob, to the byte.
    """
    value = parse_canonical(raw, what="input")
    _expect(value, {"rows", "salt"}, what="input")
    salt = parse_salt(value["salt"])
    return finite_rows(value["rows"], columns=columns, max_rows=MAX_ROWS), salt


def parse_salt(text: object) -> bytes:
    """Return the 32 bytes of a salt in base64url.

    Raises:
        FormatError: It is none; code `bad-salt`.
    """
    salt = b64url_decode(text, what="salt") if isinstance(text, str) else b""
    if len(salt) != _SALT_BYTES:
        msg = f"the input's salt is not {_SALT_BYTES} bytes in base64url"
        raise FormatError(msg, code="bad-salt")
    return salt


def make_outputs(rows: Sequence[Sequence[float]]) -> bytes:
    """Return the outputs blob."""
    return canonical_json({"outputs": [list(row) for row in rows]})


def parse_outputs(raw: bytes, *, outputs: int) -> Any:
    """Return the raw outputs in a blob, float64, shape (rows, outputs).

    Raises:
        FormatError: Not such a blob, to the byte.
    """
    value = parse_canonical(raw, what="outputs")
    _expect(value, {"outputs"}, what="outputs")
    return np.array(
        finite_rows(value["outputs"], columns=outputs, max_rows=MAX_ROWS),
        dtype=np.float64,
    )


@dataclass(frozen=True, slots=True)
class Evidence:
    """Proofs, and what they claim to be of; nothing in here is verified.

    Attributes:
        model_sha256: The bundle whose circuit they are of.
        insecure_srs: See `ZkmlParams`.
    """

    model_sha256: str
    insecure_srs: bool
    proofs: tuple[Proof, ...]


def make_evidence(evidence: Evidence) -> bytes:
    """Return the evidence blob."""
    return canonical_json(
        {
            "insecure_srs": evidence.insecure_srs,
            "model_sha256": evidence.model_sha256,
            "proofs": [p.to_json() for p in evidence.proofs],
        }
    )


def claimed_model(raw: bytes) -> str:
    """Return the digest of the model that an evidence blob says it is of.

    Raises:
        FormatError: It says none.
    """
    value = parse_canonical(raw, what="evidence")
    _expect(value, _EVIDENCE, what="evidence")
    return _model(value)


def parse_evidence(raw: bytes, *, instances: int, proof_bytes: int) -> Evidence:
    """Return what is in an evidence blob.

    Args:
        raw: The blob.
        instances: How many instances every proof must have.
        proof_bytes: How long every proof must be; the engine itself would ignore
            trailing bytes.

    Raises:
        FormatError: Not such a blob, to the byte.
    """
    value = parse_canonical(raw, what="evidence")
    _expect(value, _EVIDENCE, what="evidence")
    insecure = value["insecure_srs"]
    if not isinstance(insecure, bool):
        raise FormatError("the evidence's insecure_srs is not true or false")
    items = value["proofs"]
    if not isinstance(items, list) or not 0 < len(items) <= MAX_ROWS:
        msg = f"the evidence is not a list of 1 to {MAX_ROWS} proofs"
        raise FormatError(msg)
    return Evidence(
        model_sha256=_model(value),
        insecure_srs=insecure,
        proofs=tuple(_parse_proof(item, instances, proof_bytes) for item in items),
    )


def _model(value: Json) -> str:
    return check_sha256(str(value["model_sha256"]), what="the evidence's model digest")


def proof_to_bytes(proof: Proof) -> bytes:
    """Return a single proof as the node keeps it until the job is done."""
    return canonical_json(proof.to_json())


def proof_from_bytes(raw: bytes, *, instances: int, proof_bytes: int) -> Proof:
    """Return the proof that `proof_to_bytes` described; see `parse_evidence`."""
    return _parse_proof(parse_canonical(raw, what="proof"), instances, proof_bytes)


def _parse_proof(item: object, instances: int, proof_bytes: int) -> Proof:
    _expect(item, {"instances", "proof"}, what="proof")
    assert isinstance(item, dict)
    felts, text = item["instances"], item["proof"]
    if not isinstance(felts, list) or len(felts) != instances:
        msg = f"a proof does not have exactly {instances} instances"
        raise FormatError(msg, code="wrong-instance-count")
    if not isinstance(text, str) or len(text) != 2 * proof_bytes:
        msg = f"a proof is not exactly {proof_bytes} bytes in hex"
        raise FormatError(msg, code="wrong-proof-size")
    if not set(text) <= set("0123456789abcdef"):
        raise FormatError("a proof is not lowercase hex")
    return Proof(
        instances=tuple(from_hex(f, what="an instance") for f in felts),
        proof=bytes.fromhex(text),
    )


def _expect(value: object, names: set[str], *, what: str) -> None:
    if not isinstance(value, dict) or set(value) != names:
        msg = f"the {what} does not have exactly the members {', '.join(sorted(names))}"
        raise FormatError(msg, code="unknown-member")
