"""Run a script of escape attempts in a process as an enclave's would be started."""

import json
import os
import subprocess
from pathlib import Path

from privacy.encoding import Json
from privacy.tee.host import INTERPRETER

_HERE = Path(__file__).parent


def outcomes_of(script: str, folder: Path, environment: dict[str, str]) -> Json:
    """Return what a script of this folder found, given a folder to play in."""
    folder.chmod(0o777)
    path = environment["PYTHONPATH"] + os.pathsep + str(_HERE)
    run = subprocess.run(
        [*INTERPRETER, str(_HERE / script), str(folder)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**environment, "PYTHONPATH": path},
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)
