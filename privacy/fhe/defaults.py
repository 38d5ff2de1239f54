"""What a model is compiled to when nobody asks for a search."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from privacy.child import Progress
from privacy.errors import BackendError
from privacy.fhe.compiled import Compiled
from privacy.fhe.dense import read_dense
from privacy.fhe.dense_choice import choose_dense
from privacy.fhe.tree_choice import choose
from privacy.fhe.tune.candidates import (
    Kind,
    Subject,
    clear_outputs,
    compile_ensemble,
    dense,
    kinds,
    read_trees,
    readable,
    trees,
)
from privacy.fhe.yardstick import Yardstick

Compiler = Callable[[Subject, Progress], Compiled]


def compilers(subject: Subject) -> Iterator[Compiler]:
    """Yield the ways to compile without a search, the preferred first."""
    own: dict[Kind, Compiler] = {dense: _dense, trees: _trees}
    for kind in kinds(subject):
        yield own.get(kind, partial(_first, kind))


def _dense(subject: Subject, progress: Progress) -> Compiled:
    """Return a dense network as a circuit of our own."""
    progress({"stage": "compile", "attempt": "fhe-native"})
    from privacy.fhe.backends.native_networks import compile_dense

    layers = read_dense(subject.request.onnx, subject.calibration.shape[1])
    with readable("as an fhe-native circuit"):
        plan = choose_dense(layers, yardstick_of(subject))
        return compile_dense(plan, p_error=subject.options.p_error)


def _trees(subject: Subject, progress: Progress) -> Compiled:
    """Return an ensemble of trees as a circuit of our own."""
    progress({"stage": "compile", "attempt": "fhe-native"})
    with readable("as an fhe-native circuit"):
        drafts = choose(
            read_trees(subject),
            subject.calibration,
            splits=subject.options.splits,
            task=subject.request.task,
            answer=subject.options.answer,
        )
    return compile_ensemble(subject, drafts)


def _first(kind: Kind, subject: Subject, progress: Progress) -> Compiled:
    """Return the first of a kind's candidates that compiles."""
    failed = []
    for candidate in kind(subject):
        progress({"stage": "compile", "attempt": candidate.name})
        try:
            return candidate.compile()
        except BackendError as exc:
            failed.append(exc.message)
    msg = f"it cannot be compiled for FHE ({'; '.join(failed)})"
    raise BackendError(msg, code="fhe-compile-failed")


def yardstick_of(subject: Subject) -> Yardstick:
    """Return what a circuit's loss is measured with: the calibration rows."""
    path = subject.request.truth
    truth = np.load(path, allow_pickle=False) if path else None
    named = truth is not None and (truth >= 0).all()  # else labels are of another kind
    return Yardstick(
        rows=subject.calibration,
        clear=clear_outputs(subject),
        truth=truth if named else None,
        activation=subject.request.activation,
        task=subject.request.task,
    )
