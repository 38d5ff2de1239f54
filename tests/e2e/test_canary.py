"""A plaintext that is nowhere but with its owner and in the enclave, after 100 jobs.

The scanner is tried on places where the plaintext must be: the owner's own memory, and
the gateway's files once the same row was sent in a mode whose node reads it.
"""

import random
from pathlib import Path

import psutil
import pytest

from privacy.bundle import standardise
from privacy.client import Client
from tests.support import scanner
from tests.support.live_gateway import ProcessGateway

JOBS = 100


def canary(diagnosis, rng):
    """Return a row within the published ranges that nobody has ever seen."""
    low, high = diagnosis.rows.min(axis=0), diagnosis.rows.max(axis=0)
    return [rng.uniform(a, b) for a, b in zip(low, high, strict=True)]


def processes_beside_the_enclave(gateway):
    """Return the gateway and what it started, but for enclaves."""
    started = psutil.Process(gateway.pid).children(recursive=True)
    mine = [p for p in started if "privacy.tee.enclave" not in p.cmdline()]
    return [gateway.pid, *(p.pid for p in mine)]


def enclaves_of(folder):
    lines = ((p.pid, p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]))
    return [
        pid
        for pid, line in lines
        if "privacy.tee.enclave" in line and str(folder) in " ".join(line)
    ]


@pytest.mark.slow
def test_a_plaintext_of_100_sealed_jobs_is_nowhere_outside_the_enclave(
    models_dir, diagnosis, tmp_path
):
    row = canary(diagnosis, random.SystemRandom())
    standard = standardise([row], diagnosis.bundle.manifest.columns)[0].tolist()
    with (
        ProcessGateway(tmp_path / "gw", models_dir) as gateway,
        Client(
            gateway.base_url,
            api_key=gateway.admin_key,
            home=tmp_path / "home",
            allow_simulated=True,
            allow_insecure_srs=True,
        ) as client,
    ):
        answers = [client.infer(diagnosis.name, [row], mode="tee") for _ in range(JOBS)]
        assert len({answer.job_id for answer in answers}) == JOBS
        raw = answers[0].rows[0].outputs
        assert {answer.rows[0].outputs for answer in answers} == {raw}
        secret = scanner.patterns_of([*row, *standard])
        secret |= {repr(value).encode() for value in raw}

        assert len(enclaves_of(tmp_path)) == 1
        for pid in processes_beside_the_enclave(gateway):
            assert scanner.resident_bytes(pid) > 1 << 20  # there is something to scan
            assert scanner.in_memory(pid, secret) == 0
        files = [path for path in tmp_path.joinpath("gw").rglob("*") if path.is_file()]
        assert len(files) > JOBS  # blobs, database, log
        assert scanner.in_files(tmp_path / "gw", secret) == []
        for folder in (Path.cwd(), tmp_path):
            assert list(folder.glob("core*")) == []

        # The scanner does find it, where it is.
        assert scanner.in_memory(psutil.Process().pid, secret) == len(secret)
        client.infer(diagnosis.name, [row], mode="zkml")
        assert any(
            "blobs" in name for name in scanner.in_files(tmp_path / "gw", secret)
        )
        holders = processes_beside_the_enclave(gateway)
        assert any(scanner.in_memory(pid, secret) for pid in holders)
