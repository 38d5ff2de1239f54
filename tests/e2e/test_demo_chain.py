"""`make demo-chain`: chain, watcher, gateway and prover as processes of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_proofs_enclaves_and_both_answer_contracts_and_forgeries_are_refused():
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
    assert set(told["answers"]) == {"attestation", "both"}
    for score in told["answers"].values():
        assert abs(score - told["decided"][0]["score"]) < 0.05
    assert told["forged"] == {"proof": "ProofInvalid", "enclave": "UnknownEnclave"}
