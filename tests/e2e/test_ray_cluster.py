"""A Ray cluster of three nodes, two with fake engines: what they do when they die."""

import asyncio
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.ray_cluster import RayCluster
from gateway.executors.ray import link
from gateway.executors.ray.credentials import Credentials
from privacy.certs import Certificates
from privacy.client import Client
from privacy.files import default_home
from privacy.receipt import parse_receipt
from tests.support.hand_made_bundle import write_bundle
from tests.support.live_gateway import Api, ProcessGateway, ThreadGateway, wait_until
from tests.support.tee_bundle import write_tee_bundle
from tests.support.tee_models import WEIGHTS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FAKES = "tests.support.gateway_with_fakes"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("ray")
    write_bundle(folder / "models", name="demo")
    write_tee_bundle(folder / "models", default_home(), name="linear")
    return folder


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[RayCluster]:
    with RayCluster(folder) as cluster:
        cluster.add("one", "fhe,zkml", "--cpus=1", zkml_workers=2)
        cluster.add("two", "zkml", "--cpus=1", "--gpu")
        cluster.add("three", "tee", "--cpus=1")
        yield cluster


@pytest.fixture(scope="module")
def gateway(folder: Path, cluster: RayCluster) -> Iterator[ThreadGateway]:
    settings = {**cluster.settings, "local_modes": (), "models_dir": folder / "models"}
    with ThreadGateway.fake(folder / "a", node_wait_s=120, **settings) as gateway:
        with gateway.client() as api:
            wait_until(lambda: len(_nodes(api)) == 4, seconds=90, what="nodes join")
            for name in ("fhe", "zkml"):  # its actor starts
                keys = api.upload(b"keys", to="keys") if name == "fhe" else None
                api.order({"do": "echo"}, mode=name, keys=keys, wait=90)
        yield gateway


@pytest.fixture
def api(gateway: ThreadGateway, cluster: RayCluster) -> Iterator[Api]:
    with gateway.client() as api:
        wait_until(lambda: len(_nodes(api)) == 4, seconds=90, what="nodes join")
        yield api


def _nodes(api: Api) -> dict[str, Any]:
    nodes = api.get("/v1/nodes").json()["nodes"]
    return {node["name"]: node for node in nodes if node["state"] == "ready"}


def _node_of(api: Api, job: dict[str, Any]) -> str:
    receipt = api.get(job["links"]["receipt"]).content
    return parse_receipt(receipt)[0].node


def _started(log: Path) -> list[int]:
    """Return the processes that have begun to run an order."""
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def test_nodes_are_listed_with_what_they_can_do(api: Api):
    nodes = _nodes(api)
    assert set(nodes) == {"head", "one", "two", "three"}
    assert not nodes["head"]["modes"]
    assert set(nodes["one"]["modes"]) == {"fhe", "zkml"}
    assert nodes["one"]["modes"]["zkml"]["workers"] == 2
    assert (nodes["one"]["gpus"], nodes["two"]["gpus"]) == (0, 1)
    assert {node["kind"] for node in nodes.values()} == {"ray"}


def test_a_job_goes_to_a_node_that_serves_it_and_the_receipt_names_it(api: Api):
    keys = api.upload(b"keys", to="keys")
    job = api.order({"do": "echo"}, mode="fhe", keys=keys, wait=60).json()
    assert job["status"] == "succeeded"
    assert _node_of(api, job) == "one"
    proof = api.order({"do": "echo", "n": 1}, wait=60).json()
    assert proof["evidence_kind"] == "proof"
    assert api.get(proof["links"]["evidence"]).content == b"fake proof"


def test_keys_are_sent_to_a_node_once(api: Api, cluster: RayCluster):
    content = os.urandom(40_000_000)
    keys = api.upload(content, to="keys")
    jobs = [
        api.order({"do": "echo", "n": n}, mode="fhe", keys=keys).json()
        for n in range(3)
    ]
    results = [api.get(api.finished(j["id"])["links"]["result"]).json() for j in jobs]
    assert {r["keys_bytes"] for r in results} == {len(content)}
    cache = cluster.home / "node" / "one" / "node" / "cache"
    began = (cache / "blobs" / keys).stat().st_mtime_ns
    more = api.order({"do": "echo", "n": 4}, mode="fhe", keys=keys, wait=30).json()
    assert more["status"] == "succeeded"
    assert (cache / "blobs" / keys).stat().st_mtime_ns == began
    assert not list((cache / "parts").iterdir())


def test_results_larger_than_a_message_arrive_whole(api: Api):
    order = {"do": "echo", "text": "x" * 40_000_000}
    job = api.order(order, wait=60).json()
    assert api.get(job["links"]["result"]).json()["echo"] == order


def test_progress_and_an_engines_refusal_come_through(api: Api):
    job = api.order({"do": "progress", "total": 3, "seconds": 0.5}).json()
    with api.stream("GET", job["links"]["events"]) as events:
        lines = [ln[5:] for ln in events.iter_lines() if ln.startswith("data:")]
    assert {1, 2, 3} <= {json.loads(line).get("done") for line in lines}
    refused = api.order({"do": "refuse"}, wait=60).json()
    assert refused["problem"]["code"] == "fake-refusal"
    assert refused["problem"]["family"] == "FormatError"
    crashed = api.order({"do": "segfault"}, wait=60).json()
    assert crashed["problem"]["code"] == "input-crashes-engine"


def test_cancelling_ends_the_engine_within_two_seconds(api: Api, tmp_path: Path):
    log = tmp_path / "log"
    job = api.order({"do": "sleep", "seconds": 120, "log": str(log)}).json()
    (pid,) = wait_until(lambda: _started(log), seconds=30)
    began = time.monotonic()
    assert api.delete(f"/v1/jobs/{job['id']}").json()["status"] == "cancelled"
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), seconds=10)
    assert time.monotonic() - began < 2


def test_jobs_of_a_node_that_dies_go_on_at_another_within_thirty_seconds(
    api: Api, cluster: RayCluster, tmp_path: Path
):
    log = tmp_path / "log"
    order = {"do": "sleep", "seconds": 60, "log": str(log), "times": 1}
    job = api.order(order).json()
    wait_until(lambda: _started(log), seconds=30)
    (busy,) = wait_until(lambda: [n for n, it in _nodes(api).items() if _busy(it)])
    began = time.monotonic()
    cluster.kill(busy)
    done = api.finished(job["id"])
    took = time.monotonic() - began
    cluster.restart(busy)
    assert done["status"] == "succeeded"
    assert {_node_of(api, done), busy} == {"one", "two"}
    assert len(_started(log)) == 2
    assert took < 30


def _busy(node: dict[str, Any]) -> bool:
    return any(mode["busy"] for mode in node["modes"].values())


def test_inputs_are_sealed_for_an_enclave_on_a_node_and_anew_when_it_dies(
    api: Api, gateway: ThreadGateway, cluster: RayCluster, tmp_path: Path
):
    rows = [[0.5, -1.0, 2.0], [3.0, 0.25, -4.0]]
    with Client(
        gateway.base_url,
        api_key=gateway.admin_key,
        home=tmp_path,
        allow_simulated=True,
    ) as client:
        first = client.infer("linear", rows, mode="tee")
        cluster.kill("three")
        cluster.restart("three")
        wait_until(lambda: "three" in _nodes(api), seconds=60)
        second = client.infer("linear", rows, mode="tee")
    expected = np.asarray(rows, dtype=np.float32) @ WEIGHTS
    for answer in (first, second):
        found = [row.outputs for row in answer.rows]
        assert np.allclose(found, expected, atol=1e-5)
        assert answer.node == "three"


def test_without_the_token_or_a_certificate_of_the_authority_nobody_gets_in(
    cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(link, "REACH_S", 40.0)
    good, token, authority = (tmp_path / name for name in ("good", "a", "b"))
    for folder in (good, token):
        shutil.copytree(cluster.home / "cluster", folder)
    (token / "token").write_text("b" * 64)
    (authority).mkdir()
    shutil.copy(good / "token", authority)
    others = Certificates(tmp_path / "others")
    Credentials(authority).make(others, name="head", hosts=["127.0.0.2"])

    async def nodes_seen(credentials: Path, expected: int) -> list[int]:
        seen: list[int] = []  # none at first: nodes are asked what they run before
        driver = link.Link(
            address=cluster.address,
            node_ip="127.0.0.2",
            worker_target="x:y",
            env=Credentials(credentials).environment(),
            nodes=lambda found: seen.append(len(found)),
        )
        driver.start()
        async with asyncio.timeout(120):
            while expected not in seen:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        await driver.close()
        return seen

    async def ask_all() -> list[list[int]]:
        cases = ((good, 4), (token, 0), (authority, 0))
        return await asyncio.gather(*(nodes_seen(*case) for case in cases))

    seen = asyncio.run(ask_all())
    assert [max(counts) for counts in seen] == [4, 0, 0]


def test_a_mode_whose_only_node_died_waits_for_it_to_come_back(
    api: Api, cluster: RayCluster
):
    cluster.kill("one")
    keys = api.upload(b"other keys", to="keys")
    job = api.order({"do": "echo", "n": 7}, mode="fhe", keys=keys).json()
    cluster.restart("one")
    wait_until(lambda: "one" in _nodes(api), seconds=60)
    assert api.finished(job["id"])["status"] == "succeeded"


def test_a_killed_gateway_finds_its_job_under_way_and_another_shares_the_nodes(
    api: Api, cluster: RayCluster, folder: Path, tmp_path: Path
):
    log = tmp_path / "log"
    settings = {**cluster.settings, "local_modes": "[]"}
    process = ProcessGateway(
        tmp_path / "data", folder / "models", module=FAKES, **settings
    )
    with process:
        with process.client() as mine:
            wait_until(lambda: len(_nodes(mine)) == 4, seconds=60)
            order = {"do": "sleep", "seconds": 12, "log": str(log)}
            job = mine.order(order).json()
            wait_until(lambda: _started(log), seconds=30)
            time.sleep(0.3)  # until its workflow is written down
            process.kill()
        other = api.order({"do": "echo", "n": 9}, wait=60).json()
        assert other["status"] == "succeeded"
        process.start()
        with process.client() as mine:
            assert mine.finished(job["id"])["status"] == "succeeded"
    assert len(_started(log)) == 1  # the node went on with it meanwhile
