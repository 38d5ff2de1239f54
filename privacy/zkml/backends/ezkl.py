"""EZKL 23: Halo2 circuits with KZG commitments over BN254.

EZKL takes paths, answers with bare `RuntimeError`s or panics (`BaseException`s), has
functions that are async in one version and not in another, and writes field elements as
little-endian hex. All of that ends here. Its proof files carry members that no proof
binds (`hex_proof`, `pretty_public_inputs`): we write none and read none.
"""

import asyncio
import contextlib
import importlib.metadata
import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ezkl

from privacy.encoding import Json
from privacy.errors import (
    BackendError,
    FormatError,
    UnavailableError,
    VerificationError,
)
from privacy.zkml.backends.ezkl_keys import check_proving_key
from privacy.zkml.blobs import Proof
from privacy.zkml.field import MODULUS
from privacy.zkml.saturate import tables_are_cut
from privacy.zkml.scratch import memory_file
from privacy.zkml.system import (
    CircuitChoice,
    CircuitFacts,
    CircuitFiles,
    CircuitSize,
    Visibility,
    Witness,
)

_LOOKUP_ROOM = 32
_ANY_LOOKUP = (-(1 << 40), 1 << 40)
"""Only to run rows, which tells the range that the tables need."""
_WITNESS_REFUSALS = ("synthesis error", "decomposition error")
_POINT_BYTES = 64
_NO_LOOP = "no running event loop"


class Backend:
    """See `ProofSystem`."""

    name = "ezkl"

    @property
    def version(self) -> str:
        """The installed engine's version."""
        return importlib.metadata.version("ezkl")

    def compile(
        self,
        onnx: Path,
        rows: Sequence[Sequence[int]],
        choice: CircuitChoice,
        visibility: Visibility,
        out: CircuitFiles,
    ) -> CircuitFacts:
        """Write the circuit and its settings; lookup tables hold what `rows` reach."""
        args = _run_args(choice, visibility)
        settings = _settings(onnx, args, out.settings)
        if settings["required_lookups"]:
            args.lookup_range = _ANY_LOOKUP
            _settings(onnx, args, out.settings)
            self.recompile(onnx, out)
            low, high = self._reach(out, rows, choice.scale_bits)
            room = _LOOKUP_ROOM  # rounding may cross zero, say
            if not _are_cut(onnx, settings["required_lookups"]):
                room += (high - low) // 4
            args.lookup_range = low - room, high + room
            settings = _settings(onnx, args, out.settings)
        self.recompile(onnx, out)
        return _facts(settings)

    def size(
        self, onnx: Path, choice: CircuitChoice, visibility: Visibility, scratch: Path
    ) -> CircuitSize:
        """Return what a choice would come to, whatever its `logrows`."""
        path = scratch / "size.json"
        settings = _settings(onnx, _run_args(choice, visibility), path)
        return CircuitSize(
            assignments=settings["total_assignments"],
            hash_rows=settings["module_sizes"]["poseidon"][0],
            lookups=bool(settings["required_lookups"]),
        )

    def _reach(
        self, files: CircuitFiles, rows: Sequence[Sequence[int]], scale_bits: int
    ) -> tuple[int, int]:
        """Return the range of lookups that rows lead to."""
        low, high = 0, 0
        for row in rows:
            made = _witness(files, row, files.root / "reach", scale_bits=scale_bits)
            low = min(low, made["min_lookup_inputs"])
            high = max(high, made["max_lookup_inputs"])
        return low, high

    def describe(self, settings: Path) -> Json:
        """Return what a circuit's settings say of members of `ZkmlParams`."""
        read = json.loads(settings.read_text())
        facts = _facts(read)
        return {
            "system_version": read["version"],
            "input_scale_bits": facts.input_scale_bits,
            "output_scale_bits": facts.output_scale_bits,
        }

    def deviations(
        self,
        onnx: Path,
        choice: CircuitChoice,
        visibility: Visibility,
        files: CircuitFiles,
    ) -> list[str]:
        """Return which settings already there are not what a choice leads to, by name.

        Two are stated nowhere: a table has the range that rows reached, and products
        are checked at a random point or not. Neither takes a constraint off.
        """
        theirs = _switches(json.loads(files.settings.read_text()))
        args = _run_args(choice, visibility)
        args.lookup_range = tuple(theirs["lookup_range"])
        args.disable_freivalds = theirs["disable_freivalds"]
        ours = _switches(_settings(onnx, args, files.path("ours.json")))
        names = {*ours, *theirs}
        return sorted(n for n in names if ours.get(n, n) != theirs.get(n, n))

    def recompile(self, onnx: Path, files: CircuitFiles) -> None:
        """Write the circuit that settings already there make of a model."""
        _call(
            "compile the circuit",
            ezkl.compile_circuit,
            str(onnx),
            str(files.network),
            str(files.settings),
        )

    def setup(self, files: CircuitFiles) -> None:
        """Write the proving and the verifying key."""
        _call(
            "make the keys",
            ezkl.setup,
            str(files.network),
            str(files.verifying_key),
            str(files.proving_key),
            str(files.srs),
            None,
            disable_selector_compression=False,
        )

    def check_proving_key(self, files: CircuitFiles, *, logrows: int) -> None:
        """Refuse a proving key that EZKL might wait on for ever."""
        check_proving_key(files, logrows=logrows)

    def witness(
        self, files: CircuitFiles, row: Sequence[int], out: Path, *, scale_bits: int
    ) -> Witness:
        """Run one quantised row; refuse what would make the prover hang."""
        made = _witness(files, row, out, scale_bits=scale_bits)
        settings = json.loads(files.settings.read_text())
        _check_lookups(made, settings)
        outputs = [felt for tensor in made["outputs"] for felt in tensor]
        hashes = [*_hashes(made, "inputs"), *_hashes(made, "params")]
        is_public = settings["run_args"]["input_visibility"] == "Public"
        inputs = made["inputs"][0] if is_public else []
        shown = [*hashes, *inputs, *outputs]
        felts = tuple(_from_le(f) for f in shown)
        return Witness(felts, felts[-len(outputs) :], out)

    def prove(self, files: CircuitFiles, witness: Witness) -> Proof:
        """Return a proof; it may be invalid, so verify it."""
        with memory_file() as out:
            _call(
                "prove",
                ezkl.prove,
                str(witness.path),
                str(files.network),
                str(files.proving_key),
                str(out),
                str(files.srs),
            )
            made = json.loads(out.read_text())
        instances = [_from_le(f) for column in made["instances"] for f in column]
        return Proof(tuple(instances), bytes(made["proof"]))

    def verify(self, files: CircuitFiles, proof: Proof) -> None:
        """Check that a proof is valid for its instances, whatever they are."""
        with memory_file() as path:
            path.write_text(json.dumps(_proof_file(proof)))
            try:
                valid = _call(
                    "verify",
                    ezkl.verify,
                    str(path),
                    str(files.settings),
                    str(files.verifying_key),
                    str(files.verifier_srs),
                    reduced_srs=True,
                    refusal=["[halo2]"],
                )
            except _RefusedError:
                valid = False
        if valid is not True:
            msg = (
                "the proof does not hold for its instances: the answer, the proof or "
                "the verifying key was changed, or the node never computed it"
            )
            raise VerificationError(msg, code="proof-invalid")

    def hash_input(self, row: Sequence[int]) -> int:
        """Return the Poseidon hash of a quantised row."""
        (made,) = _call("hash the input", ezkl.poseidon_hash, [_to_le(v) for v in row])
        return _from_le(made)

    def commits_to(self, files: CircuitFiles, proof: Proof, row: Sequence[int]) -> bool:
        """Return whether a proof begins with the KZG commitment of a quantised row.

        The row has columns of its own, which EZKL does not blind, and which come first
        in the proof: so the commitment is the same in every proof about this row.
        """
        points = _call(
            "commit to the input",
            ezkl.kzg_commit,
            [_to_le(v) for v in row],
            str(files.verifying_key),
            str(files.settings),
            str(files.srs),
        )
        made = b"".join(bytes.fromhex(v)[::-1] for p in points for v in (p.x, p.y))
        if not points or len(made) != _POINT_BYTES * len(points):
            raise BackendError("EZKL wrote a commitment that is not one")
        return proof.proof.startswith(made)

    def make_development_srs(self, out: Path, logrows: int) -> None:
        """Write a fresh SRS whose maker could forge."""
        _call("make an SRS", ezkl.gen_srs, str(out), logrows)

    def download_srs(self, out: Path, logrows: int) -> None:
        """Fetch the SRS of a public ceremony through EZKL."""
        try:
            _call("fetch the SRS", ezkl.get_srs, None, logrows, str(out))
        except BackendError as exc:
            msg = "the public SRS could not be fetched: go online, or give a file"
            raise UnavailableError(msg, code="srs-unavailable") from exc


class _RefusedError(Exception):
    """The engine refused in the way the caller said means a plain no."""


def _call(
    what: str,
    function: Callable[..., Any],
    *args: object,
    refusal: Sequence[str] = (),
    quote: bool = False,
    **options: object,
) -> Any:
    """Return what an EZKL function gives, awaited if need be.

    Its messages may quote inputs, so they are passed on only where `quote` says that
    none is at hand. A panic has its own code: the engine's state is unknown after it.
    """

    async def go() -> Any:
        result = function(*args, **options)
        return await result if inspect.isawaitable(result) else result

    try:
        try:
            return function(*args, **options)
        except RuntimeError as exc:
            if _NO_LOOP not in str(exc):
                raise
        return asyncio.run(go())  # only now: a sandboxed process cannot have a loop
    except Exception as exc:
        if any(words in str(exc) for words in refusal):
            raise _RefusedError from None
        msg = f"EZKL could not {what}" + (f": {str(exc)[:300]}" if quote else "")
        raise BackendError(msg) from exc
    except BaseException as exc:
        if type(exc).__name__ != "PanicException":
            raise
        msg = f"EZKL panicked when asked to {what}"
        raise BackendError(msg, code="engine-panicked") from exc


def _settings(onnx: Path, args: Any, out: Path) -> Json:
    _call(
        "read the model",
        ezkl.gen_settings,
        str(onnx),
        str(out),
        py_run_args=args,
        quote=True,  # nothing but the model is at hand to be quoted
    )
    read: Json = json.loads(out.read_text())
    return read


def _run_args(choice: CircuitChoice, visibility: Visibility) -> Any:
    args: Any = ezkl.PyRunArgs()
    committed = visibility.input == "committed"
    args.input_visibility = "polycommit" if committed else visibility.input
    args.output_visibility = "public"
    args.param_visibility = visibility.params
    args.input_scale = args.param_scale = choice.scale_bits
    args.decomp_base = choice.decomp_base
    args.decomp_legs = choice.decomp_legs
    args.num_inner_cols = choice.num_inner_cols
    args.scale_rebase_multiplier = choice.scale_rebase_multiplier
    args.logrows = choice.logrows
    args.disable_freivalds = choice.disable_freivalds
    args.rebase_frac_zero_constants = True  # else tree thresholds round to 0 or 1
    return args


def _witness(
    files: CircuitFiles, row: Sequence[int], out: Path, *, scale_bits: int
) -> Json:
    with memory_file() as data:
        data.write_text(json.dumps({"input_data": [_reals(row, scale_bits)]}))
        try:
            made: Json = _call(
                "run the row",
                ezkl.gen_witness,
                str(data),
                str(files.network),
                str(out),
                None,
                None,
                refusal=_WITNESS_REFUSALS,
            )
        except _RefusedError:
            raise _out_of_range() from None
    return made


def _hashes(made: Json, what: str) -> list[str]:
    """Return the Poseidon hashes that a witness has of `inputs` or `params`, if any."""
    processed = made.get(f"processed_{what}") or {}
    return [str(felt) for felt in processed.get("poseidon_hash") or []]


def _facts(settings: Json) -> CircuitFacts:
    inputs, outputs = settings["model_input_scales"], settings["model_output_scales"]
    if len(inputs) != 1 or len(outputs) != 1:
        raise BackendError("EZKL found more than one input or output in the model")
    low, high = settings["run_args"]["lookup_range"]
    return CircuitFacts(
        logrows=settings["run_args"]["logrows"],
        table_rows=high - low + 1 if settings["required_lookups"] else 0,
        input_scale_bits=inputs[0],
        output_scale_bits=outputs[0],
    )


def _switches(settings: Json) -> Json:
    """Return what settings say of a circuit's constraints, and of how well it hides."""
    blinding = "num_blinding_factors"
    return {**settings["run_args"], blinding: settings[blinding]}


def _are_cut(onnx: Path, lookups: Any) -> bool:
    """Return whether no input leads further into any table than rows have."""
    kinds = {next(iter(x)) if isinstance(x, dict) else str(x) for x in lookups}
    return kinds <= {"Sigmoid", "Tanh"} and tables_are_cut(onnx)


def _check_lookups(witness: Json, settings: Json) -> None:
    """Refuse a witness beyond the lookup table: proving it would never end."""
    if not settings["required_lookups"]:
        return
    low, high = settings["run_args"]["lookup_range"]
    if witness["min_lookup_inputs"] < low or witness["max_lookup_inputs"] > high:
        raise _out_of_range()


def _out_of_range() -> FormatError:
    msg = (
        "a row leads to a value that the circuit was not built for: check its units, "
        "or publish again with calibration rows that reach it"
    )
    return FormatError(msg, code="out-of-range")


def _proof_file(proof: Proof) -> Json:
    return {
        "instances": [[_to_le(v) for v in proof.instances]],
        "proof": list(proof.proof),
    }


def _reals(row: Sequence[int], scale_bits: int) -> list[float]:
    return [v / 2.0**scale_bits for v in row]


def _to_le(value: int) -> str:
    return (value % MODULUS).to_bytes(32, "little").hex()


def _from_le(text: str) -> int:
    with contextlib.suppress(ValueError):
        value = int.from_bytes(bytes.fromhex(text), "little")
        if value < MODULUS:
            return value
    raise BackendError("EZKL wrote a field element that is not one")
