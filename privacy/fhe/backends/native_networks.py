"""Dense networks as circuits of our own on Concrete, without Concrete-ML.

Runs in the publishing child process only: `concrete.fhe` takes seconds to import. The
client sends whole steps of each feature; the node sums them with whole weights, looks
every neuron's activation up, and sums again. See `privacy.fhe.dense_plan`.

Source: docs/adr/0007-fhe-native-networks.md
"""

import json
from typing import Any

import numpy as np
from concrete import fhe

from privacy.fhe.backend import Floats, Ints
from privacy.fhe.compiled import Compiled, circuit_members
from privacy.fhe.dense_plan import DensePlan, Neurons, between, evaluate
from privacy.fhe.keysets import name_of

_SAMPLES = 32


def compile_dense(plan: DensePlan, *, p_error: float) -> Compiled:
    """Compile a plan.

    Args:
        plan: What `privacy.fhe.dense_plan.plan_dense` gave.
        p_error: Chance that one table look-up errs by more than rounding may.
    """
    circuit = _circuit(plan, p_error)
    shape, members = plan.shape, circuit_members(circuit)
    return Compiled(
        circuit="fhe-native",
        family="network",
        n_bits={
            "inputs": shape.input_bits,
            "sums": shape.sum_bits,
            "table": shape.table_bits,
            "values": shape.value_bits,
            "weights": shape.weight_bits,
            "output": plan.layers[-1].sum_bits,
        },
        **members,
        features=len(plan.quantizers),
        quantizers=plan.quantizers,
        output=plan.output,
        theirs_quantize=lambda rows: _counted(plan, rows),
        theirs_integers=lambda values: evaluate(plan, values),
        theirs_outputs=lambda integers: _outputs(plan, integers),
        exact=False,
        between=lambda values: between(plan, values),
        details={
            "keyset": name_of(json.loads(members["program"])["keyset"]),
            "look_ups": plan.look_ups,
            "layers": len(plan.layers),
            "clip": shape.clip,
        },
    )


def _counted(plan: DensePlan, rows: Floats) -> Ints:
    """Return the steps of each feature one column at a time: a second opinion."""
    columns = []
    for column, q in zip(rows.T, plan.quantizers, strict=True):
        whole = np.rint(column / q.scale + q.zero_point)
        columns.append(np.minimum(np.maximum(whole, q.low), q.high))
    found: Ints = np.stack(columns, axis=1).astype(np.int64)
    return found


def _outputs(plan: DensePlan, integers: Ints) -> Floats:
    """Return raw outputs one number at a time."""
    steps = plan.output
    rows = [
        [
            s * i + o
            for s, i, o in zip(steps.scale, row.tolist(), steps.offset, strict=True)
        ]
        for row in integers
    ]
    if steps.mirror:
        rows = [[-half, half] for (half,) in rows]
    return np.array(rows, dtype=np.float64)


def _circuit(plan: DensePlan, p_error: float) -> Any:
    """Return the compiled circuit: (1, features) to (1, outputs).

    Widths are stated, not sampled: every sum has its layer's bits, which bound every
    input. Samples only tell Concrete the rest.
    """
    tables = [_tables(layer) for layer in plan.layers]

    def run(x: Any) -> Any:
        values = x
        for layer, table in zip(plan.layers, tables, strict=True):
            sums = values @ layer.weights
            if layer.constant.any():
                sums = sums + layer.constant
            values = fhe.hint(sums, bit_width=layer.sum_bits)
            if table is not None:
                values = table[_rounded(values, layer)]
        return values

    configuration = fhe.Configuration(
        p_error=p_error,
        compress_evaluation_keys=True,
        compress_input_ciphertexts=True,
        dump_artifacts_on_unexpected_failures=False,
    )
    compiler = fhe.Compiler(run, {"x": "encrypted"})
    return compiler.compile(_samples(plan), configuration=configuration)


def _rounded(sums: Any, layer: Neurons) -> Any:
    """Drop the bits below a table's; noise decides near the middle of two entries."""
    below = int(layer.unit).bit_length() - 1
    if not below:
        return sums
    return fhe.round_bit_pattern(
        sums, below, overflow_protection=False, exactness=fhe.Exactness.APPROXIMATE
    )


def _tables(layer: Neurons) -> Any:
    """Return one table a neuron, over sums whose lower bits are 0 after rounding."""
    if layer.tables is None:
        return None
    wide = np.repeat(layer.tables, layer.unit, axis=1)
    return fhe.LookupTable([fhe.LookupTable(row.tolist()) for row in wide])


def _samples(plan: DensePlan) -> list[Ints]:
    """Return both ends, those of every neuron of the first layer, and random rows."""
    rng = np.random.default_rng(0)
    top = np.array([q.high for q in plan.quantizers])
    up = (plan.layers[0].weights.T > 0) * top
    some = rng.integers(0, top + 1, (_SAMPLES, len(top)))
    return [row[None] for row in (0 * top, top, *up, *(top - up), *some)]
