"""What a compiler of this mode hands to the publisher."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from privacy.encoding import Json
from privacy.fhe.backend import Floats, Ints
from privacy.fhe.quantizers import OutputSteps, Quantizer, SumSteps
from privacy.fhe.source import Source, source_of
from privacy.fhe.thermometer import Edges


@dataclass(frozen=True, slots=True)
class Compiled:
    """A circuit, and a second opinion to check that our path agrees with it.

    Attributes:
        circuit: The kind of circuit: `concrete-ml` or `fhe-native`.
        family: `linear`, `trees` or `network`.
        n_bits: The bits it was quantized to.
        folder: Where Concrete left the native library.
        program: Concrete's description of the circuit that clients encrypt for.
        engine_program: Its description of the library. Another where the circuit reads
            only some of what clients send.
        functions: The circuits it holds and how many rows each takes, the first one.
        theirs_quantize: The compiler's own quantization of standardised rows.
        theirs_integers: Its circuit, in the clear, on quantized rows.
        theirs_outputs: Its own dequantization, before any activation.
        exact: The encrypted circuit gives exactly `theirs_integers`; approximate
            rounding does not.
        uncompressed_keys_bytes: What the node holds after unpacking.
        source: What the library can be built from on another machine.
        details: More about the circuit, for the manifest.
        used: The columns of quantized rows that the circuit reads, if not all.
        unrounded: Raw outputs that only the inputs' quantization changed.
        between: If not exact: the least and the greatest integers that quantized rows
            may decrypt to.
        complexity: What Concrete reckons a row costs, in its own unit; 0 if nobody
            asked.
    """

    circuit: str
    family: str
    n_bits: Json
    folder: Path
    program: str
    engine_program: str
    functions: tuple[tuple[str, int], ...]
    features: int
    quantizers: tuple[Quantizer, ...] | tuple[Edges, ...]
    output: OutputSteps | SumSteps
    theirs_quantize: Callable[[Floats], Ints]
    theirs_integers: Callable[[Ints], Ints]
    theirs_outputs: Callable[[Ints], Floats]
    exact: bool
    uncompressed_keys_bytes: int
    source: Source
    details: Mapping[str, Any] = field(default_factory=dict)
    used: tuple[int, ...] | None = None
    unrounded: Callable[[Floats], Floats] | None = None
    between: Callable[[Ints], tuple[Ints, Ints]] | None = None
    complexity: float = 0.0

    @property
    def gpus(self) -> int:
        """How many GPUs a job takes."""
        return int(self.details.get("device") == "cuda")


Attempt = tuple[str, Callable[[], Compiled]]


def circuit_members(circuit: Any, *, rows: Sequence[int] = (1,)) -> Json:
    """Return what a Concrete circuit or module is made of, as members of `Compiled`.

    Args:
        circuit: The circuit, or a module of circuits.
        rows: How many rows each of its circuits takes.
    """
    specs = json.loads(circuit.client.specs.serialize())
    specs.pop("tfhers_specs", None)
    keys = circuit.size_of_bootstrap_keys + circuit.size_of_keyswitch_keys
    names = [c["name"] for c in specs["circuits"]]
    program = json.dumps(specs, sort_keys=True)
    return {
        "folder": Path(circuit.server._library.get_output_dir_path()),  # noqa: SLF001
        "program": program,
        "engine_program": program,
        "functions": tuple(zip(names, rows, strict=True)),
        "uncompressed_keys_bytes": int(keys),
        "source": source_of(circuit),
        "complexity": float(circuit.complexity),
    }
