"""client.json: all that a data owner needs to know of a circuit, in one public file.

Canonical JSON: the engine's own description of the circuit (a text, kept verbatim), the
input quantizers, how to turn its integers into raw outputs, and the templates of its
evaluation keys, ciphertexts and results. A program holds a circuit for one row and may
hold another for several rows at once; both take the same keys.
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
from privacy.fhe.keysets import keyset_sha256
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
from privacy.fhe.results import WORD_BYTES, pack_result, unpack_result
from privacy.fhe.template import Template, parse_template
from privacy.fhe.thermometer import Edges, parse_edges
from privacy.runs import MAX_ROWS

FORMAT = "privacy-compute/fhe-client/4"
_MAX_BYTES = 1 << 24


def _parse_edges_or_steps(value: Json) -> Edges | Quantizer:
    return parse_edges(value) if "edges" in value else parse_quantizer(value)


_KINDS = {
    "concrete-ml": (parse_quantizer, parse_steps),
    "fhe-native": (_parse_edges_or_steps, parse_sums),
}
"""How each kind of circuit describes its input and its output."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A circuit of the program: its name and its messages.

    Attributes:
        function: The engine's name for it.
        rows: How many rows it takes at once.
        pays_from: So many rows are answered sooner by it, filled up, than one by one.
        ciphertext: Template of the ciphertext of `rows` rows.
        result: Template of their result, as the engine gives it.
        word_bytes: Of each free word of it, so many bytes travel; see
            `privacy.fhe.results`.
    """

    function: str
    rows: int
    pays_from: int
    ciphertext: Template
    result: Template
    word_bytes: int

    def pack(self, result: bytes) -> bytes:
        """Return the engine's result as it travels."""
        return pack_result(result, self.result, self.word_bytes)

    def unpack(self, packed: bytes, *, hint: str) -> bytes:
        """Return a result that travelled, for the engine.

        Raises:
            FormatError: It is of another length; the message ends with `hint`.
        """
        return unpack_result(packed, self.result, self.word_bytes, hint=hint)

    def to_json(self) -> Json:
        """Return the circuit as JSON."""
        return {
            "function": self.function,
            "rows": self.rows,
            "pays_from": self.pays_from,
            "ciphertext": self.ciphertext.to_json(),
            "result": self.result.to_json(),
            "word_bytes": self.word_bytes,
        }


@dataclass(frozen=True, slots=True)
class CircuitSpec:
    """A circuit as its clients and nodes know it.

    Attributes:
        backend: The engine's name.
        circuit: `concrete-ml`, or `fhe-native`: trees on thermometer bits,
            dense networks on steps.
        program: The engine's description of the circuits and their keys.
        features: Width of an input row.
        needs_keys: Whether the node needs evaluation keys.
        keys: Template of the evaluation keys.
        batches: The circuits; the first takes one row, the others ever more.
    """

    backend: str
    circuit: str
    program: str
    features: int
    quantizers: tuple[Quantizer, ...] | tuple[Edges, ...]
    output: OutputSteps | SumSteps
    needs_keys: bool
    keys: Template
    batches: tuple[Batch, ...]

    @property
    def circuit_sha256(self) -> str:
        """Digest of the program."""
        return sha256_hex(self.program.encode())

    @property
    def keyset_sha256(self) -> str:
        """Digest of what keys depend on: circuits with the same one share keys."""
        return keyset_sha256(self.backend, parse_program(self.program)["keyset"])

    def split(self, rows: int) -> list[Batch]:
        """Return the circuits that answer so many rows, in order.

        The last may have room for more rows than are left.
        """
        found = []
        while rows > 0:
            fits = [b for b in self.batches if b.pays_from <= rows]
            found.append(max(fits, key=lambda b: b.rows))
            rows -= found[-1].rows
        return found

    def batch_of(self, ciphertext: bytes) -> Batch:
        """Return the circuit that a ciphertext is for, by its length.

        It may be of another length than any: then the first, whose check refuses it.
        """
        sizes = {b.ciphertext.size: b for b in self.batches}
        return sizes.get(len(ciphertext), self.batches[0])

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
                "batches": [b.to_json() for b in self.batches],
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
                "batches": _parse_batches(
                    value["batches"], parse_program(value["program"])
                ),
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


def _parse_batches(value: list[Json], program: Json) -> tuple[Batch, ...]:
    found = [
        Batch(
            **{
                **b,
                "ciphertext": parse_template(b["ciphertext"], what="ciphertext"),
                "result": parse_template(b["result"], what="result"),
            }
        )
        for b in value
    ]
    names = {circuit["name"] for circuit in program["circuits"]}
    rows, sizes = [b.rows for b in found], {b.ciphertext.size for b in found}
    whole = all(
        type(n) is int for b in found for n in (b.rows, b.pays_from, b.word_bytes)
    )
    usable = (
        whole
        and rows[:1] == [1]
        and rows == sorted(set(rows))
        and len(sizes) == len(rows)
        and all(1 <= b.pays_from <= b.rows for b in found)
        and all(1 <= b.word_bytes <= WORD_BYTES for b in found)
        and all(MAX_ROWS % b.rows == 0 and b.function in names for b in found)
    )
    if not usable:
        raise TypeError("batches")
    return tuple(found)


def _check(value: Json) -> None:
    """Refuse members of another type before they become a `CircuitSpec`."""
    shared = value["circuit"] == "concrete-ml" and len(value["quantizers"]) == 1
    usable = (
        value["backend"] == "concrete"
        and value["circuit"] in _KINDS
        and isinstance(value["program"], str)
        and isinstance(value["batches"], list)
        and isinstance(parse_program(value["program"]).get("keyset"), dict)
        and type(value["features"]) is int
        and type(value["needs_keys"]) is bool
        and (shared or len(value["quantizers"]) == value["features"] > 0)
    )
    if not usable:
        msg = "client.json describes no circuit that this version can use"
        raise FormatError(msg, code="fhe-spec-malformed")
