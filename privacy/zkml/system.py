"""The seam to a proof system, and the files of one circuit.

Whoever implements `ProofSystem` lives in `backends/`, one file each, and nobody else
names the engine. Every method runs native code: call them in child processes only.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from privacy.encoding import Json
from privacy.errors import UnavailableError
from privacy.zkml.blobs import Proof


@dataclass(frozen=True, slots=True)
class CircuitFiles:
    """Where the files of one circuit lie; `srs` serves provers, `verifier_srs` all."""

    root: Path

    def path(self, name: str) -> Path:
        """Return where a file lies."""
        return self.root / name

    @property
    def network(self) -> Path:
        """The compiled circuit."""
        return self.path("network.ezkl")

    @property
    def onnx(self) -> Path:
        """The model as it was published, for audits."""
        return self.path("model.onnx")

    @property
    def settings(self) -> Path:
        """What the circuit was compiled with; bound by its digest alone."""
        return self.path("settings.json")

    @property
    def proving_key(self) -> Path:
        """The proving key."""
        return self.path("pk.key")

    @property
    def verifying_key(self) -> Path:
        """The verifying key."""
        return self.path("vk.key")

    @property
    def srs(self) -> Path:
        """The SRS, as large as the circuit."""
        return self.path("kzg.srs")

    @property
    def verifier_srs(self) -> Path:
        """The few points of the same SRS that verification needs."""
        return self.path("verifier.srs")


@dataclass(frozen=True, slots=True)
class CircuitChoice:
    """How a model becomes a circuit.

    Attributes:
        scale_bits: Fixed-point bits of inputs and parameters.
        decomp_base: Base of range checks; smaller tables, but more digits.
        decomp_legs: Digits; every value must stay below decomp_base**decomp_legs.
        num_inner_cols: Columns that products are spread over.
        scale_rebase_multiplier: How far scales grow before they are cut back.
        logrows: 2**logrows rows; what does not fit goes into more columns.
        disable_freivalds: Multiply matrices cell by cell instead of checking the
            product at a random point.
    """

    scale_bits: int
    decomp_base: int
    decomp_legs: int
    num_inner_cols: int
    scale_rebase_multiplier: int
    logrows: int
    disable_freivalds: bool = False


@dataclass(frozen=True, slots=True)
class Visibility:
    """Who gets to see what, in the engine's words; see `privacy.zkml.visibility`.

    Attributes:
        input: `hashed`, `committed`, `private` or `public`.
        params: `fixed`, `hashed` or `private`.
        salted: The input carries elements of the job's salt; see `privacy.zkml.salt`.
    """

    input: str = "hashed"
    params: str = "fixed"
    salted: bool = False


@dataclass(frozen=True, slots=True)
class CircuitSize:
    """What a choice comes to, known before the circuit is compiled.

    Attributes:
        assignments: Cells the model fills.
        hash_rows: Rows that hashing takes; they are not split into columns.
        lookups: There are lookup tables, whose range is known only once rows were run.
    """

    assignments: int
    hash_rows: int
    lookups: bool


@dataclass(frozen=True, slots=True)
class CircuitFacts:
    """What the engine made of a choice.

    Attributes:
        table_rows: Rows of the largest lookup table; 0 if there is none.
    """

    logrows: int
    table_rows: int
    input_scale_bits: int
    output_scale_bits: int


@dataclass(frozen=True, slots=True)
class Witness:
    """One row run through the circuit in the clear.

    Attributes:
        instances: The public inputs that a proof of it will have.
        outputs: The last of them.
        path: The engine's own file, which holds the input.
    """

    instances: tuple[int, ...]
    outputs: tuple[int, ...]
    path: Path


class ProofSystem(Protocol):
    """Compiles circuits, proves and verifies."""

    name: str

    @property
    def version(self) -> str:
        """The engine's version."""
        ...

    def compile(
        self,
        onnx: Path,
        rows: Sequence[Sequence[int]],
        choice: CircuitChoice,
        visibility: Visibility,
        out: CircuitFiles,
    ) -> CircuitFacts:
        """Write the circuit and its settings; lookup tables hold what `rows` reach.

        Raises:
            BackendError: The engine cannot express the model with this choice.
            FormatError: A row leaves the circuit's range; code `out-of-range`.
        """
        ...

    def size(
        self, onnx: Path, choice: CircuitChoice, visibility: Visibility, scratch: Path
    ) -> CircuitSize:
        """Return what a choice would come to, whatever its `logrows`.

        Raises:
            BackendError: The engine cannot express the model with this choice.
        """
        ...

    def describe(self, settings: Path) -> Json:
        """Return what a circuit's settings say of members of `ZkmlParams`."""
        ...

    def deviations(
        self,
        onnx: Path,
        choice: CircuitChoice,
        visibility: Visibility,
        files: CircuitFiles,
    ) -> list[str]:
        """Return which settings already there are not what a choice leads to, by name.

        What running rows decides is left out, as are both ways of multiplying matrices.

        Raises:
            BackendError: The engine cannot express the model with this choice.
        """
        ...

    def recompile(self, onnx: Path, files: CircuitFiles) -> None:
        """Write the circuit that settings already there make of a model.

        Raises:
            BackendError: The engine cannot.
        """
        ...

    def setup(self, files: CircuitFiles) -> None:
        """Write the proving and the verifying key; the circuit and SRS exist."""
        ...

    def check_proving_key(self, files: CircuitFiles, *, logrows: int) -> None:
        """Refuse a proving key that the engine might wait on for ever.

        Raises:
            BackendError: It is not one of this circuit; code `bad-proving-key`.
        """
        ...

    def witness(
        self, files: CircuitFiles, row: Sequence[int], out: Path, *, scale_bits: int
    ) -> Witness:
        """Run one quantised row.

        Raises:
            FormatError: A value leaves the circuit's range; code `out-of-range`.
            BackendError: The engine failed otherwise.
        """
        ...

    def prove(self, files: CircuitFiles, witness: Witness) -> Proof:
        """Return a proof; it may be invalid, so verify it."""
        ...

    def verify(self, files: CircuitFiles, proof: Proof) -> None:
        """Check that a proof is valid for its instances, whatever they are.

        Raises:
            VerificationError: It is not; code `proof-invalid`.
            BackendError: The engine could not say.
        """
        ...

    def hash_input(self, row: Sequence[int]) -> int:
        """Return the Poseidon hash of a quantised row."""
        ...

    def commits_to(self, files: CircuitFiles, proof: Proof, row: Sequence[int]) -> bool:
        """Return whether a valid proof of a `committed` input is about a quantised row.

        Needs the whole SRS, not the verifier's part.
        """
        ...

    def make_development_srs(self, out: Path, logrows: int) -> None:
        """Write a fresh SRS whose maker could forge."""
        ...

    def download_srs(self, out: Path, logrows: int) -> None:
        """Fetch the SRS of a public ceremony.

        Raises:
            UnavailableError: It could not be fetched.
        """
        ...


def load_backend(name: str = "ezkl") -> ProofSystem:
    """Return a proof system, importing its engine now.

    Raises:
        UnavailableError: The engine is not installed.
    """
    try:
        module = importlib.import_module(f"privacy.zkml.backends.{name}")
    except ImportError as exc:
        msg = f"{name} is not installed: pip install 'privacy-compute[zkml]'"
        raise UnavailableError(msg, code="engine-missing") from exc
    backend: ProofSystem = module.Backend()
    return backend
