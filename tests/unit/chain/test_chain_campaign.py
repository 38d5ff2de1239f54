"""A hundred requests, twenty kills and five reorganisations: each answered once."""

import json
import random
import subprocess
import sys
import time

import pytest

from privacy.chain.abi import Reverted
from privacy.chain.config import write_config
from tests.support.chain_site import FEE, PROVIDER

REQUESTS, KILLS, REORGANISATIONS, DEPTH = 100, 20, 5, 4


def _is_open(site, request_id):
    try:
        site.coordinator.view("getRequest", request_id)
    except Reverted as exc:
        if exc.error != "RequestEnded":
            raise
        return False
    return True


@pytest.mark.slow
def test_every_request_is_answered_once_whatever_is_killed_or_reorganised(
    site, tmp_path
):
    site.config = type(site.config)(
        site.config.rpc, 31337, DEPTH, site.config.contracts, site.config.models
    )
    site.chain.account(PROVIDER)
    ids = [site.ask(i % 2) for i in range(REQUESTS)]
    site.chain.mine(DEPTH + 1)
    write_config(tmp_path / "chain.json", site.config)
    job = {
        "chain": str(tmp_path / "chain.json"),
        "key": str(PROVIDER),
        "bundle": str(site.bundle.root),
        "folder": str(site.folder),
        "evidence": {k.decode(): v.decode() for k, v in site.jobs.evidence.items()},
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-m", "tests.support.watcher_process"]
    site.chain.rpc.ask("evm_setIntervalMining", 1)
    luck = random.Random(5)
    reorganised = 0
    for life in range(KILLS + 1):
        process = subprocess.Popen([*command, str(tmp_path / "job.json")])
        try:
            is_last = life == KILLS
            until = time.monotonic() + (120 if is_last else luck.uniform(1.5, 3.5))
            while time.monotonic() < until and process.poll() is None:
                if is_last and not any(_is_open(site, i) for i in ids):
                    break
                time.sleep(0.2)
            assert process.poll() is None, "the watcher ended by itself"
            if life % 4 == 1 and reorganised < REORGANISATIONS:
                site.chain.reorganise(luck.randrange(1, DEPTH))
                reorganised += 1
        finally:
            process.kill()
            process.wait()
    assert reorganised == REORGANISATIONS
    assert not [i for i in ids if _is_open(site, i)]
    assert site.credit() == REQUESTS * FEE
    held = ("eth_getBalance", site.coordinator.address, "latest")
    assert site.chain.rpc.number(*held) == REQUESTS * FEE
    topic = site.coordinator.abi.topic("Fulfilled")
    logs = site.chain.rpc.logs(site.coordinator.address, [topic])
    assert sorted(int(log["topics"][1], 16) for log in logs) == ids
    assert list(site.receipts.iterdir())
