"""A process that only proves: its time, and its peak memory, hold nothing else.

It loads the engine and our wrapper of it, no model, no tuner, no keys but the proving
key. The peak resident memory of such a process is all it ever held: interpreter,
engine, circuit, proving key, SRS and witness.
"""

import time
from pathlib import Path

from privacy.child import Handler, Progress
from privacy.encoding import Json
from privacy.zkml.prove import prove_row
from privacy.zkml.system import CircuitFiles, load_backend


def handler() -> Handler:
    """Return what serves a proof of `row` by the circuit in the folder `root`."""
    backend = load_backend()

    def serve(request: Json, progress: Progress) -> Json:
        _ = progress
        files, row, bits = (
            CircuitFiles(Path(request["root"])),
            request["row"],
            request["scale_bits"],
        )
        idle_bytes = _peak_bytes()
        start, cpu = time.perf_counter(), time.process_time()
        proof = prove_row(backend, files, row, scale_bits=bits)
        took, spent = time.perf_counter() - start, time.process_time() - cpu
        start = time.perf_counter()
        backend.verify(files, proof)
        return {
            "prove_s": took,
            "cpu_s": spent,
            "verify_s": time.perf_counter() - start,
            "proof_bytes": len(proof.proof),
            "idle_rss_bytes": idle_bytes,
            "peak_rss_bytes": _peak_bytes(),
        }

    return serve


def _peak_bytes() -> int:
    """Return the peak resident memory of this program (VmHWM, Linux).

    Not `ru_maxrss`, which starts at what the parent had before this program began.
    """
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024
