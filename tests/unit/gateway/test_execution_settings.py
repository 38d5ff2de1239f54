"""Latency is one worker on all cores, throughput a worker on each."""

import pytest

from gateway import settings as module
from gateway.settings import Settings
from privacy.modes import Mode


@pytest.mark.parametrize(
    ("chosen", "workers", "threads"),
    [
        ({}, 1, "8"),
        ({"fhe_execution": "throughput"}, 8, "1"),
        ({"fhe_execution": "throughput", "fhe_workers": 3}, 3, "2"),
        ({"fhe_workers": 20}, 20, "1"),
    ],
)
def test_workers_share_the_cores_out(monkeypatch, chosen, workers, threads):
    monkeypatch.setattr(module, "_cores", lambda: 8)
    settings = Settings(**chosen)
    assert settings.workers(Mode.FHE) == workers
    assert settings.worker_env(Mode.FHE)["OMP_NUM_THREADS"] == threads
    assert "OMP_NUM_THREADS" not in settings.worker_env(Mode.ZKML)


def test_proofs_side_by_side_share_cores_and_memory(monkeypatch):
    monkeypatch.setattr(module, "_cores", lambda: 8)
    monkeypatch.setattr(module, "installed_memory", lambda: 400)
    settings = Settings(zkml_workers=3)
    assert settings.worker_env(Mode.ZKML)["RAYON_NUM_THREADS"] == "2"
    assert settings.memory_of_jobs(Mode.ZKML) == 300
    assert Settings(zkml_memory_bytes=7).memory_of_jobs(Mode.ZKML) == 7


def test_an_unknown_execution_is_refused():
    with pytest.raises(ValueError, match="latency"):
        Settings(fhe_execution="fast")
