"""Tree ensembles as circuits of our own on Concrete, without Concrete-ML.

Runs in the publishing child process only: `concrete.fhe` takes seconds to import. The
client sends thermometer bits; the node picks linearly the bits that each look-up needs,
looks up, and sums. See `privacy.fhe.plan` for what is looked up.

Circuits are compiled in the key set that ships with the project, if they can be.

Source: docs/adr/0006-fhe-native-trees.md
"""

import json
import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from concrete import fhe
from concrete.compiler import ProgramInfo
from concrete.fhe.compilation.module_compiler import FunctionDef, ModuleCompiler

from privacy.errors import BackendError
from privacy.fhe.backend import Floats, Ints
from privacy.fhe.backends.device import uses_gpu
from privacy.fhe.binning import owners
from privacy.fhe.compiled import Compiled, circuit_members
from privacy.fhe.draft import Draft, TreesDraft, ranks
from privacy.fhe.keysets import OWN, TREES, shipped
from privacy.fhe.plan import Plan, evaluate
from privacy.fhe.thermometer import Edges

_SAMPLES, _DRAWN = 32, 512
_LITTLE_MORE = 1.02
_BATCH_ROWS = 8
_BATCH_LOOK_UPS = 1024
"""A batch takes no more look-ups than this, or rows would wait for too long."""


def compile_trees(
    drafts: Sequence[TreesDraft],
    *,
    p_error: float,
    splits: str,
    device: str = "cpu",
) -> Compiled:
    """Compile an ensemble.

    Args:
        drafts: What `privacy.fhe.tree_choice.choose` gave.
        p_error: Chance that one table look-up errs.
        splits: For the manifest, what clients learn of the trees.
        device: See `privacy.fhe.backends.device.uses_gpu`.

    Raises:
        UnavailableError: There is no such device.
        BackendError: It cannot be expressed.
    """
    configuration = fhe.Configuration(
        p_error=p_error,
        use_gpu=uses_gpu(device),
        compress_evaluation_keys=True,
        compress_input_ciphertexts=True,
        dump_artifacts_on_unexpected_failures=False,
    )
    draft, made, circuit, keyset = _finest(drafts, configuration)
    bits, used = sum(len(e.edges) for e in draft.edges), _used(made)
    members = circuit_members(circuit, rows=_batches(made))
    members["program"] = _widened(members["engine_program"], bits)
    members["complexity"] /= sum(_batches(made))  # of one row, as other circuits' is
    return Compiled(
        circuit="fhe-native",
        family="trees",
        n_bits={"table": made.table_bits, "sum": made.sum_bits},
        **members,
        features=len(draft.edges),
        quantizers=draft.edges,
        output=draft.output,
        theirs_quantize=lambda rows: ranks(rows, draft.edges),
        theirs_integers=draft.sums,
        theirs_outputs=lambda integers: _outputs(draft, integers),
        exact=True,
        details={
            "keyset": keyset,
            "device": "cuda" if configuration.use_gpu else "cpu",
            "splits": splits,
            "answer": "leaves" if draft.output.trees else "sums",
            "bins": draft.bins,
            "input_bits": bits,
            "look_ups": len(made.look_ups),
            "trees": len(draft.trees),
        },
        used=used if len(used) < bits else None,
        unrounded=draft.unrounded,
    )


def _finest(
    drafts: Sequence[TreesDraft], configuration: fhe.Configuration
) -> tuple[TreesDraft, Plan, fhe.Module, str]:
    """Compile the first draft, or the widest sums that cost little more than its.

    All in one key set; its name, or `OWN`, comes last.
    """
    limit = math.inf
    found: tuple[TreesDraft, Plan, fhe.Module, str] | None = None
    for draft in drafts:
        made = draft.plan()
        module, keyset = _compiled(made, draft.edges, configuration)
        if found and (keyset != found[3] or module.complexity > limit):
            break
        limit = min(limit, _LITTLE_MORE * module.complexity)
        found = draft, made, module, keyset
    if found is None:
        raise BackendError("there is no draft to compile", code="fhe-bad-plan")
    return found


def _compiled(
    made: Plan, edges: Sequence[Edges], configuration: fhe.Configuration
) -> tuple[fhe.Module, str]:
    """Compile a plan in the first key set that ships and will do; return its name.

    Where no parameters in the key set will do, Concrete chooses others without a word.
    """
    for spec in map(shipped, TREES):
        if configuration.p_error != spec.p_error:
            continue
        program = {"keyset": spec.keyset, "circuits": []}
        info = ProgramInfo.deserialize(json.dumps(program).encode()).get_keyset_info()
        restricted = configuration.fork(keyset_restriction=info.get_restriction())
        module = _module(made, edges, restricted)
        if json.loads(module.client.specs.serialize())["keyset"] == spec.keyset:
            return module, spec.name
    return _module(made, edges, configuration), OWN


def _outputs(draft: TreesDraft, integers: Ints) -> Floats:
    """Return raw outputs one number at a time."""
    steps = draft.output
    rows = [
        [s * i + o for s, i, o in zip(steps.scale, sums, steps.offset, strict=True)]
        for sums in (_held(draft, row) for row in integers.tolist())
    ]
    if steps.complement:
        rows = [[1.0 - [*accumulate(others)][-1], *others] for others in rows]
        rows = [[max(share, 0.0) for share in shares] for shares in rows]
        rows = [[s / [*accumulate(shares)][-1] for s in shares] for shares in rows]
    return np.array(rows, dtype=np.float64)


def _held(draft: TreesDraft, row: list[int]) -> list[int]:
    """Return the sums of a row: what it holds, or what the leaves that it names do."""
    if isinstance(draft, Draft):
        return row
    held = [n.leaf_of[at] for n, at in zip(draft.numberings, row, strict=True)]
    return [int(sum(steps)) for steps in zip(*filter(None, held), strict=True)]


def _used(made: Plan) -> tuple[int, ...]:
    """Return the bits that look-ups read, ascending."""
    return tuple(sorted({bit for u in made.look_ups for bit in u.bits}))


def _widened(program: str, bits: int) -> str:
    """Return a program whose circuits take so many bits a row."""
    value = json.loads(program)
    for circuit in value["circuits"]:
        (gate,) = circuit["inputs"]
        ciphertext = gate["typeInfo"]["lweCiphertext"]
        for shape in (
            gate["rawInfo"]["shape"],
            ciphertext["abstractShape"],
            ciphertext["concreteShape"],
        ):
            shape["dimensions"][1] = bits
    return json.dumps(value, sort_keys=True)


def _batches(made: Plan) -> tuple[int, ...]:
    """Return how many rows the circuits of a plan take, one first."""
    short = len(made.look_ups) * _BATCH_ROWS <= _BATCH_LOOK_UPS
    return (1, _BATCH_ROWS) if short else (1,)


class _Apart:
    """Concrete's composition policy: no function's result is another's input."""

    def get_rules_iter(self, funcs: Any) -> tuple[()]:
        """Return no rules."""
        _ = funcs
        return ()


def _module(
    made: Plan, edges: Sequence[Edges], configuration: fhe.Configuration
) -> fhe.Module:
    """Return a compiled circuit for each number of rows, all on one key set."""
    width, whole = _stated(made, _samples(edges))
    functions = {rows: _function(made, rows, width) for rows in _batches(made)}
    samples = [s[:, list(_used(made))] for s in whole]
    inputs = {
        f.name: [np.concatenate([s] * rows) for s in samples]
        for rows, f in functions.items()
    }
    compiler = ModuleCompiler(list(functions.values()), _Apart())
    return compiler.compile(inputs, configuration)


def _stated(made: Plan, samples: list[Ints]) -> tuple[int, list[Ints]]:
    """Return the width of sums that Concrete is told, and samples that agree with it.

    Above the bits of each number Concrete keeps one free, for look-ups. A sum is not
    looked up but decrypted, modulo twice its stated width, so the free bit is its
    uppermost: a bit for nothing. Samples are those whose sums leave it 0, if there are
    enough, and if tables do.
    """
    less = made.sum_bits - 1
    if max(max(u.table) for u in made.look_ups) < 1 << less:
        low = [s for s in samples if evaluate(made, s).max() < 1 << less]
        if len(low) >= _SAMPLES:
            return less, low[:_SAMPLES]
    return made.sum_bits, samples[:_SAMPLES]


def _function(made: Plan, rows: int, width: int) -> FunctionDef:
    """Return the circuit: (rows, bits that are used) to (rows, outputs).

    Widths are stated, not sampled: an index has the table's bits and a sum `width`,
    both of which bound every input. Samples only tell Concrete the rest.
    """
    longest = max(len(u.bits) for u in made.look_ups)
    place = {bit: i for i, bit in enumerate(_used(made))}
    position = np.array(
        [
            _padded(tuple(place[b] for b in u.bits), longest, filler=0)
            for u in made.look_ups
        ]
    )
    weight = np.array([_padded(u.weights, longest, filler=0) for u in made.look_ups])
    constant = np.array([u.constant for u in made.look_ups])
    row = [fhe.LookupTable(list(u.table)) for u in made.look_ups]
    tables = fhe.LookupTable([row] * rows)
    into = np.array([u.into for u in made.look_ups], dtype=np.int64)

    def run(x: Any) -> Any:
        index = np.sum(x[:, position] * weight, axis=2) + constant
        steps = tables[fhe.hint(index, bit_width=made.table_bits)]
        return fhe.hint(steps @ into, bit_width=width)

    run.__name__ = f"rows_{rows}"
    return FunctionDef(run, {"x": "encrypted"})


def _padded(values: tuple[int, ...], length: int, *, filler: int) -> list[int]:
    """Return as many values as asked for; a bit more with weight 0 changes nothing."""
    return [*values, *[filler] * (length - len(values))]


def _samples(edges: Sequence[Edges]) -> list[Ints]:
    """Return thermometers: all empty, all full, and some at random heights."""
    rng = np.random.default_rng(0)
    height = np.array([len(e.edges) for e in edges])
    heights = [0 * height, height, *rng.integers(0, height + 1, (_DRAWN, len(edges)))]
    owner = np.array(owners(edges))
    place = np.concatenate([np.arange(h) for h in height])
    return [(place < h[owner]).astype(np.int64)[None] for h in heights]
