import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.executors.base import Done, Watch, Work
from gateway.executors.memory import Memory
from gateway.executors.pool import Pool
from privacy.errors import BackendError, FormatError, JobFailedError, LimitError
from privacy.modes import Mode
from tests.support.hand_made_bundle import write_bundle

Scenario = Callable[["_Lab"], Awaitable[None]]


class _Lab:
    """A pool and a place to make work for it."""

    def __init__(self, folder: Path, pool: Pool) -> None:
        self.folder = folder
        self.pool = pool
        self.starts: list[str] = []
        self.reports: list[Any] = []
        self.bundle = write_bundle(folder / "models")

    async def run(
        self, order: dict[str, Any], name: str = "job", keys: str = ""
    ) -> dict[str, Any]:
        place = self.folder / name
        place.mkdir()
        (place / "input").write_text(json.dumps(order))
        work = Work(
            job_id=name,
            mode=Mode.ZKML,
            bundle=self.bundle,
            input=place / "input",
            keys=self._keys(keys),
            folder=place,
        )
        watch = Watch(lambda: self.starts.append(name), self.reports.append)
        done: Done = await self.pool.run(work, watch)
        answer: dict[str, Any] = json.loads(done.output.read_bytes())
        return answer

    def needs(self, memory_bytes: int) -> None:
        part = self.bundle.manifest.modes[Mode.ZKML]
        modes = {Mode.ZKML: replace(part, cost={"memory_bytes": memory_bytes})}
        manifest = replace(self.bundle.manifest, modes=modes)
        self.bundle = replace(self.bundle, manifest=manifest)

    def _keys(self, name: str) -> Path | None:
        if not name:
            return None
        (self.folder / name).touch()
        return self.folder / name


def _play(folder: Path, scenario: Scenario, **changes: Any) -> _Lab:
    async def play() -> _Lab:
        pool = Pool(
            Mode.ZKML,
            **{
                "target": "tests.support.fake_worker:handler",
                "size": 1,
                "memory_bytes": 4 << 30,
                "time_limit_s": 20,
                **changes,
            },
        )
        lab = _Lab(folder, pool)
        try:
            await scenario(lab)
        finally:
            await pool.close()
        return lab

    return asyncio.run(play())


def test_one_warm_worker_serves_job_after_job(tmp_path: Path):
    async def scenario(lab: _Lab) -> None:
        first = await lab.run({"do": "echo"}, "1")
        second = await lab.run({"do": "echo"}, "2")
        assert first["pid"] == second["pid"] != os.getpid()

    _play(tmp_path, scenario)


def test_workers_run_side_by_side_up_to_the_size_of_the_pool(tmp_path: Path):
    order = {"do": "sleep", "seconds": 0.5}

    async def scenario(lab: _Lab) -> None:
        runs = [asyncio.create_task(lab.run(order, str(i))) for i in range(3)]
        await asyncio.sleep(0.4)
        assert lab.pool.busy() == {Mode.ZKML: 2}
        pids = {(await run)["pid"] for run in runs}
        assert len(pids) == 2

    _play(tmp_path, scenario, size=2)


def test_a_worker_that_is_killed_is_replaced_and_the_job_succeeds(tmp_path: Path):
    log = str(tmp_path / "log")

    async def scenario(lab: _Lab) -> None:
        await lab.run({"do": "be-killed", "times": 2, "log": log})

    lab = _play(tmp_path, scenario)
    assert len(set(Path(log).read_text().split())) == 3
    assert len(lab.starts) == 3


def test_a_job_whose_workers_are_always_killed_fails_after_three(tmp_path: Path):
    log = str(tmp_path / "log")

    async def scenario(lab: _Lab) -> None:
        with pytest.raises(BackendError) as failure:
            await lab.run({"do": "be-killed", "log": log})
        assert failure.value.code == "worker-died"
        await lab.run({"do": "echo"}, "next")

    _play(tmp_path, scenario)
    assert len(Path(log).read_text().split()) == 3


def test_an_input_that_crashes_the_engine_twice_fails(tmp_path: Path):
    log = str(tmp_path / "log")

    async def scenario(lab: _Lab) -> None:
        with pytest.raises(BackendError) as failure:
            await lab.run({"do": "segfault", "log": log})
        assert failure.value.code == "input-crashes-engine"
        await lab.run({"do": "echo"}, "next")

    _play(tmp_path, scenario)
    assert len(Path(log).read_text().split()) == 2


def test_a_crash_that_does_not_repeat_is_survived(tmp_path: Path):
    async def scenario(lab: _Lab) -> None:
        await lab.run({"do": "segfault", "times": 1, "log": str(tmp_path / "log")})

    assert len(_play(tmp_path, scenario).starts) == 2


def test_a_worker_killed_while_idle_costs_no_attempt(tmp_path: Path):
    async def scenario(lab: _Lab) -> None:
        answer = await lab.run({"do": "echo"}, "1")
        os.kill(answer["pid"], signal.SIGKILL)
        await asyncio.sleep(0.1)
        await lab.run({"do": "echo"}, "2")

    assert _play(tmp_path, scenario).starts == ["1", "2"]


def test_a_job_over_its_time_limit_is_killed_once(tmp_path: Path):
    log = str(tmp_path / "log")

    async def scenario(lab: _Lab) -> None:
        began = time.monotonic()
        with pytest.raises(LimitError) as failure:
            await lab.run({"do": "sleep", "seconds": 60, "log": log})
        assert failure.value.code == "time-limit"
        assert time.monotonic() - began < 10

    _play(tmp_path, scenario, time_limit_s=1.5)
    (pid,) = Path(log).read_text().split()
    assert not Path(f"/proc/{pid}").exists()


def test_cancelling_kills_the_worker_of_a_running_job(tmp_path: Path):
    log = tmp_path / "log"

    async def scenario(lab: _Lab) -> None:
        order = {"do": "sleep", "seconds": 60, "log": str(log)}
        run = asyncio.create_task(lab.run(order))
        while not log.exists() or not log.read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        lab.pool.cancel("job")
        with pytest.raises(JobFailedError) as failure:
            await run
        assert failure.value.code == "cancelled"
        await lab.run({"do": "echo"}, "next")

    _play(tmp_path, scenario)
    assert not Path(f"/proc/{log.read_text().strip()}").exists()


def test_cancelling_a_waiting_job_leaves_the_running_one_alone(tmp_path: Path):
    async def scenario(lab: _Lab) -> None:
        running = asyncio.create_task(lab.run({"do": "sleep", "seconds": 0.5}, "1"))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(lab.run({"do": "echo"}, "2"))
        await asyncio.sleep(0.05)
        lab.pool.cancel("2")
        with pytest.raises(JobFailedError):
            await waiting
        assert not running.done()  # it did not have to wait for a place
        assert (await running)["echo"]["do"] == "sleep"
        await lab.run({"do": "echo"}, "3")

    assert _play(tmp_path, scenario).starts == ["1", "3"]


def test_closing_interrupts_jobs_without_an_outcome(tmp_path: Path):
    log = tmp_path / "log"
    runs: list[asyncio.Task[Any]] = []

    async def scenario(lab: _Lab) -> None:
        order = {"do": "sleep", "seconds": 60, "log": str(log)}
        runs.extend(asyncio.create_task(lab.run(order, n)) for n in ("1", "2"))
        while not log.exists() or not log.read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    _play(tmp_path, scenario)
    assert [run.cancelled() for run in runs] == [True, True]
    assert not Path(f"/proc/{log.read_text().strip()}").exists()


def test_an_engines_refusal_is_passed_on_and_its_defect_hides_the_message(
    tmp_path: Path,
):
    async def scenario(lab: _Lab) -> None:
        with pytest.raises(FormatError) as refusal:
            await lab.run({"do": "refuse"}, "1")
        assert refusal.value.code == "fake-refusal"
        with pytest.raises(BackendError) as defect:
            await lab.run({"do": "fail"}, "2")
        assert "secret" not in defect.value.message

    assert _play(tmp_path, scenario).starts == ["1", "2"]


def test_a_worker_cannot_take_more_memory_than_its_limit(tmp_path: Path):
    async def scenario(lab: _Lab) -> None:
        with pytest.raises(BackendError):
            await lab.run({"do": "allocate", "bytes": 3 << 30}, "1")
        await lab.run({"do": "allocate", "bytes": 1 << 20}, "2")

    _play(tmp_path, scenario, memory_bytes=1 << 30)


def test_progress_reaches_the_watcher_in_order(tmp_path: Path):
    async def scenario(lab: _Lab) -> None:
        await lab.run({"do": "progress", "total": 4, "seconds": 0})

    assert [r["done"] for r in _play(tmp_path, scenario).reports] == [1, 2, 3, 4]


def test_jobs_go_to_the_worker_that_has_their_keys(tmp_path: Path):
    """Also when it has served others since; and to a free one rather than wait."""

    async def scenario(lab: _Lab) -> None:
        pause = {"do": "sleep", "seconds": 0.3}
        both = await asyncio.gather(lab.run(pause, "0", "a"), lab.run(pause, "1", "b"))
        homes = {"a": both[0]["pid"], "b": both[1]["pid"]}
        third = (await lab.run({"do": "echo"}, "2", "c"))["pid"]
        for i, key in enumerate("abcabcba"):
            answer = await lab.run({"do": "echo"}, f"t{i}", key)
            assert answer["pid"] == {**homes, "c": third}[key]
        same = [lab.run(pause, f"s{i}", "a") for i in range(2)]
        assert {a["pid"] for a in await asyncio.gather(*same)} == set(homes.values())

    _play(tmp_path, scenario, size=2)


def test_a_replaced_worker_is_not_thought_to_have_its_forerunners_keys(tmp_path: Path):
    async def scenario(lab: _Lab) -> None:
        pause = {"do": "sleep", "seconds": 0.3}
        await asyncio.gather(lab.run(pause, "0", "a"), lab.run(pause, "1", "b"))
        order = {"do": "segfault", "times": 1, "log": str(tmp_path / "log")}
        await lab.run(order, "2", "a")
        warm = [slot.warm for slot in lab.pool._idle]
        assert sum("a" in w for w in warm) == 1

    _play(tmp_path, scenario, size=2)


def test_a_worker_is_thought_to_have_what_it_says_it_kept(tmp_path: Path):
    async def scenario(lab: _Lab) -> None:
        model = lab.bundle.sha256
        await lab.run({"do": "echo"}, "0", "a")
        assert lab.pool.warm() == {model, "a"}
        await lab.run({"do": "echo", "keeps": 1}, "1", "b")  # memory was short
        assert lab.pool.warm() == {"b"}
        assert not lab.pool.has_warm("a")
        with pytest.raises(FormatError):
            await lab.run({"do": "refuse"}, "2", "c")
        assert lab.pool.warm() == {"b", model}  # of the keys the next job will tell

    _play(tmp_path, scenario)


def test_jobs_that_together_need_too_much_memory_run_in_turn(tmp_path: Path):
    order = {"do": "sleep", "seconds": 0.3}

    async def scenario(lab: _Lab) -> None:
        lab.needs(60)
        runs = [asyncio.create_task(lab.run(order, str(i))) for i in range(2)]
        most = 0
        while not all(run.done() for run in runs):
            most = max(most, lab.pool.busy()[Mode.ZKML])
            await asyncio.sleep(0.02)
        await asyncio.gather(*runs)
        assert most == 1
        lab.needs(200)
        with pytest.raises(LimitError) as refusal:
            await lab.run(order, "large")
        assert refusal.value.code == "circuit-too-large"
        assert lab.starts == ["0", "1"]  # no worker saw it

    _play(tmp_path, scenario, size=2, memory=Memory(100))


def test_workers_get_the_environment_they_are_promised(tmp_path: Path):
    async def scenario(lab: _Lab) -> None:
        await lab.run({"do": "echo"}, "1")
        (slot,) = lab.pool._idle
        assert slot.child
        environ = _read(f"/proc/{slot.child.pid}/environ")
        assert b"OMP_NUM_THREADS=3" in environ.split(b"\0")
        assert b"GLIBC_TUNABLES=glibc.malloc.hugetlb=1" in environ.split(b"\0")

    _play(tmp_path, scenario, env={"OMP_NUM_THREADS": "3"})


def _read(path: str) -> bytes:
    return Path(path).read_bytes()
