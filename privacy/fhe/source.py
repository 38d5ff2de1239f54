"""What a native circuit can be built from anew, on another machine.

    source/circuit.mlir    the circuit as its compiler wrote it, before any lowering
    source/options.json    how Concrete was told to compile it

Building gives the same program, or it fails: keys and ciphertexts made for one
machine's library serve another's.
"""

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy.encoding import Json, canonical_json, parse_canonical
from privacy.errors import BackendError, FormatError
from privacy.fhe.backends.device import uses_gpu

FORMAT = "privacy-compute/fhe-source/1"
SOURCE = "source"
MLIR, OPTIONS = "circuit.mlir", "options.json"
CIRCUIT_FILES = ("sharedlib.so", "program_info.concrete.params.json")
_FLAGS = (
    "loop_parallelize",
    "compress_evaluation_keys",
    "compress_input_ciphertexts",
    "composable",
    "enable_tlu_fusing",
)
_NAMES = {*_FLAGS, "p_error", "global_p_error", "security_level"}
_NAMES |= {"parameter_selection_strategy", "multi_parameter_strategy"}


@dataclass(frozen=True, slots=True)
class Source:
    """A circuit before it was compiled for a machine."""

    mlir: str
    options: Json

    def write(self, folder: Path) -> None:
        """Write the source to a new folder."""
        folder.mkdir()
        (folder / MLIR).write_text(self.mlir)
        value = {"format": FORMAT, **self.options}
        (folder / OPTIONS).write_bytes(canonical_json(value))


def source_of(circuit: Any) -> Source:
    """Return the source of a circuit or module of `concrete.fhe`."""
    chosen = circuit.configuration
    options = {name: getattr(chosen, name) for name in _NAMES}
    for name in ("parameter_selection_strategy", "multi_parameter_strategy"):
        options[name] = options[name].name
    options["security_level"] = int(options["security_level"])
    return Source(mlir=str(circuit.mlir), options=options)


def read_source(folder: Path) -> Source:
    """Return the source in a bundle.

    Raises:
        FormatError: The options are not as `write` wrote them.
    """
    value = parse_canonical((folder / OPTIONS).read_bytes(), what=OPTIONS)
    if value.pop("format", None) != FORMAT or set(value) != _NAMES:
        msg = f"{OPTIONS} is not of format {FORMAT}: publish the model again"
        raise FormatError(msg, code="fhe-source-malformed")
    return Source(mlir=(folder / MLIR).read_text(), options=value)


def build(source: Source, program: str, out: Path, *, device: str = "cpu") -> None:
    """Compile a source for this machine; write `CIRCUIT_FILES` into `out`.

    Args:
        source: The source.
        program: The description of the library that it was built to before.
        out: A folder that exists.
        device: `cpu` or `cuda`, as it was built for before.

    Raises:
        UnavailableError: It is for a GPU, and this Concrete can use none.
        BackendError: Concrete cannot compile it, or makes another program of it.
    """
    wanted, gpu = json.loads(program), uses_gpu(device)
    for restricted in (False, True):  # it may have been compiled in a given key set
        with tempfile.TemporaryDirectory(prefix="privacy-fhe-") as scratch:
            try:
                restrict_to = wanted if restricted else None
                library = _compile(source, restrict_to, scratch, gpu=gpu)
                info = library.get_program_info()
            except RuntimeError:
                continue
            if json.loads(info.serialize()) == wanted:
                for name in CIRCUIT_FILES:
                    shutil.copyfile(Path(scratch) / name, out / name)
                return
    msg = (
        "Concrete does not make the same program of this source: install the version "
        "that the manifest names, or publish the model again"
    )
    raise BackendError(msg, code="fhe-rebuild-differs")


def _compile(source: Source, restrict_to: Json | None, out: str, *, gpu: bool) -> Any:
    from concrete import compiler as native

    o = source.options
    backend = native.Backend.GPU if gpu else native.Backend.CPU
    options = native.CompilationOptions(backend)
    for name in _FLAGS:
        getattr(options, f"set_{name}")(o[name])
    # As `concrete.fhe` does it: what was not chosen does not bind.
    options.set_p_error(1.0 if o["p_error"] is None else o["p_error"])
    options.set_global_p_error(
        1.0 if o["global_p_error"] is None else o["global_p_error"]
    )
    options.set_security_level(o["security_level"])
    strategies = {"V0": "V0", "MONO": "DAG_MONO", "MULTI": "DAG_MULTI"}
    strategy = strategies[o["parameter_selection_strategy"]]
    options.set_optimizer_strategy(getattr(native.OptimizerStrategy, strategy))
    multi = native.OptimizerMultiParameterStrategy
    options.set_optimizer_multi_parameter_strategy(
        getattr(multi, o["multi_parameter_strategy"])
    )
    if restrict_to is not None:
        keyset = json.dumps({"keyset": restrict_to["keyset"], "circuits": []})
        info = native.ProgramInfo.deserialize(keyset.encode()).get_keyset_info()
        options.set_keyset_restriction(info.get_restriction())
    made = native.Compiler(
        out,
        native.lookup_runtime_lib(),
        generate_shared_lib=True,
        generate_static_lib=False,
        generate_program_info=True,
        generate_compilation_feedback=False,
    )
    return made.compile(source.mlir, options)
