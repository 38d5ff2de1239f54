"""The examples run as a user would run them, with real engines."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def _run(name, *arguments):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_two_encrypted_tables_join_as_in_the_clear():
    told = _run("data_frames.py", "--rows", 3)
    assert "equal to the join in the clear" in told
    assert "did not see" in told


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_small_transformer_writes_what_the_clear_one_writes(tmp_path):
    told = _run("blind_gpt.py", "--count", 8, "--folder", tmp_path / "gpt")
    assert told.count("' better '") == 2
    assert "the same; scores differ" in told
    assert "decrypted-here" in told


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_adapters_learn_around_encrypted_layers(tmp_path):
    told = _run("blind_lora.py", "--folder", tmp_path / "lora")
    assert "with adapters trained blind" in told


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_training_on_encrypted_rows_answers_as_training_in_the_clear():
    told = _run("train_encrypted.py", "--steps", 3)
    assert "3 times 4 encrypted rows" in told
    assert "did not see: rows, diagnoses, weights" in told
