import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.executors import scheduler as module
from gateway.executors.base import Done, Watch, Work
from gateway.executors.scheduler import MAX_LOST, Scheduler
from privacy.errors import (
    BackendError,
    ConflictError,
    JobFailedError,
    LimitError,
    UnavailableError,
)
from privacy.modes import Mode
from tests.support.fake_node import FakeNode
from tests.support.hand_made_bundle import write_bundle

WATCH = Watch(started=lambda: None, progress=lambda _: None)


class _Desk:
    """A scheduler, and jobs for it."""

    def __init__(self, folder: Path, nodes: tuple[FakeNode, ...], **options: Any):
        self.folder = folder
        self.bundle = write_bundle(folder / "models")
        self.quarantine: set[str] = set()
        self.scheduler = Scheduler(quarantined=lambda: self.quarantine, **options)
        for node in nodes:
            self.scheduler.add(node)

    async def submit(
        self, name: str, mode: Mode = Mode.ZKML, **more: Any
    ) -> "asyncio.Task[Done]":
        work = Work(
            job_id=name,
            mode=mode,
            bundle=self.bundle,
            input=self.folder / "input",
            keys=None,
            folder=self.folder,
            **more,
        )
        job = asyncio.create_task(self.scheduler.run(work, WATCH))
        await settle()
        return job

    def states(self, **cost: int) -> None:
        """Have the model state what it takes."""
        part = replace(self.bundle.manifest.modes[Mode.ZKML], cost=cost)
        manifest = replace(self.bundle.manifest, modes={Mode.ZKML: part})
        self.bundle = replace(self.bundle, manifest=manifest)


async def settle() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


def play(
    scenario: Callable[..., Awaitable[None]],
    folder: Path,
    *nodes: FakeNode,
    **options: Any,
) -> None:
    async def run() -> None:
        await scenario(_Desk(folder, nodes, **options), *nodes)

    asyncio.run(run())


async def refused(job: "asyncio.Task[Done]", kind: type[Exception], code: str) -> None:
    with pytest.raises(kind) as refusal:
        await asyncio.wait_for(job, 5)
    assert getattr(refusal.value, "code", None) == code


def test_jobs_go_to_the_least_loaded_node_and_say_who_computed(tmp_path: Path):
    async def scenario(desk: _Desk, a: FakeNode, b: FakeNode) -> None:
        jobs = [await desk.submit(str(i)) for i in range(4)]
        assert sorted(map(len, (a.ran, b.ran))) == [2, 2]
        for node in (a, b):
            for job_id in node.ran:
                node.finish(job_id)
        done = [await job for job in jobs]
        assert [d.node for d in done].count("a") == 2

    play(scenario, tmp_path, FakeNode("a", places=2), FakeNode("b", places=2))


def test_a_node_that_has_the_keys_goes_before_one_that_has_the_model(tmp_path: Path):
    async def scenario(
        desk: _Desk, _cold: FakeNode, model: FakeNode, keys: FakeNode
    ) -> None:
        model.warm = {desk.bundle.sha256: 1, "k1": 1}
        keys.warm = {"k1": 2}
        for name in "123":
            await desk.submit(name, keys_sha256="k1")
        assert (keys.ran, model.ran) == (["1"], ["2"])  # a busy one is not waited for

    nodes = [FakeNode(name) for name in ("cold", "model", "keys")]
    play(scenario, tmp_path, *nodes)


def test_gpus_are_kept_for_models_that_state_that_they_need_one(tmp_path: Path):
    async def scenario(desk: _Desk, gpu: FakeNode, cpu: FakeNode) -> None:
        await desk.submit("plain")
        desk.states(gpus=1)
        await desk.submit("on a gpu")
        assert (cpu.ran, gpu.ran) == (["plain"], ["on a gpu"])
        desk.states(gpus=2)
        await refused(await desk.submit("two"), LimitError, "gpu-needed")

    play(scenario, tmp_path, FakeNode("gpu", gpus=1), FakeNode("cpu"))


def test_when_all_are_busy_jobs_wait_in_the_order_of_asking(tmp_path: Path):
    async def scenario(desk: _Desk, node: FakeNode) -> None:
        for name in "abc":
            await desk.submit(name)
        assert node.ran == ["a"]
        assert desk.scheduler.waiting()[Mode.ZKML] == 2
        node.finish("a")
        await settle()
        node.finish("b")
        await settle()
        assert node.ran == ["a", "b", "c"]

    play(scenario, tmp_path, FakeNode("only"))


def test_a_second_node_of_a_name_is_refused(tmp_path: Path):
    async def scenario(desk: _Desk, node: FakeNode) -> None:
        with pytest.raises(ConflictError) as refusal:
            desk.scheduler.add(FakeNode("a"))
        assert refusal.value.code == "node-name-taken"
        assert desk.scheduler.nodes() == {"a": node}

    play(scenario, tmp_path, FakeNode("a"))


def test_a_job_that_only_nodes_could_run_which_it_avoids_is_told_so(tmp_path: Path):
    async def scenario(desk: _Desk, own: FakeNode, peer: FakeNode) -> None:
        check = desk.scheduler.check_stays
        check(Mode.ZKML, desk.bundle, {"peer"})
        check(Mode.TEE, desk.bundle, set())
        check(Mode.FHE, desk.bundle, {"peer"})  # nobody can: the job waits for one
        with pytest.raises(UnavailableError, match="only peer can run") as refusal:
            check(Mode.TEE, desk.bundle, {"peer"})
        assert refusal.value.code == "no-node"

    own = FakeNode("own", modes=[Mode.ZKML])
    play(scenario, tmp_path, own, FakeNode("peer", modes=[Mode.ZKML, Mode.TEE]))


def test_a_job_that_must_wait_holds_up_nobody_whom_another_node_serves(tmp_path: Path):
    async def scenario(desk: _Desk, a: FakeNode, b: FakeNode) -> None:
        await desk.submit("1", avoid=frozenset("b"))
        await desk.submit("2", avoid=frozenset("b"))
        await desk.submit("3")
        assert (a.ran, b.ran) == (["1"], ["3"])

    play(scenario, tmp_path, FakeNode("a"), FakeNode("b"))


def test_a_job_that_no_node_can_ever_run_is_refused_and_the_reason_given(
    tmp_path: Path,
):
    async def scenario(desk: _Desk, node: FakeNode) -> None:
        fhe = await desk.submit("fhe", Mode.FHE)
        await refused(fhe, UnavailableError, "no-node")
        desk.states(memory_bytes=1 << 31)
        await refused(await desk.submit("big"), LimitError, "circuit-too-large")
        avoided = await desk.submit("x", avoid=frozenset({"small"}))
        await refused(avoided, LimitError, "circuit-too-large")
        assert not node.ran

    node = FakeNode("small", modes=(Mode.ZKML,), memory_bytes=1 << 30)
    play(scenario, tmp_path, node)


def test_a_job_waits_for_a_node_that_joins_for_so_long(tmp_path: Path):
    async def scenario(desk: _Desk) -> None:
        early, late = await desk.submit("early"), FakeNode("late")
        await asyncio.sleep(0.05)
        desk.scheduler.add(late)
        await settle()
        late.finish("early")
        assert (await early).node == "late"
        desk.scheduler.remove("late")
        await refused(await desk.submit("2"), UnavailableError, "no-node")

    play(scenario, tmp_path, node_wait_s=0.2)


def test_many_jobs_that_wait_for_a_node_are_looked_at_no_oftener_than_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    looks = []
    look = Scheduler.changed
    monkeypatch.setattr(Scheduler, "changed", lambda s: (looks.append(s), look(s)))

    async def scenario(desk: _Desk) -> None:
        jobs = []
        for number in range(16):  # each has an end of its own
            jobs.append(await desk.submit(str(number)))
            await asyncio.sleep(0.02)
            desk.scheduler.changed()  # as a cluster's news do
        for job in jobs:
            await refused(job, UnavailableError, "no-node")
        assert len(looks) < 60

    play(scenario, tmp_path, node_wait_s=0.4)


def test_a_job_of_a_node_that_dies_goes_on_elsewhere(tmp_path: Path):
    async def scenario(desk: _Desk, a: FakeNode, b: FakeNode) -> None:
        job = await desk.submit("1", avoid=frozenset())
        first, second = (a, b) if a.ran else (b, a)
        first.die()
        await settle()
        assert second.ran == ["1"]
        await desk.submit("2", avoid=frozenset({second.name}))
        assert first.ran == ["1"]  # it gets no job for a while
        assert desk.scheduler.describe()[0]["state"] in {"lost", "ready"}
        assert {n["state"] for n in desk.scheduler.describe()} == {"lost", "ready"}
        second.finish("1")
        assert (await job).node == second.name

    play(scenario, tmp_path, FakeNode("a"), FakeNode("b"))


def test_a_lost_node_is_tried_again_and_given_up_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "LOST_S", 0.02)

    async def scenario(desk: _Desk, node: FakeNode) -> None:
        job = await desk.submit("1")
        while not job.done():
            node.die()
            await asyncio.sleep(0.02)
        await refused(job, UnavailableError, "node-lost")
        assert len(node.ran) == MAX_LOST

    play(scenario, tmp_path, FakeNode("flaky"))


def test_a_job_that_a_node_has_from_a_dead_gateway_goes_on_there(tmp_path: Path):
    async def scenario(desk: _Desk, a: FakeNode, b: FakeNode) -> None:
        a.warm, b.holds = {desk.bundle.sha256: 2}, {"under way"}
        await desk.submit("1", avoid=frozenset("a"))
        await desk.submit("under way")  # though it has no place for another
        assert (a.ran, b.ran) == ([], ["1", "under way"])

    play(scenario, tmp_path, FakeNode("a"), FakeNode("b"))


def test_an_engines_failure_is_not_tried_elsewhere(tmp_path: Path):
    async def scenario(desk: _Desk, a: FakeNode, b: FakeNode) -> None:
        job = await desk.submit("1")
        first, second = (a, b) if a.ran else (b, a)
        first.fail("1", BackendError("it does not prove", code="not-proven"))
        await refused(job, BackendError, "not-proven")
        assert not second.ran

    play(scenario, tmp_path, FakeNode("a"), FakeNode("b"))


def test_nodes_in_quarantine_get_no_job(tmp_path: Path):
    async def scenario(desk: _Desk, liar: FakeNode, good: FakeNode) -> None:
        desk.quarantine = {"liar"}
        for name in "12":
            await desk.submit(name)
        assert (liar.ran, good.ran) == ([], ["1"])
        assert [n["state"] for n in desk.scheduler.describe()] == [
            "quarantined",
            "ready",
        ]
        desk.quarantine = {"liar", "good"}
        await refused(await desk.submit("3"), UnavailableError, "no-node")
        desk.quarantine = set()
        desk.scheduler.changed()
        await settle()
        assert liar.ran == ["2"]

    play(scenario, tmp_path, FakeNode("liar"), FakeNode("good"))


@pytest.mark.parametrize("when", ["waiting", "given its turn", "running"])
def test_a_cancelled_job_ends_wherever_it_is(tmp_path: Path, when: str):
    async def scenario(desk: _Desk, node: FakeNode) -> None:
        if when == "waiting":
            await desk.submit("0")
        job = await desk.submit("1")
        if when == "given its turn":
            job2 = await desk.submit("2")
            node.finish("1")
            await job
            job = job2
            desk.scheduler.cancel("2")
        else:
            desk.scheduler.cancel("1")
        await refused(job, JobFailedError, "cancelled")
        if when != "waiting":
            await desk.submit("next")
            assert node.ran[-1] == "next"  # the place was given back

    play(scenario, tmp_path, FakeNode("only"))


def test_a_cancelled_task_gives_back_the_place_that_it_was_given(tmp_path: Path):
    async def scenario(desk: _Desk, node: FakeNode) -> None:
        await desk.submit("1")
        waiting = await desk.submit("2")
        node.finish("1")
        while node.busy()[Mode.ZKML]:  # noqa: ASYNC110
            await asyncio.sleep(0)
        waiting.cancel()
        await settle()
        await desk.submit("3")
        assert node.ran[-1] == "3"

    play(scenario, tmp_path, FakeNode("only"))


def test_closing_ends_waiting_and_running_jobs_without_an_outcome(tmp_path: Path):
    async def scenario(desk: _Desk, _node: FakeNode) -> None:
        jobs = [await desk.submit(name) for name in "12"]
        await desk.scheduler.close()
        await settle()
        assert [job.cancelled() for job in jobs] == [True, True]

    play(scenario, tmp_path, FakeNode("only"))


def test_sealed_inputs_go_to_the_node_that_gave_the_evidence(tmp_path: Path):
    async def scenario(desk: _Desk, *nodes: FakeNode) -> None:
        vouched = await desk.scheduler.evidence(Mode.TEE, desk.bundle, b"n" * 32)
        for name in "12":
            await desk.submit(name, Mode.TEE)
        ran = {node.name: node.ran for node in nodes if node.ran}
        assert ran == {vouched.decode(): ["1"]}  # the second waits for that node
        (home,) = (node for node in nodes if node.ran)
        other = next(node for node in nodes if not node.ran)
        other.warm = {desk.bundle.sha256: 1}  # an enclave runs there already
        again = await desk.scheduler.evidence(Mode.TEE, desk.bundle, b"n" * 32)
        assert again.decode() == other.name != home.name

    play(scenario, tmp_path, FakeNode("a"), FakeNode("b"), FakeNode("c"))


def test_an_enclave_of_this_operator_is_taken_before_any_of_anothers(tmp_path: Path):
    async def scenario(desk: _Desk, own: FakeNode, *peers: FakeNode) -> None:
        for peer in peers:
            peer.is_foreign = True
            peer.warm = {desk.bundle.sha256: 1}
        vouched = await desk.scheduler.evidence(Mode.TEE, desk.bundle, b"n" * 32)
        assert vouched.decode() == own.name

    play(scenario, tmp_path, *(FakeNode(name) for name in "abcd"))


def test_a_lost_enclave_takes_its_inputs_with_it(tmp_path: Path):
    async def scenario(desk: _Desk, a: FakeNode, b: FakeNode) -> None:
        job = await desk.submit("1", Mode.TEE)
        (a if a.ran else b).die()
        await refused(job, UnavailableError, "enclave-gone")
        assert sorted(a.ran + b.ran) == ["1"]

    play(scenario, tmp_path, FakeNode("a"), FakeNode("b"))
