"""Sealed inference in an enclave against plain ONNX Runtime, in one run.

For each model one row is computed by
- `plain`: ONNX Runtime in this process, with as many threads as the enclave's;
- `sealed`: the enclave's answer to an input that is already sealed: the way there
  and back, opening, computing, sealing, and the signed evidence;
- `answer`: the data owner's whole side as well: sealing, and every check of evidence
  before the answer is opened.
The three alternate. Beside them: how long an enclave takes to start, and a session to
be set up (nonce, evidence, its checks).
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.measure import interleaved, rss_bytes
from privacy.encoding import Json
from privacy.tee.client import TeeSession
from privacy.tee.host import Enclave
from privacy.tee.measure import measure as measure_enclave

COLUMNS = 30
MODELS = {
    "logistic regression": (),
    "MLP 30-64-32-2": (64, 32),
    "MLP 30-6144-6144-6144-2": (6144, 6144, 6144),
}
MODEL_SHA256 = "ab" * 32
_STARTS = 5
_SESSIONS = 30
_TIMES = 300


def measure(*, quick: bool) -> Json:
    """Return the figures, JSON-ready; see the module."""
    times, starts = (20, 2) if quick else (_TIMES, _STARTS)
    return {
        "threads": len(os.sched_getaffinity(0)),
        "models": {
            name: _model(hidden, times=times, starts=starts)
            for name, hidden in MODELS.items()
        },
    }


def _model(hidden: tuple[int, ...], *, times: int, starts: int) -> Json:
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder, run_dir = Path(scratch) / "model", Path(scratch) / "run"
        folder.mkdir()
        path = folder / "model.onnx"
        path.write_bytes(_network(hidden))
        took = []
        for _ in range(starts):
            begin = time.perf_counter()
            enclave = Enclave.start(folder, run_dir, model_sha256=MODEL_SHA256)
            took.append(time.perf_counter() - begin)
        stack.callback(enclave.stop)
        reference = measure_enclave(path).as_dict()
        sessions = [_session(enclave, reference) for _ in range(_SESSIONS)]
        timings = interleaved(_calls(path, enclave, sessions[-1][0]), times=times)
        plain, sealed = timings["plain"].p50, timings["sealed"].p50
        return {
            "model_bytes": path.stat().st_size,
            "start_s": statistics.median(took),
            "session_s": statistics.median(seconds for _, seconds in sessions),
            **{n: {"p50_s": t.p50, "p95_s": t.p95} for n, t in timings.items()},
            "added_p50_s": sealed - plain,
            "added_ratio": sealed / plain - 1,
            "enclave_rss_bytes": rss_bytes(enclave.pid),
        }


def _session(enclave: Enclave, reference: Json) -> tuple[TeeSession, float]:
    """Return a session that is set up, and the seconds it took."""
    begin = time.perf_counter()
    session = TeeSession(
        model_sha256=MODEL_SHA256,
        reference=reference,
        columns=COLUMNS,
        allow_simulated=True,
    )
    session.check_evidence(enclave.evidence(session.nonce), now=datetime.now(UTC))
    return session, time.perf_counter() - begin


def _calls(
    path: Path, enclave: Enclave, session: TeeSession
) -> dict[str, Callable[[], object]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    plain = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    rows = np.random.default_rng(5).normal(size=(1, COLUMNS)).astype(np.float32)
    ready = session.seal(rows)

    def answer() -> Any:
        sealed = session.seal(rows)
        result = enclave.infer(sealed, timeout_s=60)
        now = datetime.now(UTC)
        return session.open(result.output, result.evidence, now=now, sealed=sealed)

    np.testing.assert_allclose(answer(), plain.run(None, {"rows": rows})[0], atol=1e-4)
    return {
        "plain": lambda: plain.run(None, {"rows": rows}),
        "sealed": lambda: enclave.infer(ready, timeout_s=60),
        "answer": answer,
    }


def _network(hidden: tuple[int, ...]) -> bytes:
    """Return a dense network with random weights, two outputs."""
    from onnx import TensorProto, helper, numpy_helper

    rng, sizes = np.random.default_rng(7), (COLUMNS, *hidden, 2)
    nodes, weights, name = [], [], "rows"
    for i, (wide, narrow) in enumerate(pairwise(sizes)):
        values = rng.normal(size=(wide, narrow)) / np.sqrt(wide)
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"w{i}"))
        last = i == len(sizes) - 2
        out = "raw" if last else f"sum{i}"
        nodes.append(helper.make_node("MatMul", [name, f"w{i}"], [out]))
        if not last:
            name = f"hidden{i}"
            nodes.append(helper.make_node("Relu", [out], [name]))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, COLUMNS])],
        [helper.make_tensor_value_info("raw", TensorProto.FLOAT, [None, 2])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    serialised: bytes = model.SerializeToString()
    return serialised


def show(found: Json) -> None:
    """Print the figures as a table."""
    grid = Table(title="one row in the enclave: milliseconds, p50 / p95")
    columns = ("model", "plain", "sealed", "answer", "added", "", "session", "start s")
    for column in columns:
        grid.add_column(column, justify="right")
    for name, own in found["models"].items():
        cells = [
            f"{own[k]['p50_s'] * 1e3:.2f} / {own[k]['p95_s'] * 1e3:.2f}"
            for k in ("plain", "sealed", "answer")
        ]
        added = f"{own['added_p50_s'] * 1e3:.2f}", f"{own['added_ratio']:+.0%}"
        setup = f"{own['session_s'] * 1e3:.1f}", f"{own['start_s']:.2f}"
        grid.add_row(name, *cells, *added, *setup)
    Console(width=130).print(grid)
