"""Tree ensembles as circuits of our own on Concrete, without Concrete-ML.

Runs in the publishing child process only: `concrete.fhe` takes seconds to import. The
client sends thermometer bits; the node picks linearly the bits that each look-up needs,
looks up, and sums. See `privacy.fhe.plan` for what is looked up.

Source: docs/adr/0006-fhe-native-trees.md
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from concrete import fhe

from privacy.errors import BackendError
from privacy.fhe.backend import Floats, Ints
from privacy.fhe.binning import owners
from privacy.fhe.compiled import Compiled, circuit_members
from privacy.fhe.draft import Draft, choose, ranks
from privacy.fhe.plan import Plan
from privacy.fhe.thermometer import Edges
from privacy.trees import ensemble_of

_SAMPLES = 32
_NO_MORE = 1.05


def compile_trees(
    estimator: Any,
    calibration: Floats,
    *,
    p_error: float,
    splits: str,
    task: str,
    drafts: Sequence[Draft] = (),
) -> Compiled:
    """Compile a trained ensemble.

    Args:
        estimator: A scikit-learn or XGBoost tree or ensemble of trees.
        calibration: Standardised rows, (rows, features).
        p_error: Chance that one table look-up errs.
        splits: `hidden` or `revealed`; see `privacy.fhe.options.Options`.
        task: See `privacy.bundle.Manifest`.
        drafts: Instead of those that `choose` gives.

    Raises:
        BackendError: It cannot be expressed.
        FormatError: Likewise.
    """
    ensemble = ensemble_of(estimator)
    if ensemble is None:
        msg = f"{type(estimator).__name__} is no ensemble of trees that we read"
        raise BackendError(msg, code="fhe-not-trees")
    drafts = drafts or choose(ensemble, calibration, splits=splits, task=task)
    draft, made, circuit = _finest(drafts, p_error)
    bits = sum(len(e.edges) for e in draft.edges)
    return Compiled(
        circuit="fhe-native",
        family="trees",
        n_bits={"table": made.table_bits, "sum": made.sum_bits},
        **circuit_members(circuit),
        features=calibration.shape[1],
        quantizers=draft.edges,
        output=draft.output,
        theirs_quantize=lambda rows: ranks(rows, draft.edges),
        theirs_integers=draft.sums,
        theirs_outputs=lambda integers: _outputs(draft, integers),
        exact=True,
        details={
            "splits": splits,
            "bins": draft.bins,
            "input_bits": bits,
            "look_ups": len(made.look_ups),
            "trees": len(ensemble.trees),
        },
        unrounded=draft.unrounded,
    )


def _finest(drafts: Sequence[Draft], p_error: float) -> tuple[Draft, Plan, Any]:
    """Compile the first draft, or the widest sums that cost no more than its."""
    found: tuple[Draft, Plan, Any] | None = None
    for draft in drafts:
        made = draft.plan()
        circuit = _circuit(made, draft.edges, p_error)
        if found and circuit.complexity > _NO_MORE * found[2].complexity:
            break
        found = draft, made, circuit
    if found is None:
        raise BackendError("there is no draft to compile", code="fhe-bad-plan")
    return found


def _outputs(draft: Draft, integers: Ints) -> Floats:
    """Return raw outputs one number at a time."""
    rows = [
        [
            s * i + o
            for s, i, o in zip(
                draft.output.scale, row.tolist(), draft.output.offset, strict=True
            )
        ]
        for row in integers
    ]
    if draft.output.complement:
        rows = [[1.0 - second, second] for (second,) in rows]
    return np.array(rows, dtype=np.float64)


def _circuit(made: Plan, edges: Sequence[Edges], p_error: float) -> Any:
    """Return the compiled circuit: (1, bits) to (1, outputs).

    Widths are stated, not sampled: an index has the table's bits and a sum the plan's,
    both of which bound every input. Samples only tell Concrete the rest.
    """
    longest = max(len(u.bits) for u in made.look_ups)
    position = np.array([_padded(u.bits, longest) for u in made.look_ups])
    weight = np.array([_padded(u.weights, longest) for u in made.look_ups])
    constant = np.array([u.constant for u in made.look_ups])
    tables = fhe.LookupTable([fhe.LookupTable(list(u.table)) for u in made.look_ups])
    into = np.zeros((len(made.look_ups), made.outputs), dtype=np.int64)
    into[np.arange(len(made.look_ups)), [u.output for u in made.look_ups]] = 1

    def run(x: Any) -> Any:
        index = np.sum(x[0][position] * weight, axis=1) + constant
        steps = tables[fhe.hint(index, bit_width=made.table_bits)]
        sums = fhe.hint(steps @ into, bit_width=made.sum_bits)
        return sums.reshape((1, made.outputs))

    configuration = fhe.Configuration(
        p_error=p_error,
        compress_evaluation_keys=True,
        compress_input_ciphertexts=True,
        dump_artifacts_on_unexpected_failures=False,
    )
    compiler = fhe.Compiler(run, {"x": "encrypted"})
    return compiler.compile(_samples(edges), configuration=configuration)


def _padded(values: tuple[int, ...], length: int) -> list[int]:
    """Return as many values as asked for; a bit more with weight 0 changes nothing."""
    return [*values, *[0] * (length - len(values))]


def _samples(edges: Sequence[Edges]) -> list[Ints]:
    """Return thermometers: all empty, all full, and some at random heights."""
    rng = np.random.default_rng(0)
    height = np.array([len(e.edges) for e in edges])
    heights = [0 * height, height, *rng.integers(0, height + 1, (_SAMPLES, len(edges)))]
    owner = np.array(owners(edges))
    place = np.concatenate([np.arange(h) for h in height])
    return [(place < h[owner]).astype(np.int64)[None] for h in heights]
