"""A run of tests that failed must say so, whatever ran in its process."""

import os
import subprocess
import sys

from tests.conftest import REPOSITORY

FAILS = """
from concrete import fhe


def test_that_encrypts_and_fails():
    add = fhe.compiler({"x": "encrypted"})(lambda x: x + 1)
    circuit = add.compile(range(4))
    assert circuit.encrypt_run_decrypt(2) == 4
"""


def test_a_run_that_encrypted_something_and_failed_has_status_one(
    tmp_path, repository_on_path
):
    """`concrete.compiler` ends the process with 0, if it is let."""
    test = tmp_path / "test_fails.py"
    test.write_text(FAILS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest"]
    command += ["-c", str(REPOSITORY / "pyproject.toml"), str(test)]
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, **repository_on_path},
    )
    assert "1 failed" in ran.stdout
    assert ran.returncode == 1
