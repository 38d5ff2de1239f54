import asyncio
import json
import os
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.executors.base import Watch, Work
from gateway.executors.enclaves import Enclaves
from privacy.bundle import Bundle, ModePart
from privacy.errors import (
    FormatError,
    JobFailedError,
    LimitError,
    PrivacyError,
    UnavailableError,
    VerificationError,
)
from privacy.modes import Mode
from privacy.runs import RunResult
from privacy.tee.seal import MAX_SEALED_BYTES
from tests.support.fake_enclave import FakeEnclave
from tests.support.hand_made_bundle import write_bundle
from tests.support.live_gateway import FAKE_ENGINES

NONCE = b"n" * 32


def _play(
    folder: Path,
    scenario: Callable[[Enclaves], Awaitable[Any]],
    *,
    close: bool = True,
    mode: Mode = Mode.TEE,
) -> Any:
    async def play() -> Any:
        enclaves = Enclaves(mode, folder / "run", FAKE_ENGINES, size=2, time_limit_s=5)
        try:
            return await scenario(enclaves)
        finally:
            if close:
                await enclaves.close()

    return asyncio.run(play())


def _work(
    folder: Path, bundle: Bundle, order: dict[str, Any], name: str = "job"
) -> Work:
    (folder / name).write_text(json.dumps(order))
    return Work(
        job_id=name,
        mode=Mode.TEE,
        bundle=bundle,
        input=folder / name,
        keys=None,
        folder=folder,
    )


WATCH = Watch(lambda: None, lambda _: None)


def test_one_enclave_serves_evidence_and_jobs_of_a_model(tmp_path: Path):
    bundle, before = write_bundle(tmp_path), FakeEnclave.starts

    async def scenario(enclaves: Enclaves) -> None:
        await asyncio.gather(*(enclaves.evidence(bundle, NONCE) for _ in range(5)))
        done = await enclaves.run(_work(tmp_path, bundle, {"do": "echo"}), WATCH)
        assert done.output.read_bytes() == b"sealed answer"
        assert done.evidence
        assert done.evidence_kind == "attestation"

    _play(tmp_path, scenario)
    assert FakeEnclave.starts == before + 1


def test_an_enclave_that_outlived_the_gateway_is_used_again(tmp_path: Path):
    bundle = write_bundle(tmp_path)

    async def ask(enclaves: Enclaves) -> None:
        await enclaves.evidence(bundle, NONCE)

    async def attach_and_ask(enclaves: Enclaves) -> None:
        enclaves.attach([bundle])
        await enclaves.evidence(bundle, NONCE)

    _play(tmp_path, ask, close=False)  # as after a kill
    before = FakeEnclave.starts
    _play(tmp_path, attach_and_ask)
    assert FakeEnclave.starts == before


def test_a_clean_stop_ends_enclaves(tmp_path: Path):
    bundle = write_bundle(tmp_path)

    async def ask(enclaves: Enclaves) -> None:
        await enclaves.evidence(bundle, NONCE)

    _play(tmp_path, ask)
    run_dir = tmp_path / "run" / bundle.sha256[:16]
    assert not FakeEnclave.living[str(run_dir)].alive


def test_a_refusal_of_the_enclave_is_passed_on(tmp_path: Path):
    bundle = write_bundle(tmp_path)

    async def scenario(enclaves: Enclaves) -> None:
        with pytest.raises(FormatError) as refusal:
            await enclaves.run(_work(tmp_path, bundle, {"do": "refuse"}), WATCH)
        assert refusal.value.code == "enclave-gone"

    _play(tmp_path, scenario)


def test_an_enclave_over_the_time_limit_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def too_slow(self: FakeEnclave, sealed: bytes, **_: object) -> RunResult:
        raise LimitError("no answer", code="time-limit")

    monkeypatch.setattr(FakeEnclave, "infer", too_slow)
    bundle, before = write_bundle(tmp_path), FakeEnclave.starts

    async def scenario(enclaves: Enclaves) -> None:
        with pytest.raises(LimitError):
            await enclaves.run(_work(tmp_path, bundle, {"do": "echo"}), WATCH)
        await enclaves.evidence(bundle, NONCE)

    _play(tmp_path, scenario)
    assert FakeEnclave.starts == before + 2


def test_an_enclave_that_proves_outlives_a_job_over_the_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def too_slow(self: FakeEnclave, sealed: bytes, **_: object) -> RunResult:
        raise LimitError("no answer", code="time-limit")

    monkeypatch.setattr(FakeEnclave, "infer", too_slow)
    made, before = write_bundle(tmp_path), FakeEnclave.starts
    part = ModePart(available=True, cost={"memory_bytes": 1 << 20})
    modes = {**made.manifest.modes, "tee+zkml": part}
    bundle = replace(made, manifest=replace(made.manifest, modes=modes))
    work = _work(tmp_path, bundle, {"do": "echo"})

    async def scenario(enclaves: Enclaves) -> None:
        with pytest.raises(LimitError):
            await enclaves.run(replace(work, mode=Mode.TEE_ZKML), WATCH)
        await enclaves.evidence(bundle, NONCE)

    _play(tmp_path, scenario, mode=Mode.TEE_ZKML)
    assert FakeEnclave.starts == before + 1


def test_a_job_whose_client_gave_up_is_told_so_at_its_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    heard: list[str] = []

    def steps(self: FakeEnclave, sealed: bytes, **how: Any) -> RunResult:
        try:
            while True:
                how["progress"]({"stage": "prove"})
                time.sleep(0.01)
        except JobFailedError as exc:
            heard.append(exc.code)
            raise

    monkeypatch.setattr(FakeEnclave, "infer", steps)
    bundle = write_bundle(tmp_path)

    async def scenario(enclaves: Enclaves) -> None:
        work = _work(tmp_path, bundle, {"do": "echo"})
        job = asyncio.create_task(enclaves.run(work, WATCH))
        await asyncio.sleep(0.1)
        enclaves.cancel("job")
        with pytest.raises(JobFailedError):
            await job
        await asyncio.sleep(0.1)

    _play(tmp_path, scenario)
    assert heard == ["cancelled"]


@pytest.mark.parametrize(
    ("failure", "starts"),
    [
        (LimitError("no answer", code="time-limit"), 2),
        (UnavailableError("the host is busy", code="tsm-timeout"), 1),
    ],
    ids=["it hangs, and is replaced", "what makes its evidence is busy, and it stays"],
)
def test_what_comes_of_an_enclave_that_gives_no_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: PrivacyError, starts: int
):
    def fail(self: FakeEnclave, nonce: bytes) -> bytes:
        raise failure

    bundle, before = write_bundle(tmp_path), FakeEnclave.starts

    async def scenario(enclaves: Enclaves) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(FakeEnclave, "evidence", fail)
            with pytest.raises(type(failure)) as caught:
                await enclaves.evidence(bundle, NONCE)
            assert caught.value.code == failure.code
        await enclaves.evidence(bundle, NONCE)

    _play(tmp_path, scenario)
    assert FakeEnclave.starts == before + starts


def test_an_enclave_that_dies_as_it_is_asked_is_replaced_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def die(self: FakeEnclave, nonce: bytes) -> bytes:
        if FakeEnclave.starts == before + 1:
            raise UnavailableError("it has ended", code="enclave-gone")
        return nonce

    bundle, before = write_bundle(tmp_path), FakeEnclave.starts
    monkeypatch.setattr(FakeEnclave, "evidence", die)

    async def scenario(enclaves: Enclaves) -> bytes:
        return await enclaves.evidence(bundle, NONCE)

    assert _play(tmp_path, scenario) == NONCE
    assert FakeEnclave.starts == before + 2


def test_an_enclave_that_starts_slowly_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    quick, slow = write_bundle(tmp_path), write_bundle(tmp_path, name="slow")
    go_on, real = threading.Event(), FakeEnclave.start

    def start(
        model_dir: Path, run_dir: Path, *, model_sha256: str, **options: Any
    ) -> FakeEnclave:
        assert model_sha256 != slow.sha256 or go_on.wait(30)
        return real(model_dir, run_dir, model_sha256=model_sha256, **options)

    monkeypatch.setattr(FakeEnclave, "start", start)

    async def scenario(enclaves: Enclaves) -> None:
        await enclaves.evidence(quick, NONCE)
        starting = [
            asyncio.create_task(enclaves.evidence(slow, NONCE)) for _ in range(9)
        ]
        done = await enclaves.run(_work(tmp_path, quick, {"do": "echo"}), WATCH)
        assert done.output.read_bytes() == b"sealed answer"
        assert not any(task.done() for task in starting)
        go_on.set()
        await asyncio.gather(*starting)

    _play(tmp_path, scenario)


def test_a_cancelled_job_leaves_the_queue_at_once_and_never_runs(tmp_path: Path):
    bundle = write_bundle(tmp_path)
    started: list[str] = []

    async def scenario(enclaves: Enclaves) -> None:
        def run(order: dict[str, Any], name: str) -> asyncio.Task[Any]:
            work = _work(tmp_path, bundle, order, name)
            watch = Watch(lambda: started.append(name), lambda _: None)
            return asyncio.create_task(enclaves.run(work, watch))

        busy = [run({"do": "sleep", "seconds": 1}, name) for name in ("1", "2")]
        waiting = run({"do": "echo"}, "3")
        await asyncio.sleep(0.2)
        enclaves.cancel("3")
        with pytest.raises(JobFailedError):
            await waiting
        assert not any(task.done() for task in busy)
        await asyncio.gather(*busy, run({"do": "echo"}, "4"))

    _play(tmp_path, scenario)
    assert started == ["1", "2", "4"]


def test_an_input_larger_than_any_sealed_one_is_not_even_read(tmp_path: Path):
    bundle = write_bundle(tmp_path)
    work = _work(tmp_path, bundle, {"do": "echo"})
    os.truncate(work.input, MAX_SEALED_BYTES + 1)

    async def scenario(enclaves: Enclaves) -> None:
        with pytest.raises(FormatError) as refusal:
            await enclaves.run(work, WATCH)
        assert refusal.value.code == "too-large"

    _play(tmp_path, scenario)


def test_a_changed_model_file_starts_no_enclave(tmp_path: Path):
    bundle = write_bundle(tmp_path)
    (bundle.root / "tee" / "model.onnx").write_bytes(b"other")

    async def scenario(enclaves: Enclaves) -> None:
        with pytest.raises(VerificationError):
            await enclaves.evidence(bundle, NONCE)

    _play(tmp_path, scenario)
