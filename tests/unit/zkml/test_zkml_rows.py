"""Rows of one job, proven side by side by processes of the worker."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.bundle import Bundle
from privacy.child import ChildDied
from privacy.errors import FormatError
from privacy.modes import Mode
from privacy.runs import RowStore
from privacy.zkml import make_input, runner
from privacy.zkml import rows as side
from privacy.zkml import verify_proofs as verify_strictly
from privacy.zkml.blobs import Proof, proof_to_bytes
from privacy.zkml.params import parse_params

verify_proofs = partial(verify_strictly, allow_insecure_srs=True)
GIB = 1 << 30


@pytest.mark.parametrize(
    ("rows", "row_s", "memory_bytes", "threads", "processes"),
    [
        (8, 1.0, GIB, "2", 2),
        (8, 1.0, GIB, "16", 4),
        (3, 2.0, GIB, "16", 3),
        (8, 1.0, 5 * GIB, "16", 1),
        (200, 1.0, 1 << 26, "64", 8),
        (8, 1.0, GIB, "1", 1),
        (2, 1.0, GIB, "16", 1),
        (1, 60.0, GIB, "16", 1),
        (8, 1.0, 0, "16", 1),
    ],
    ids=[
        "cores",
        "half of the free memory",
        "rows",
        "too large",
        "enough is enough",
        "a share of one core",
        "not worth it",
        "one row",
        "of unknown size",
    ],
)
def test_processes_are_as_many_as_cores_memory_and_rows_allow(
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
    row_s: float,
    memory_bytes: int,
    threads: str,
    processes: int,
) -> None:
    monkeypatch.setattr(side, "available_memory", lambda: 9 * GIB)
    monkeypatch.setenv("RAYON_NUM_THREADS", threads)
    found = side.processes_for(rows, row_s=row_s, memory_bytes=memory_bytes)
    assert found == processes


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "processes_for", lambda *_, **__: 2)


@pytest.mark.usefixtures("two")
def test_rows_proven_side_by_side_are_told_and_kept_one_by_one(
    bundle: Bundle, rows: Any, linear: Any, tmp_path: Path
) -> None:
    told: list[dict[str, Any]] = []
    kept, given = RowStore(tmp_path / "rows"), rows[550:553]
    blob = make_input(given, salt=bytes(32))
    made = runner.Runner(bundle).run(blob, None, told.append, kept)
    assert [p["done"] for p in told] == [1, 2, 3]
    assert all(kept.find(i) for i in range(3))
    outputs = verify_proofs(bundle, made.evidence, rows=given)
    assert np.abs(outputs - linear.clear(given)).max() < 0.05
    again = runner.Runner(bundle).run(blob, None, told.append, kept)
    assert again == made
    assert told[3:] == [{"stage": "prove", "done": 3, "total": 3}]


def test_a_row_that_fails_ends_the_job_and_loses_no_other(
    bundle: Bundle, rows: Any
) -> None:
    params = parse_params(bundle.manifest.mode(Mode.ZKML).params)
    (good,) = params.circuit_rows(rows[:1], bytes(32))
    proofs = side.prove_side_by_side(
        bundle.root / "zkml",
        {0: good, 1: [1 << 23] * len(good), 2: good, 3: good, 4: good},
        scale_bits=params.input_scale_bits,
        processes=2,
        before=lambda: None,
    )
    made: list[int] = []
    with pytest.raises(FormatError) as caught:
        made.extend(index for index, _ in proofs)
    assert caught.value.code == "out-of-range"
    assert 0 in made
    assert 4 not in made


@pytest.mark.usefixtures("two")
def test_what_a_process_left_is_proven_by_the_worker_itself(
    bundle: Bundle, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that ends its process ends the worker, too, which the node counts."""
    params = parse_params(bundle.manifest.mode(Mode.ZKML).params)
    proof = Proof((0,) * len(params.instances), bytes(params.proof_bytes))
    here: list[Any] = []

    def died(_: Any, todo: Any, **__: Any) -> Iterator[tuple[int, bytes]]:
        yield 2, proof_to_bytes(proof)
        raise ChildDied("it ended", by_itself=True)

    def prove(_: Any, __: Any, row: Any, **___: Any) -> Proof:
        here.append(row)
        return proof

    monkeypatch.setattr(runner, "prove_side_by_side", died)
    monkeypatch.setattr(runner, "prove_row", prove)
    kept = RowStore(tmp_path / "rows")
    blob = make_input(rows[:4], salt=bytes(32))
    runner.Runner(bundle).run(blob, None, lambda _: None, kept)
    quantized = params.circuit_rows(rows[:4], bytes(32))
    assert here == [quantized[i] for i in (0, 1, 3)]
    assert all(kept.find(i) for i in range(4))
