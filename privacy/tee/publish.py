"""Publish a model for this mode: copy it, measure the enclave, run the real engine.

One option, `allow_weaker_sandbox`: which layers of the sandbox, of "landlock" and
"seccomp", its enclaves do without. The reference values are then of such enclaves only.
"""

import json
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from privacy.child import Handler, Progress
from privacy.encoding import Json
from privacy.errors import BackendError, FormatError
from privacy.files import write_atomic
from privacy.publishing import PartRequest, PartResult, accuracy
from privacy.tee.engine import Engine
from privacy.tee.harden import LAYERS, Sandbox
from privacy.tee.measure import measure, measure_policy
from privacy.tee.wire import MODEL

_BATCH = 256
_TIMED_RUNS = 50


def handler() -> Handler:
    """Return what serves a publishing request in a child process."""

    def serve(request: Json, progress: Progress) -> Json:
        return publish(PartRequest.from_json(request), progress).to_json()

    return serve


def publish(request: PartRequest, progress: Progress) -> PartResult:
    """Return this mode's part of the model, its file written into `request.out`."""
    model, lacks = request.onnx.read_bytes(), _lacking(request.options)
    progress({"stage": "load"})
    try:
        _check_self_contained(model)
        engine = Engine(model)
        progress({"stage": "run"})
        held = np.load(request.held, allow_pickle=False)
        raw = _run(engine, held, outputs=request.outputs)
    except BackendError as exc:
        return PartResult(available=False, reason=exc.message)
    write_atomic(request.out / MODEL, model)
    progress({"stage": "measure"})
    return PartResult(
        available=True,
        accuracy=accuracy(
            raw,
            np.load(request.clear, allow_pickle=False),
            activation=request.activation,
            task=request.task,
        ),
        cost={"latency_s": _latency_s(engine, held), "model_bytes": len(model)},
        params={
            "measurements": replace(
                measure(request.out / MODEL),
                rtmr0=measure_policy(Sandbox().policy(lacks=lacks)),
            ).as_dict(),
            **({"allow_weaker_sandbox": lacks} if lacks else {}),
        },
    )


def _lacking(options: Mapping[str, Any]) -> list[str]:
    lacks = options.get("allow_weaker_sandbox", [])
    known = isinstance(lacks, list) and set(options) <= {"allow_weaker_sandbox"}
    if not known or not all(layer in LAYERS for layer in lacks):
        msg = (
            f"the options of mode tee are {json.dumps(dict(options))[:200]}, expected "
            f"allow_weaker_sandbox, a list of {' or '.join(LAYERS)}, or none"
        )
        raise FormatError(msg, code="bad-options")
    return sorted(set(lacks))


def _check_self_contained(model: bytes) -> None:
    """Refuse weights in other files: the enclave measures one file."""
    import onnx
    from google.protobuf.message import (  # type: ignore[import-untyped]
        DecodeError,
    )
    from onnx.external_data_helper import uses_external_data

    try:
        graph = onnx.load_model_from_string(model).graph
    except DecodeError as exc:
        msg = "ONNX cannot load the model: its file is damaged"
        raise BackendError(msg, code="model-not-loadable") from exc
    if any(uses_external_data(tensor) for tensor in _tensors(graph)):
        raise BackendError("the model keeps weights in other files: export it as one")


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _run(engine: Engine, rows: Any, *, outputs: int) -> Any:
    batches = [rows[i : i + _BATCH].tolist() for i in range(0, len(rows), _BATCH)]
    raw = np.concatenate([np.asarray(engine.run(batch)) for batch in batches])
    if raw.shape[1] != outputs:
        msg = f"the model gives {raw.shape[1]} outputs, expected {outputs}"
        raise BackendError(msg, code="wrong-output-count")
    return raw


def _latency_s(engine: Engine, rows: Any) -> float:
    """Return the median time of one row through the engine; sealing is not in it."""
    times = []
    for i in range(_TIMED_RUNS):
        row = rows[i % len(rows) :][:1].tolist()
        begin = time.perf_counter()
        engine.run(row)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)
