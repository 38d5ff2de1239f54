"""Circuits for another processor, or of another Concrete, are refused unread."""

import pytest

from privacy.errors import UnavailableError
from privacy.fhe import machine
from privacy.fhe.machine import (
    check_engine,
    check_machine,
    cpu_features,
    machine_params,
)


def test_what_is_compiled_here_runs_here():
    params = machine_params()
    check_machine(params)
    check_engine(params)
    assert params["cpu_features"]


@pytest.mark.parametrize(
    "change",
    [
        {"machine": "riscv64"},
        {"machine": None},
        {"cpu_features": ["avx4096"]},
    ],
)
def test_a_circuit_for_another_machine_is_refused(change):
    with pytest.raises(UnavailableError, match="privacy fhe rebuild") as caught:
        check_machine({**machine_params(), **change})
    assert caught.value.code == "fhe-other-machine"


def test_a_circuit_that_does_not_say_its_processor_is_refused():
    params = machine_params()
    del params["cpu_features"]
    with pytest.raises(UnavailableError):
        check_machine(params)


@pytest.mark.parametrize("made_by", ["1.9.0", "2.9.9", "3.0.0", "", None])
def test_another_minor_version_of_the_engine_is_refused(made_by):
    with pytest.raises(UnavailableError, match="install that version") as caught:
        check_engine({"versions": {"concrete-python": made_by}})
    assert caught.value.code == "fhe-engine-version"


def test_another_patch_of_the_engine_is_taken(monkeypatch):
    monkeypatch.setattr(machine, "version", lambda _: "2.10.7")
    check_engine({"versions": {"concrete-python": "2.10.0"}})


def test_features_that_no_compiled_code_uses_are_left_out(tmp_path):
    """A bundle must not be refused for want of, say, a power-saving feature."""
    x86, arm = tmp_path / "x86", tmp_path / "arm"
    x86.write_text("processor : 0\nflags\t\t: fpu sse4_2 avx512f arat hypervisor\n")
    arm.write_text("processor : 0\nFeatures\t: fp asimd sve\n")
    assert cpu_features(x86) == ["avx512f", "sse4_2"]
    assert cpu_features(arm) == ["asimd", "fp", "sve"]
