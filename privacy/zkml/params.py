"""What the manifest says about a circuit: `ModePart.params` of the mode zkml."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from privacy.bundle import Bundle
from privacy.encoding import Json, check_sha256
from privacy.errors import FormatError
from privacy.modes import Mode
from privacy.zkml.field import from_hex, quantize
from privacy.zkml.salt import elements
from privacy.zkml.system import Visibility
from privacy.zkml.visibility import instance_names, verifier_learns

_MAX_SCALE_BITS = 120
_PER_FEATURE = ("input_minimum", "input_maximum", "input_offset", "input_scale")
SRS_KINDS = frozenset({"public", "development", "unlisted"})


@dataclass(frozen=True, slots=True)
class SrsFacts:
    """Where the trust in the proofs comes from.

    Attributes:
        kind: `public` (digest on the pinned list of a public ceremony), `unlisted` (the
            publisher's file, known to nobody here) or `development` (made by the
            publisher, who could keep the secret and forge every proof).
        logrows: The file's size: 2**logrows points.
        sha256: Digest of the prover's file, which is the listed one if public.
    """

    kind: str
    logrows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ZkmlParams:
    """What a zkml client, verifier and node need to know of one circuit.

    Attributes:
        system: The proof system's name, `ezkl`.
        system_version: Its version; the client's should agree.
        input_scale_bits: Fixed-point bits of the input; see `privacy.zkml.field`.
        output_scale_bits: Fixed-point bits of the outputs.
        features: Width of the input row.
        outputs: Width of the raw output row.
        instances: What each instance of a proof is, in order.
        proof_bytes: Exact length of every proof.
        input_minimum: Least standardised value of each feature that jobs may hold.
        input_maximum: The greatest.
        input_offset: Per feature: circuits take (x - offset) / scale; see `prescale`.
        input_scale: Per feature, a power of two.
        visibility: What proofs show of the input and of the weights.
        verifier_learns: The same in words: `input`, `output`, `model`.
        params_hash: Poseidon hash of the weights, 64 hex digits, where proofs show it.
        logrows: 2**logrows rows in the circuit.
        decomp_base: Base of the circuit's range checks.
        decomp_legs: Their digits: values stay below decomp_base**decomp_legs.
        num_inner_cols: Columns the circuit's products are spread over.
        scale_rebase_multiplier: How far scales grow before they are cut back.
        srs: See `SrsFacts`.
        insecure_srs: The SRS is not of a public ceremony: its maker can forge proofs.
        onnx_sha256: The model in ONNX as it was published, `zkml/model.onnx`.
        circuit_format: How models are written as circuits; see `rewrite`. 0 where the
            manifest does not say: it is from before there were numbers.
    """

    system: str
    system_version: str
    input_scale_bits: int
    output_scale_bits: int
    features: int
    outputs: int
    instances: tuple[str, ...]
    proof_bytes: int
    input_minimum: tuple[float, ...]
    input_maximum: tuple[float, ...]
    input_offset: tuple[float, ...]
    input_scale: tuple[float, ...]
    visibility: Visibility
    verifier_learns: Json
    params_hash: str
    logrows: int
    decomp_base: int
    decomp_legs: int
    num_inner_cols: int
    scale_rebase_multiplier: int
    srs: SrsFacts
    insecure_srs: bool
    onnx_sha256: str
    circuit_format: int = 0

    def to_json(self) -> Json:
        """Return the params as the manifest holds them."""
        return {
            **asdict(self),
            "instances": list(self.instances),
            **{name: list(getattr(self, name)) for name in _PER_FEATURE},
        }

    def outputs_of(self, instances: Sequence[int]) -> list[int]:
        """Return the outputs among a proof's instances: the last ones."""
        return list(instances[-self.outputs :])

    def model_hash_of(self, instances: Sequence[int]) -> int:
        """Return the hash of the weights among a proof's instances."""
        return instances[self.instances.index("poseidon(model)")]

    def quantize(self, rows: Any) -> list[list[int]]:
        """Return the integers the circuit computes on for each row.

        Args:
            rows: Standardised features, shape (rows, features).

        Raises:
            FormatError: Another shape, or a value that is not finite or too large.
        """
        try:
            values = np.asarray(rows, dtype=np.float64)
        except (TypeError, ValueError):  # its message quotes what is there
            msg = f"rows are not numbers of shape (rows, {self.features})"
            raise FormatError(msg, code="wrong-feature-count") from None
        if values.ndim != 2 or values.shape[1] != self.features:  # noqa: PLR2004
            msg = f"rows have shape {values.shape}, expected (rows, {self.features})"
            raise FormatError(msg, code="wrong-feature-count")
        with np.errstate(over="ignore"):  # an infinity is refused by `quantize`
            scaled = (values - self.input_offset) / self.input_scale
        return quantize(scaled, scale_bits=self.input_scale_bits)

    def circuit_rows(self, rows: Any, salt: bytes) -> list[list[int]]:
        """Return the circuit's whole input for each row: quantised, then salted.

        Args:
            rows: Standardised features, shape (rows, features).
            salt: The job's, which only salted circuits use.

        Raises:
            FormatError: See `quantize`.
        """
        quantized = self.quantize(rows)
        if not self.visibility.salted:
            return quantized
        return [[*row, *elements(salt, i)] for i, row in enumerate(quantized)]

    def check_range(self, rows: Any) -> None:
        """Refuse rows that the circuit was not built for.

        Raises:
            FormatError: A value lies outside the range; code `out-of-range`.
        """
        values = np.asarray(rows, dtype=np.float64)
        inside = (values >= self.input_minimum) & (values <= self.input_maximum)
        if not inside.all():
            row, column = (int(i) for i in np.argwhere(~inside)[0])
            low, high = self.input_minimum[column], self.input_maximum[column]
            msg = (
                f"row {row + 1}, column {column + 1} is outside {low:g} to {high:g} "
                "(standardised), the range the circuit was built for: check its units, "
                "or publish again with calibration rows that reach it"
            )
            raise FormatError(msg, code="out-of-range")


def parse_params(value: Json) -> ZkmlParams:
    """Return the params in a manifest.

    Raises:
        FormatError: Members are missing, unknown or contradict one another.
    """
    names = {f.name for f in fields(ZkmlParams)}
    if set(value) | {"circuit_format"} != names:
        odd = ", ".join(sorted(set(value) ^ names - {"circuit_format"}))[:200]
        msg = f"the manifest's zkml params lack or add: {odd}"
        raise FormatError(msg, code="bundle-format")
    try:
        params = ZkmlParams(
            **{
                **value,
                "instances": tuple(value["instances"]),
                **{n: tuple(float(x) for x in value[n]) for n in _PER_FEATURE},
                "srs": SrsFacts(**value["srs"]),
                "visibility": _visibility(value["visibility"]),
            }
        )
        _check(params)
    except (KeyError, TypeError, ValueError) as exc:
        msg = "the manifest's zkml params have a member of the wrong type"
        raise FormatError(msg, code="bundle-format") from exc
    return params


def is_salted(bundle: Bundle) -> bool:
    """Return whether a model's proofs are about the salt of their job as well."""
    return parse_params(bundle.manifest.mode(Mode.ZKML).params).visibility.salted


def _visibility(value: Json) -> Visibility:
    if set(value) != {f.name for f in fields(Visibility)}:
        raise TypeError
    if type(value["salted"]) is not bool:
        raise TypeError
    return Visibility(**value)


def _check(p: ZkmlParams) -> None:
    check_sha256(p.srs.sha256, what="digest of the SRS")
    check_sha256(p.onnx_sha256, what="digest of the ONNX model")
    if p.visibility.params == "hashed":
        from_hex(p.params_hash, what="the hash of the weights")
    widths = {p.features, *(len(getattr(p, name)) for name in _PER_FEATURE)}
    scales_ok = all(
        type(bits) is int and 0 <= bits <= _MAX_SCALE_BITS
        for bits in (p.input_scale_bits, p.output_scale_bits)
    )
    if (
        len(widths) != 1
        or not all(0 < s < np.inf for s in p.input_scale)
        or not scales_ok
        or p.srs.kind not in SRS_KINDS
        or p.insecure_srs is not (p.srs.kind != "public")
        or p.instances
        != instance_names(p.visibility, features=p.features, outputs=p.outputs)
        or p.verifier_learns != verifier_learns(p.visibility)
        or type(p.proof_bytes) is not int
        or type(p.circuit_format) is not int
        or p.system != "ezkl"
    ):
        msg = "the manifest's zkml params contradict one another"
        raise FormatError(msg, code="bundle-format")
