"""Readiness looks at what jobs need, and a gateway that stops drains first."""

import asyncio
import shutil
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from gateway import readiness
from gateway.jobs.runs import Runs
from gateway.store.away import StoreAwayError
from gateway.store.jobs import Jobs
from privacy.errors import UnavailableError
from tests.support.hand_made_bundle import write_bundle
from tests.support.live_gateway import Api, ProcessGateway, ThreadGateway, wait_until

ECHO = {"do": "echo"}


@pytest.fixture(autouse=True)
def _looks_each_time(monkeypatch):
    monkeypatch.setattr(readiness, "_TOLD_FOR_S", 0.0)
    readiness._looks.clear()


def _refused(api: Api, code: str) -> None:
    answer = api.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["code"] == code
    assert "Retry-After" in answer.headers


def test_readiness_says_what_was_looked_at(api: Api):
    checks = api.get("/readyz").raise_for_status().json()["checks"]
    assert set(checks) == {
        "nodes",
        "receipt key",
        "database",
        "models",
        "blobs",
        "disk",
    }


@pytest.mark.parametrize("is_well", [True, False])
def test_who_asks_often_makes_no_work(api: Api, monkeypatch, *, is_well: bool):
    monkeypatch.setattr(readiness, "_TOLD_FOR_S", 60.0)
    looked = []

    def look(gateway: object) -> None:
        looked.append(gateway)
        if not is_well:
            raise StoreAwayError("away", code="blobs-unavailable")

    monkeypatch.setattr(readiness, "_check_stores", look)
    for _ in range(5):
        assert api.get("/readyz").is_success == is_well
    assert len(looked) == 1


def test_a_store_that_hangs_holds_up_one_thread(api: Api, monkeypatch):
    monkeypatch.setattr(readiness, "_PATIENCE_S", 0.05)
    looked, go_on = [], threading.Event()

    def hang(gateway: object) -> None:
        looked.append(gateway)
        go_on.wait(30)

    monkeypatch.setattr(readiness, "_check_stores", hang)
    for _ in range(3):
        _refused(api, "stores-slow")
    go_on.set()
    assert len(looked) == 1


def test_no_room_means_not_ready(api: Api, monkeypatch):
    usage = shutil._ntuple_diskusage(10 << 30, 10 << 30, 1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    _refused(api, "storage-full")


def test_a_folder_that_cannot_be_written_means_not_ready(api: Api, monkeypatch):
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied", "/secret/path")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    _refused(api, "storage-unwritable")
    assert "/secret" not in api.get("/readyz").text


def test_a_database_that_is_away_means_not_ready(api: Api, monkeypatch):
    def away(_: Jobs) -> None:
        raise UnavailableError("away", code="database-unavailable")

    monkeypatch.setattr(Jobs, "count_open", away)
    _refused(api, "database-unavailable")


def test_a_bucket_that_is_away_means_not_ready(
    gateway: ThreadGateway, api: Api, monkeypatch
):
    def away(*_: object) -> None:
        raise StoreAwayError("away", code="blobs-unavailable")

    monkeypatch.setattr(gateway.app.state.gateway.blobs, "has", away, raising=True)
    _refused(api, "blobs-unavailable")


def test_no_node_means_not_ready(gateway: ThreadGateway, api: Api, monkeypatch):
    scheduler = gateway.app.state.gateway.scheduler
    monkeypatch.setattr(scheduler, "_nodes", {})
    _refused(api, "no-node")


def test_waiting_for_runs_ends_with_them_or_in_time():
    async def run() -> None:
        runs, stop = Runs(threads=1), asyncio.Event()

        async def complete(_: str) -> None:
            await stop.wait()

        assert await runs.wait(9) == 0
        runs.begin("job", complete)
        assert await runs.wait(0.01) == 1
        stop.set()
        assert await runs.wait(9) == 0

    asyncio.run(run())


@pytest.mark.slow
def test_sigterm_lets_running_jobs_end_takes_no_new_ones_and_keeps_the_rest(
    tmp_path: Path,
):
    write_bundle(tmp_path / "models")
    module = "tests.support.gateway_with_fakes"
    process = ProcessGateway(
        tmp_path / "data", tmp_path / "models", module=module, drain_s=30
    )
    with process.start().client() as api:
        running = api.order({"do": "sleep", "seconds": 4}).json()["id"]
        wait_until(lambda: api.get(f"/v1/jobs/{running}").json()["started_at"])
        waiting = api.order(ECHO).json()["id"]
        assert process.process
        process.process.send_signal(signal.SIGTERM)
        wait_until(lambda: api.get("/readyz").status_code == 503)
        refused = api.order(ECHO)
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert "Retry-After" in refused.headers
        assert api.finished(running)["status"] == "succeeded"
        began = time.monotonic()
        process.process.wait(20)
        assert time.monotonic() - began < 15, "it waited for nothing"
        assert process.process.returncode == 0
    with process.start().client() as api:
        assert api.finished(waiting)["status"] == "succeeded"
    process.stop()


@pytest.mark.slow
def test_sigint_stops_at_once_and_is_no_failure(tmp_path: Path):
    write_bundle(tmp_path / "models")
    process = ProcessGateway(tmp_path / "data", tmp_path / "models", drain_s=300)
    process.start()
    assert process.process
    process.process.send_signal(signal.SIGINT)
    assert process.process.wait(20) == 0


@pytest.mark.slow
def test_a_second_sigterm_stops_at_once_and_loses_nothing(tmp_path: Path):
    write_bundle(tmp_path / "models")
    module = "tests.support.gateway_with_fakes"
    process = ProcessGateway(
        tmp_path / "data", tmp_path / "models", module=module, drain_s=300
    )
    order = {"do": "sleep", "seconds": 120, "times": 1, "log": str(tmp_path / "log")}
    with process.start().client() as api:
        running = api.order(order).json()["id"]
        wait_until(lambda: api.get(f"/v1/jobs/{running}").json()["started_at"])
        assert process.process
        process.process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{process.base_url}/readyz").status_code == 503)
        process.process.send_signal(signal.SIGTERM)
        process.process.wait(30)
    with process.start().client() as api:
        assert api.finished(running)["status"] == "succeeded"
    process.stop()
