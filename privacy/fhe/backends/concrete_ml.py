"""Concrete-ML at publish time: from a model to a compiled circuit and its quantizers.

Everything here runs in the publishing child process only; `concrete.ml` is imported
inside the functions, because it takes nine seconds and brings torch. What it makes is
described in plain numbers, so that clients and nodes never need it.

Three families:
- linear models: matrix product at 16 bits, no bootstrapping, no evaluation keys;
- trees: quantizers placed on the model's own thresholds, not on the training data;
- networks: post-training quantization with approximate rounding.
"""

import importlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from privacy.errors import BackendError
from privacy.fhe.backend import Floats, Ints
from privacy.fhe.backends.networks import NETWORK_BITS, compile_network
from privacy.fhe.backends.plain import extremes, input_quantizers, output_steps
from privacy.fhe.compiled import Attempt, Compiled, circuit_members
from privacy.fhe.quantizers import Quantizer
from privacy.trees import xgboost_base

LINEAR_BITS = (16, 14, 12, 10, 8)
TREE_BITS = (6, 5, 4, 3)
TREES = frozenset(
    {
        "DecisionTreeClassifier",
        "DecisionTreeRegressor",
        "RandomForestClassifier",
        "RandomForestRegressor",
        "XGBClassifier",
        "XGBRegressor",
    }
)


def attempts(
    estimator: Any, onnx: Path, calibration: Floats, *, p_error: float, bits: int | None
) -> Iterator[Attempt]:
    """Yield (name, compile) from the most precise attempt to the least.

    Trees that Concrete-ML has no class for, or cannot read, are tried as networks.

    Args:
        estimator: The scikit-learn or XGBoost estimator, or None.
        onnx: The core model, for anything that is neither linear nor trees.
        calibration: Standardised rows, (rows, features).
        p_error: Chance that one table look-up errs.
        bits: The publisher's choice instead of the list; networks have none.
    """
    name, rest = type(estimator).__name__, (calibration, p_error)
    if hasattr(estimator, "coef_"):
        for n in (bits,) if bits else LINEAR_BITS:
            yield f"linear, {n} bits", partial(_linear, estimator, n, *rest)
        return
    if name in TREES:
        for n in (bits,) if bits else TREE_BITS:
            yield f"{name}, {n} bits", partial(_trees, estimator, n, *rest)
    for parts, rounding in NETWORK_BITS:
        label = f"network, {parts['op_inputs']} bits"
        yield label, partial(compile_network, onnx, parts, rounding, *rest)


def _linear(estimator: Any, bits: int, calibration: Floats, p_error: float) -> Compiled:
    """Compile any linear model as a linear regression: raw outputs are its margins."""
    from sklearn.linear_model import LinearRegression

    core = LinearRegression()
    core.coef_ = np.asarray(estimator.coef_, np.float64)
    core.intercept_ = np.asarray(estimator.intercept_, np.float64)
    core.n_features_in_ = calibration.shape[1]
    made = _sklearn("LinearRegression").from_sklearn_model(
        core, calibration.astype(np.float32), n_bits=bits
    )
    quantizers = input_quantizers(made.input_quantizers)
    weights = made._q_weights  # noqa: SLF001 - no public way to the integers
    centred = weights - made._weight_quantizer.zero_point  # noqa: SLF001
    worst = np.concatenate(
        [s * np.sign(w).T for w in (weights, centred) for s in (1, -1)]
    )
    ends = _whole_range(quantizers, calibration.shape[1])
    circuit = made.compile(
        np.concatenate([calibration, *extremes(quantizers, *ends, worst)]),
        p_error=p_error,
    )
    return _compiled("linear", made, circuit, calibration, quantizers, bits)


def _trees(estimator: Any, bits: int, calibration: Floats, p_error: float) -> Compiled:
    _check_rounds(estimator)
    made = _sklearn(type(estimator).__name__).from_sklearn_model(estimator, n_bits=bits)
    quantizers = input_quantizers(made.input_quantizers)
    ends = _whole_range(quantizers, calibration.shape[1])
    circuit = made.compile(
        np.concatenate([calibration, *extremes(quantizers, *ends)]),
        p_error=p_error,
    )
    return _compiled("trees", made, circuit, calibration, quantizers, bits)


def _check_rounds(estimator: Any) -> None:
    """Refuse boosted trees that Concrete-ML would add up in another way.

    It reads every tree that was trained, and takes one for each class in turn.
    """
    if not hasattr(estimator, "get_booster"):
        return
    best = getattr(estimator, "best_iteration", None)
    stopped = best is not None and (
        best + 1 < estimator.get_booster().num_boosted_rounds()
    )
    if stopped or (estimator.num_parallel_tree or 1) > 1:
        msg = (
            "Concrete-ML reads neither where XGBoost stopped early nor trees side by "
            "side: train it with as many rounds as were best, one tree at a time"
        )
        raise BackendError(msg, code="unsupported-model")


def _compiled(
    family: str,
    made: Any,
    circuit: Any,
    calibration: Floats,
    quantizers: tuple[Quantizer, ...],
    bits: int,
) -> Compiled:
    is_sum = family == "trees"
    add = _base(made.sklearn_model) if is_sum else (0.0,)

    def theirs_outputs(integers: Ints) -> Floats:
        values = made.output_quantizers[0].dequant(integers)
        values = np.sum(values, axis=-1) if is_sum else values
        out: Floats = values.reshape(len(integers), -1) + np.array(add)
        return out

    return Compiled(
        circuit="concrete-ml",
        family=family,
        n_bits={"all": bits},
        **circuit_members(circuit),
        features=calibration.shape[1],
        quantizers=quantizers,
        output=output_steps(made.output_quantizers[0], sum_last=is_sum, add=add),
        theirs_quantize=made.quantize_input,
        theirs_integers=made._inference,  # noqa: SLF001 - the clear circuit
        theirs_outputs=theirs_outputs,
        exact=True,
    )


def _sklearn(name: str) -> Any:
    return getattr(importlib.import_module("concrete.ml.sklearn"), name)


def _whole_range(quantizers: tuple[Quantizer, ...], features: int) -> tuple[Ints, Ints]:
    """Return the least and the greatest integer of every feature."""
    low = np.array([q.low for q in quantizers])
    high = np.array([q.high for q in quantizers])
    return np.broadcast_to(low, features), np.broadcast_to(high, features)


def _base(estimator: Any) -> tuple[float, ...]:
    """Return what XGBoost adds to the sum of its trees, and Concrete-ML leaves out."""
    return xgboost_base(estimator) if hasattr(estimator, "get_booster") else (0.0,)
