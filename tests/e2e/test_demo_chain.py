"""`make demo-chain`: chain, watcher, gateway and prover as processes of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_proven_score_opens_the_loan_and_a_forged_one_does_not():
    done = subprocess.run(
        [sys.executable, "examples/demo_chain.py", "--json"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        timeout=280,
        check=False,
    )
    told = json.loads(done.stdout)
    assert done.returncode == 0
    assert [one["open"] for one in told["decided"]] == [True, False]
    assert told["forged"] == "ProofInvalid"
