"""Both logs after kills: every receipt once, every acknowledged act, one chain."""

import base64
import random
import time
from pathlib import Path

import pytest

from privacy.key_history import public_keys, read_history
from privacy.transparency.audit_chain import follow, parse_entry
from privacy.transparency.merkle import append, leaf_hash, range_hash
from privacy.transparency.tree_head import verify_head
from tests.support.hand_made_bundle import write_bundle
from tests.support.live_gateway import ProcessGateway, wait_until

FAKES = "tests.support.gateway_with_fakes"
KILLS = 6


@pytest.mark.slow
def test_logs_lose_and_double_nothing_over_kills(tmp_path: Path):
    write_bundle(tmp_path / "models", needs_keys=False)
    process = ProcessGateway(
        tmp_path / "data", tmp_path / "models", module=FAKES, log_every_s=0.05
    )
    chance, submitted, heads = random.Random(8), [], []
    for _ in range(KILLS):
        with process.start().client() as api:
            for _ in range(8):
                submitted.append(api.order({"do": "echo"}, wait=20).json()["id"])
                heads.append(api.get("/v1/log/head").content)
            time.sleep(chance.random() / 10)  # in the middle of a tick, or not
        process.kill()
    with process, process.client() as api:
        trusted = public_keys(read_history(api.get("/.well-known/jwks.json").json()))

        def whole():
            head, _ = verify_head(api.get("/v1/log/head").content, trusted)
            return head if head.size == len(submitted) else None

        head = wait_until(whole, what="receipts are missing in the log")
        served = api.get("/v1/log/leaves").json()["leaf_hashes"]
        leaves = [base64.b64decode(leaf) for leaf in served]
        assert sorted(leaves) == sorted(
            leaf_hash(api.get(f"/v1/jobs/{job}/receipt").content) for job in submitted
        )
        nodes = append(0, {}.__getitem__, leaves)
        assert range_hash(nodes.__getitem__, 0, head.size) == head.root
        for note in heads:  # whatever was served before a kill still holds
            old, _ = verify_head(note, trusted)
            assert range_hash(nodes.__getitem__, 0, old.size) == old.root
        lines = [line.encode() for line in api.get("/v1/audit").json()["lines"]]
        named = [verify_head(note, trusted)[0] for note in heads]
        follow(lines, heads={h.audit_size: h.audit_sha256 for h in named})
        acts = [parse_entry(line) for line in lines]
        noted = [a.target for a in acts if a.action == "job-submitted"]
        assert sorted(noted) == sorted(submitted)
        starts = [a for a in acts if a.action == "gateway-started"]
        assert len(starts) == KILLS + 1
