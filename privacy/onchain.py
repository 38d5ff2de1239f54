"""What an input and an answer are to a contract; the same for all who deal with them.

A contract knows an input by a commitment, and an answer by its instances: field
elements that describe the input, then the outputs in fixed point. How, follows from
the manifest alone:

    hashed   the model's circuit hashes its input: the Poseidon hash of the quantised
             row is the commitment, and the one instance about the input; a salted
             circuit hashes 128 bits of the salt as well
    shown    the circuit shows its input: the quantised row itself, one instance a
             feature; the commitment is the Keccak-256 of these
    salted   there is no circuit that fits: the SHA-256 of the row and a salt

A question is what an enclave signs an answer to, by EIP-712.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from privacy.bundle import Manifest
from privacy.encoding import Json, b64url, canonical_json, sha256_hex
from privacy.errors import FormatError, VerificationError
from privacy.fixed_point import MODULUS, quantize, signed
from privacy.keccak import keccak
from privacy.modes import Mode
from privacy.poseidon import poseidon
from privacy.salt import elements

HASHED, SHOWN, SALTED = "hashed", "shown", "salted"
SALTED_OUTPUT_BITS = 16
"""Fixed-point bits of outputs where no circuit sets them."""

_KINDS = {"hashed": HASHED, "public": SHOWN}
_TOLERANCE_FACTOR = 4.0
_DOMAIN = (
    b"EIP712Domain(string name,string version,uint256 chainId,"
    b"address verifyingContract)"
)
_ANSWER = (
    b"Answer(uint256 requestId,bytes32 modelId,bytes32 inputCommitment,"
    b"bytes32 instancesHash,bool proven)"
)
_NAME, _VERSION = b"PrivacyCompute", b"1"


@dataclass(frozen=True, slots=True)
class Terms:
    """How inputs and answers of one model look to contracts.

    Attributes:
        kind: `hashed`, `shown` or `salted`.
        columns: Width of a row.
        outputs: Width of a raw output row.
        input_bits: Fixed-point bits of the input; 0 if salted.
        output_bits: Fixed-point bits of the outputs.
        offset: Per feature: circuits take (x - offset) / scale; empty if salted.
        scale: Per feature; empty if salted.
        is_salted: The circuit hashes salt as well; see `privacy.salt`.
        tolerance: How far a proven output may be from the model's own.
    """

    kind: str
    columns: int
    outputs: int
    input_bits: int
    output_bits: int
    offset: tuple[float, ...]
    scale: tuple[float, ...]
    is_salted: bool
    tolerance: float

    @property
    def inputs(self) -> int:
        """How many instances describe the input."""
        return self.columns if self.kind == SHOWN else 1

    @property
    def input_kind(self) -> int:
        """The registry's `InputKind`: 0 for a hash, 1 for a public input."""
        return int(self.kind == SHOWN)

    def describe(self, row: Sequence[float], salt: bytes) -> list[int]:
        """Return the instances that describe an input.

        Args:
            row: Standardised features.
            salt: 32 random bytes; unused by circuits that are not salted.

        Raises:
            FormatError: The row has another width, or a value that does not fit.
        """
        if len(row) != self.columns:
            msg = f"the row has {len(row)} features, expected {self.columns}"
            raise FormatError(msg, code="wrong-feature-count")
        if self.kind == SALTED:
            return [int(sha256_hex(input_blob([list(row)], salt)), 16)]
        parts = zip(row, self.offset, self.scale, strict=True)
        scaled = [(x - offset) / scale for x, offset, scale in parts]
        (quantized,) = quantize([scaled], scale_bits=self.input_bits)
        if self.kind == SHOWN:
            return [v % MODULUS for v in quantized]
        more = elements(salt, 0) if self.is_salted else []
        return [poseidon([*quantized, *more])]

    def commitment(self, described: Sequence[int]) -> bytes:
        """Return the 32 bytes that requests name an input by."""
        packed = pack_words(described)
        return keccak(packed) if self.kind == SHOWN else packed

    def instances(
        self, described: Sequence[int], outputs: Sequence[float]
    ) -> tuple[int, ...]:
        """Return the instances of an answer that nobody proved.

        Raises:
            FormatError: An output does not fit.
        """
        if len(outputs) != self.outputs:
            msg = f"the model gave {len(outputs)} outputs, expected {self.outputs}"
            raise FormatError(msg, code="wrong-output-count")
        fixed = [round(y * 2**self.output_bits) for y in outputs]
        if any(abs(v) > MODULUS // 2 for v in fixed):
            raise FormatError("an output is too large for a contract")
        return (*described, *(v % MODULUS for v in fixed))

    def check_proven(
        self, proven: Sequence[int], described: Sequence[int], outputs: Sequence[float]
    ) -> None:
        """Compare the instances of a proof with the model's own answer.

        Raises:
            VerificationError: They are about another input, or too far away.
        """
        own = self.instances(described, outputs)
        if len(proven) != len(own) or tuple(proven[: self.inputs]) != tuple(described):
            msg = "the proof is about another input than the enclave was given"
            raise VerificationError(msg, code="input-mismatch")
        limit = self.tolerance * 2**self.output_bits
        pairs = zip(proven[self.inputs :], own[self.inputs :], strict=True)
        if any(abs(signed(a) - signed(b)) > limit for a, b in pairs):
            msg = (
                f"a proven output is more than {self.tolerance:.3g} away from the "
                "model's own: the circuit is not of this model, or the proof is forged"
            )
            raise VerificationError(msg, code="output-mismatch")


def terms_of(manifest: Manifest) -> Terms:
    """Return how a model's inputs and answers look to contracts.

    Raises:
        FormatError: The manifest says too little about its circuit.
    """
    columns, part = len(manifest.columns), manifest.modes.get(Mode.ZKML)
    params: Json = dict(part.params) if part and part.available else {}
    visibility = params.get("visibility") or {}
    kind = _KINDS.get(str(visibility.get("input")), SALTED)
    if kind == SHOWN and visibility.get("salted"):
        kind = SALTED  # no request publishes a salt
    if part is None or kind == SALTED or visibility.get("params") != "fixed":
        bits = SALTED_OUTPUT_BITS
        return Terms(
            kind=SALTED,
            columns=columns,
            outputs=manifest.outputs,
            input_bits=0,
            output_bits=bits,
            offset=(),
            scale=(),
            is_salted=False,
            tolerance=0.0,
        )
    try:
        error = float(part.accuracy["max_error"])
        output_bits = int(params["output_scale_bits"])
        return Terms(
            kind=kind,
            columns=columns,
            outputs=manifest.outputs,
            input_bits=int(params["input_scale_bits"]),
            output_bits=output_bits,
            offset=tuple(float(x) for x in params["input_offset"]),
            scale=tuple(float(x) for x in params["input_scale"]),
            is_salted=visibility.get("salted") is True,
            tolerance=_TOLERANCE_FACTOR * error + 2.0 ** (3 - output_bits),
        )
    except (KeyError, TypeError, ValueError) as exc:
        msg = "the manifest's zkml params are not usable: publish with this version"
        raise FormatError(msg, code="bundle-format") from exc


def input_blob(rows: list[list[float]], salt: bytes) -> bytes:
    """Return standardised rows and a salt as they travel in the clear."""
    return canonical_json({"rows": rows, "salt": b64url(salt)})


@dataclass(frozen=True, slots=True)
class Question:
    """One request of one coordinator on one chain; ids and addresses in bytes."""

    chain_id: int
    coordinator: bytes
    request_id: int
    model_id: bytes
    commitment: bytes

    def as_dict(self) -> Json:
        """Return the question JSON-ready, as jobs and receipts name it."""
        return {
            "chain_id": self.chain_id,
            "coordinator": "0x" + self.coordinator.hex(),
            "request_id": str(self.request_id),
            "model_id": self.model_id.hex(),
            "input_commitment": self.commitment.hex(),
        }

    @classmethod
    def from_dict(cls, value: object) -> Self:
        """Return the question that `as_dict` described.

        Raises:
            FormatError: It is none.
        """
        members: Json = value if isinstance(value, dict) else {}
        try:
            made = cls(
                chain_id=members["chain_id"],
                coordinator=bytes.fromhex(members["coordinator"][2:]),
                request_id=int(members["request_id"]),
                model_id=bytes.fromhex(members["model_id"]),
                commitment=bytes.fromhex(members["input_commitment"]),
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise FormatError("this is no question of a contract") from exc
        sizes = [len(v) for v in (made.coordinator, made.model_id, made.commitment)]
        fits = 0 <= made.request_id < 1 << 256 and type(made.chain_id) is int
        if sizes != [20, 32, 32] or not fits or made.as_dict() != value:
            raise FormatError("this is no question of a contract, to the letter")
        return made

    def digest(self, instances: Sequence[int], *, proven: bool) -> bytes:
        """Return what an enclave signs for an answer: 32 bytes, by EIP-712.

        Args:
            instances: The answer.
            proven: A proof comes with it; else it is the enclave's own.

        `InferenceCoordinator.answerDigest` says the same.
        """
        domain = keccak(
            keccak(_DOMAIN)
            + keccak(_NAME)
            + keccak(_VERSION)
            + pack_words([self.chain_id])
            + bytes(12)
            + self.coordinator
        )
        answer = keccak(
            keccak(_ANSWER)
            + pack_words([self.request_id])
            + self.model_id
            + self.commitment
            + keccak(pack_words(instances))
            + pack_words([proven])
        )
        return keccak(b"\x19\x01" + domain + answer)


def pack_words(values: Sequence[int]) -> bytes:
    """Return numbers as words of 32 bytes, big-endian."""
    return b"".join(v.to_bytes(32, "big") for v in values)
