"""A proof inside the enclave against the same proof outside it, in one run.

For each model one row is proven in turn
- `outside`: by a process that only proves (`zkml_prover`), warm, its files on disk;
- `inside`: by the enclave, from sealed input to sealed answer and signed evidence.
Memory: the peak of the process that proves, and inside what is held for it besides.
"""

import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.measure import interleaved, rss_bytes
from benchmarks.zkml_models import MODELS, train
from privacy.bundle import Bundle
from privacy.child import Child
from privacy.cli.output import size
from privacy.encoding import Json
from privacy.modes import Mode
from privacy.publish import publish
from privacy.tee.client import TeeSession
from privacy.tee_zkml.circuit import FILES, circuit_sha256
from privacy.tee_zkml.host import ProvingEnclave
from privacy.zkml.params import parse_params

ZOO = ("logistic regression, sigmoid outside", "mlp 30-64-32-1", "xgboost 20x3")
_TIMES, _SALT = 9, b"s" * 32
_LOOK_S = 0.002


def measure(*, quick: bool) -> Json:
    """Return the figures by model, JSON-ready; see the module."""
    found = {}
    for name in ZOO[:1] if quick else ZOO:
        Console().print(f"{name}: publish, and prove inside and outside")
        with tempfile.TemporaryDirectory() as folder:
            found[name] = _model(name, Path(folder), times=3 if quick else _TIMES)
    return {"models": found}


def _model(name: str, folder: Path, *, times: int) -> Json:
    trained = train(MODELS[name], folder)
    bundle = publish(
        trained.model,
        trained.data,
        name="model",
        store=folder / "models",
        modes=[Mode.TEE, Mode.ZKML, Mode.TEE_ZKML],
        task=trained.task,
        activation=trained.activation,
        home=folder / "home",
    )
    with ExitStack() as stack:
        child = stack.enter_context(Child("benchmarks.zkml_prover:handler"))
        begin = time.perf_counter()
        enclave = ProvingEnclave.start(
            bundle.root / "tee", folder / "run", model_sha256=bundle.sha256
        )
        start_s = time.perf_counter() - begin
        stack.callback(enclave.stop)
        return _compare(bundle, enclave, child, times) | {"start_s": start_s}


def _compare(bundle: Bundle, enclave: ProvingEnclave, child: Child, times: int) -> Json:
    params = parse_params(bundle.manifest.mode(Mode.ZKML).params)
    rows = np.array([np.add(params.input_minimum, params.input_maximum) / 2])
    (row,) = params.circuit_rows(rows, _SALT)
    task = {
        "root": str(bundle.root / "zkml"),
        "row": row,
        "scale_bits": params.input_scale_bits,
    }
    session = TeeSession(
        model_sha256=bundle.sha256,
        reference=bundle.manifest.mode(Mode.TEE_ZKML).params["measurements"],
        columns=params.features,
        allow_simulated=True,
        circuit_sha256=circuit_sha256(bundle.manifest),
    )
    session.check_evidence(enclave.evidence(session.nonce), now=datetime.now(UTC))
    outside: list[Json] = []
    with _Peak(enclave.pid) as peak:
        timings = interleaved(
            {
                "outside": lambda: outside.append(child.call(task)),
                "inside": lambda: enclave.infer(
                    session.seal(rows, salt=_SALT), timeout_s=600
                ),
            },
            times=times,
            warm=1,
        )
    plain, inside = timings["outside"].p50, timings["inside"].p50
    return {
        **{n: {"p50_s": t.p50, "p95_s": t.p95} for n, t in timings.items()},
        "added_p50_s": inside - plain,
        "outside_peak_bytes": max(one["peak_rss_bytes"] for one in outside),
        "inside_peak_bytes": peak.bytes,
        "held_bytes": sum((bundle.root / "zkml" / n).stat().st_size for n in FILES),
        "enclave_rss_bytes": rss_bytes(enclave.pid),
    }


class _Peak:
    """The largest peak of memory among the processes of jobs, while it looks."""

    def __init__(self, enclave_pid: int) -> None:
        (self._prover,) = _children(enclave_pid)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.bytes = 0

    def _look(self) -> None:
        while not self._done.wait(_LOOK_S):
            for pid in _children(self._prover):
                with suppress(OSError, IndexError):  # it ended meanwhile
                    status = Path(f"/proc/{pid}/status").read_text()
                    peak = status.partition("VmHWM:")[2].split()[0]
                    self.bytes = max(self.bytes, int(peak) * 1024)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in listed.split()]


def show(found: Json) -> None:
    """Print the figures."""
    grid = Table(title="one row proven: seconds, p50 / p95; memory")
    columns: tuple[Any, ...] = ("model", "outside", "inside", "added")
    columns += ("outside peak", "inside peak", "held", "start")
    for column in columns:
        grid.add_column(column, justify="right")
    for name, one in found["models"].items():
        grid.add_row(
            name,
            *(
                f"{one[side]['p50_s']:.2f} / {one[side]['p95_s']:.2f}"
                for side in ("outside", "inside")
            ),
            f"{one['added_p50_s'] * 1e3:+.0f} ms",
            size(one["outside_peak_bytes"]),
            size(one["inside_peak_bytes"]),
            size(one["held_bytes"]),
            f"{one['start_s']:.1f} s",
        )
    Console(width=130).print(grid)
