"""An enclave on a kernel without Landlock: its system calls are filtered away.

    python older_kernel.py MODEL_DIR RUN_DIR

Prints one JSON object.
"""

import errno
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from privacy.errors import AppraisalError, BackendError
from privacy.tee import landlock, seccomp
from privacy.tee.client import TeeSession
from privacy.tee.harden import SANDBOX, Limits
from privacy.tee.host import Enclave
from privacy.tee.kernel import prctl
from privacy.tee.measure import measure, measure_policy

MODEL_SHA256 = "ab" * 32
WEAKER = Limits(allow_weaker_sandbox=True)
LOAD_NUMBER, AT_LEAST, EQUAL, RETURN = 0x20, 0x35, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x50000 | errno.ENOSYS


def forget_landlock():
    """Answer ENOSYS to system calls 444 to 446, here and in every child."""
    prctl(38, 1)
    steps = [
        seccomp._step(LOAD_NUMBER, 0),
        seccomp._step(AT_LEAST, 444, 0, 2),
        seccomp._step(AT_LEAST, 447, 1, 0),
        seccomp._step(RETURN, REFUSE),
        seccomp._step(RETURN, ALLOW),
    ]
    seccomp.load(b"".join(steps))


def accepts(enclave, reference):
    session = TeeSession(
        model_sha256=MODEL_SHA256, reference=reference, columns=3, allow_simulated=True
    )
    evidence = enclave.evidence(session.nonce)
    try:
        session.check_evidence(evidence, now=datetime.now(UTC))
    except AppraisalError as exc:
        return exc.code
    return "accepted"


def main(model_dir, run_dir):
    forget_landlock()
    found = {"landlock_version": landlock.version()}
    try:
        Enclave.start(model_dir, run_dir, model_sha256=MODEL_SHA256)
    except BackendError as exc:
        found["strict"] = exc.code
    enclave = Enclave.start(
        model_dir, run_dir, model_sha256=MODEL_SHA256, limits=WEAKER
    )
    usual = measure(model_dir / "model.onnx").as_dict()
    weaker = measure_policy({**SANDBOX, "landlock": "none"}).hex()
    found["sandbox"] = enclave.info["sandbox"]
    found["usual reference"] = accepts(enclave, usual)
    found["weaker reference"] = accepts(enclave, {**usual, "rtmr0": weaker})
    enclave.detach()
    found["strict node attaches"] = Enclave.attach(run_dir) is not None
    again = Enclave.attach(run_dir, limits=WEAKER)
    found["lenient node attaches"] = again is not None
    again.stop()
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
