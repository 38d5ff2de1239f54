"""The circuits a model can become, listed by kind.

A new kind of circuit, or a new choice within one, is one more candidate here.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from privacy.errors import BackendError, FormatError, PrivacyError
from privacy.fhe.backend import Floats
from privacy.fhe.backends import concrete_ml
from privacy.fhe.backends.device import uses_gpu
from privacy.fhe.compiled import Compiled
from privacy.fhe.dense import Layer, read_dense
from privacy.fhe.dense_choice import fit_dense, mirrors, shapes
from privacy.fhe.dense_plan import plan_dense
from privacy.fhe.draft import Draft, TreesDraft
from privacy.fhe.options import Options
from privacy.fhe.quantizers import raw_outputs
from privacy.fhe.thermometer import thermometer
from privacy.fhe.tree_choice import (
    BINS,
    SUM_BITS,
    answered,
    draft_at,
    with_fewer_look_ups,
)
from privacy.fhe.yardstick import Fit, Outputs
from privacy.publishing import PartRequest
from privacy.trees import Ensemble, check_levels, ensemble_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One circuit that a model could become.

    Attributes:
        name: Says what is special about it; unique for a model.
        compile: Compile it, fitted on all calibration rows.
        fit: What it answers in the clear when fitted on given rows; None if only
            compiling shows.
        rank: Among candidates with `fit`, a rough order of cost; equals cost alike.
    """

    name: str
    compile: Callable[[], Compiled]
    fit: Fit | None = None
    rank: float = 0.0


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be compiled; `calibration` is standardised, (rows, features)."""

    request: PartRequest
    estimator: Any
    calibration: Floats
    options: Options


Kind = Callable[[Subject], Iterator[Candidate]]

_TOO_DEEP = "fhe-tree-too-deep"


def kinds(subject: Subject) -> tuple[Kind, ...]:
    """Return the kinds of circuit that may serve a model, the preferred first.

    Raises:
        FormatError: A GPU is asked for, which circuits of this model cannot use.
        UnavailableError: It is asked for, and there is none.
    """
    if subject.options.device == "cuda":
        _check_gpu(subject)
        return (trees,)
    name = type(subject.estimator).__name__
    if name == "QuantizedNetwork":
        return (quantized,)
    if name in {"KNeighborsClassifier", "KNeighborsRegressor"}:
        return (neighbours,)
    native = dense if subject.estimator is None else trees
    if subject.options.circuit == "fhe-native":
        return (native,)
    linear = hasattr(subject.estimator, "coef_")
    if subject.options.circuit == "auto" and not linear:
        return (native, by_concrete_ml)
    return (by_concrete_ml,)


def _check_gpu(subject: Subject) -> None:
    """Refuse a GPU for what would be compiled for none, or if there is none."""
    why = ""
    if subject.options.circuit == "concrete-ml":
        why = "circuit is concrete-ml"
    else:
        try:
            read_trees(subject)
        except BackendError as exc:
            why = exc.message
    if why:
        msg = (
            "FHE option device is cuda, which is for our own circuits of tree "
            f"ensembles: {why}; leave device out"
        )
        raise FormatError(msg, code="bad-option")
    uses_gpu("cuda")


def dense(subject: Subject) -> Iterator[Candidate]:
    """Yield a dense network's circuits of our own.

    Raises:
        BackendError: It is no chain of linear layers.
    """
    layers = read_dense(subject.request.onnx, subject.calibration.shape[1])
    mirror = mirrors(layers, subject.request.activation)
    for rank, shape in enumerate(shapes(subject.request.task)):
        yield Candidate(
            name=f"fhe-native, {shape.table_bits}-bit tables of {shape.value_bits}-bit "
            f"values, {shape.weight_bits:+d} bits of weights, clipped at {shape.clip}",
            fit=fit_dense(layers, shape, mirror=mirror),
            compile=partial(_compile_dense, subject, layers, shape, mirror=mirror),
            rank=float(rank),
        )


def _compile_dense(
    subject: Subject, layers: tuple[Layer, ...], shape: Any, *, mirror: bool
) -> Compiled:
    from privacy.fhe.backends.native_networks import compile_dense

    plan = plan_dense(layers, subject.calibration, shape, mirror=mirror)
    with readable("as an fhe-native circuit"):
        return compile_dense(plan, p_error=subject.options.p_error)


def trees(subject: Subject) -> Iterator[Candidate]:
    """Yield an ensemble's circuits of our own.

    Raises:
        BackendError: It is no ensemble of trees.
    """
    ensemble = read_trees(subject)
    every = BINS if subject.options.splits == "hidden" else (0,)
    for sum_bits in SUM_BITS:
        for bins in every:
            draft = partial(draft_at, ensemble, bins=bins, sum_bits=sum_bits)
            yield Candidate(
                name=f"fhe-native, {bins or 'exact'} bins, {sum_bits}-bit sums",
                fit=partial(_fit_trees, draft),
                compile=partial(_compile_trees, subject, draft),
                rank=float(sum_bits * 1000 + bins),
            )


def read_trees(subject: Subject) -> Ensemble:
    """Return an estimator's trees.

    Raises:
        BackendError: It has none, or one is too deep.
    """
    try:
        with readable("as an fhe-native circuit"):
            ensemble = ensemble_of(subject.estimator)
    except FormatError as exc:
        raise BackendError(exc.message, code="fhe-not-trees") from exc
    if ensemble is None:
        found = subject.estimator
        name = "an ONNX network" if found is None else type(found).__name__
        msg = f"{name} is no ensemble of trees that we read"
        raise BackendError(msg, code="fhe-not-trees")
    try:
        check_levels(ensemble.trees)
    except FormatError as exc:
        raise BackendError(exc.message, code=_TOO_DEEP) from exc
    return ensemble


def _fit_trees(draft_on: Callable[[Floats], Draft], rows: Floats) -> Outputs:
    """Return what sums give; the leaves that make them up give the same."""
    draft = draft_on(rows)
    return lambda kept: raw_outputs(
        draft.sums(thermometer(kept, draft.edges)), draft.output
    )


def _compile_trees(subject: Subject, draft_on: Callable[[Floats], Draft]) -> Compiled:
    with readable("as an fhe-native circuit"):
        draft = with_fewer_look_ups(draft_on(subject.calibration), subject.calibration)
        found = answered(draft, subject.calibration, subject.options.answer)
    return compile_ensemble(subject, (found,))


def compile_ensemble(subject: Subject, drafts: Sequence[TreesDraft]) -> Compiled:
    """Return an ensemble of trees as a circuit of our own.

    Args:
        subject: The model and the publisher's options.
        drafts: What `privacy.fhe.tree_choice.choose` gave.
    """
    from privacy.fhe.backends.native_trees import compile_trees

    with readable("as an fhe-native circuit"):
        return compile_trees(
            drafts,
            p_error=subject.options.p_error,
            splits=subject.options.splits,
            device=subject.options.device,
        )


def by_concrete_ml(subject: Subject) -> Iterator[Candidate]:
    """Yield what Concrete-ML may compile, precise first.

    Raises:
        BackendError: A tree is too deep.
    """
    try:
        read_trees(subject)
    except BackendError as exc:  # what else we cannot read it may
        if exc.code == _TOO_DEEP:
            raise
    for name, attempt in concrete_ml.attempts(
        subject.estimator,
        subject.request.onnx,
        subject.calibration,
        p_error=subject.options.p_error,
        bits=subject.options.n_bits or None,
    ):
        yield Candidate(
            name=f"concrete-ml, {name}", compile=partial(_attempt, name, attempt)
        )


def _attempt(name: str, attempt: Callable[[], Compiled]) -> Compiled:
    with readable(f"with Concrete-ML as {name}"):
        return attempt()


def quantized(subject: Subject) -> Iterator[Candidate]:
    """Yield the one circuit of a network that was trained with quantization."""
    yield Candidate(name="quantized network", compile=lambda: _quantized(subject))


def _quantized(subject: Subject) -> Compiled:
    from privacy.fhe.backends.quantized import compile_quantized

    with readable("as a quantized network"):
        return compile_quantized(
            subject.estimator,
            subject.calibration,
            p_error=subject.options.p_error,
            activation=subject.request.activation,
            task=subject.request.task,
        )


def neighbours(_: Subject) -> Iterator[Candidate]:
    """Say why neighbours are not served, without a minute of trying.

    Raises:
        BackendError: Always.
    """
    msg = (
        "nearest neighbours are not served: Concrete-ML sorts the encrypted distances, "
        "and even 20 training rows of 2 bits have no secure parameters; use zkml or tee"
    )
    raise BackendError(msg, code="fhe-unsupported-model")


def clear_outputs(subject: Subject) -> Floats:
    """Return the clear model's raw outputs on the calibration rows."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(subject.request.onnx), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"input": subject.calibration.astype(np.float32)})
    return np.asarray(found, dtype=np.float64).reshape(len(subject.calibration), -1)


@contextmanager
def readable(kind: str) -> Iterator[None]:
    """Raise whatever an engine raises as an error that a publisher understands."""
    try:
        yield
    except PrivacyError:
        raise
    except Exception as exc:
        msg = f"it cannot be compiled {kind} ({plain(exc)})"
        raise BackendError(msg, code="fhe-compile-failed") from exc


def plain(exc: Exception) -> str:
    """Return an engine's complaint in a line a publisher can act on."""
    text = " ".join(str(exc).split())
    known = {
        "NoParametersFound": "no secure parameters exist for accumulators this wide",
        "operators are not supported": text,
        "bit-width": "a table look-up is wider than 16 bits",
    }
    for sign, words in known.items():
        if sign in text:
            return words[:300]
    return f"{type(exc).__name__}: {text[:200]}"
