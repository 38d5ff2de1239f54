"""client.json: all that a data owner needs to know of a circuit, in one public file.

Canonical JSON: the engine's own description of the circuit (a text, kept verbatim), the
input quantizers, how to turn its integers into raw outputs, and the templates of its
evaluation keys, ciphertexts and results.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from privacy.encoding import (
    Json,
    canonical_json,
    parse_canonical,
    parse_object,
    sha256_hex,
)
from privacy.errors import FormatError
from privacy.fhe.quantizers import (
    OutputSteps,
    Quantizer,
    SumSteps,
    parse_quantizer,
    parse_steps,
    parse_sums,
    quantizer_to_json,
    steps_to_json,
)
from privacy.fhe.template import Template, parse_template
from privacy.fhe.thermometer import Edges, parse_edges

FORMAT = "privacy-compute/fhe-client/2"
_MAX_BYTES = 1 << 24


def _parse_edges_or_steps(value: Json) -> Edges | Quantizer:
    return parse_edges(value) if "edges" in value else parse_quantizer(value)


_KINDS = {
    "concrete-ml": (parse_quantizer, parse_steps),
    "fhe-native": (_parse_edges_or_steps, parse_sums),
}
"""How each kind of circuit describes its input and its output."""


@dataclass(frozen=True, slots=True)
class CircuitSpec:
    """A circuit as its clients and nodes know it.

    Attributes:
        backend: The engine's name.
        circuit: `concrete-ml`, or `fhe-native`: trees on thermometer bits,
            dense networks on steps.
        program: The engine's description of the circuit.
        features: Width of an input row.
        needs_keys: Whether the node needs evaluation keys.
        keys: Template of the evaluation keys.
        ciphertext: Template of one row's ciphertext.
        result: Template of one row's result.
    """

    backend: str
    circuit: str
    program: str
    features: int
    quantizers: tuple[Quantizer, ...] | tuple[Edges, ...]
    output: OutputSteps | SumSteps
    needs_keys: bool
    keys: Template
    ciphertext: Template
    result: Template

    @property
    def circuit_sha256(self) -> str:
        """Digest of the program; the secret key file is bound to it."""
        return sha256_hex(self.program.encode())

    def to_bytes(self) -> bytes:
        """Return the content of client.json."""
        return canonical_json(
            {
                "format": FORMAT,
                "backend": self.backend,
                "circuit": self.circuit,
                "program": self.program,
                "features": self.features,
                "quantizers": [quantizer_to_json(q) for q in self.quantizers],
                "output": steps_to_json(self.output),
                "needs_keys": self.needs_keys,
                "keys": self.keys.to_json(),
                "ciphertext": self.ciphertext.to_json(),
                "result": self.result.to_json(),
            }
        )


def parse_spec(raw: bytes) -> CircuitSpec:
    """Return the circuit in a client.json.

    Raises:
        FormatError: Not such a file.
    """
    value = parse_canonical(raw, what="client.json", limit=_MAX_BYTES)
    if value.pop("format", None) != FORMAT:
        msg = f"client.json's format is not {FORMAT}: use the version that published it"
        raise FormatError(msg, code="fhe-spec-malformed")
    try:
        _check(value)
        parse_input, parse_output = _KINDS[value["circuit"]]
        return CircuitSpec(
            **{
                **value,
                "quantizers": _one_kind(map(parse_input, value["quantizers"])),
                "output": parse_output(value["output"]),
                "keys": parse_template(value["keys"], what="keys"),
                "ciphertext": parse_template(value["ciphertext"], what="ciphertext"),
                "result": parse_template(value["result"], what="result"),
            }
        )
    except (KeyError, TypeError) as exc:
        msg = f"client.json lacks or misnames a member: {exc}"
        raise FormatError(msg, code="fhe-spec-malformed") from exc


def _one_kind(quantizers: Iterable[Edges | Quantizer]) -> Any:
    found = tuple(quantizers)
    if len({type(q) for q in found}) != 1:
        msg = "client.json mixes edges and steps"
        raise FormatError(msg, code="fhe-spec-malformed")
    return found


def parse_program(program: str) -> Json:
    """Return the engine's description of a circuit as JSON."""
    return parse_object(program.encode(), what="the circuit's description")


def _check(value: Json) -> None:
    """Refuse members of another type before they become a `CircuitSpec`."""
    shared = value["circuit"] == "concrete-ml" and len(value["quantizers"]) == 1
    usable = (
        value["backend"] == "concrete"
        and value["circuit"] in _KINDS
        and isinstance(value["program"], str)
        and type(value["features"]) is int
        and type(value["needs_keys"]) is bool
        and (shared or len(value["quantizers"]) == value["features"] > 0)
    )
    if not usable:
        msg = "client.json describes no circuit that this version can use"
        raise FormatError(msg, code="fhe-spec-malformed")
