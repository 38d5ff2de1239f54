"""A child process that runs one bundle's FHE jobs, for tests that may kill it."""

import re
from pathlib import Path

from privacy.bundle import open_bundle
from privacy.fhe.runner import Runner


def handler():
    runners: dict[str, Runner] = {}

    def serve(request, progress):
        root = request["bundle"]
        if root not in runners:
            runners[root] = Runner(open_bundle(Path(root)))
        keys = Path(request["keys"]) if request["keys"] else None
        raw = Path(request["input"]).read_bytes()
        result = runners[root].run(raw, keys, progress)
        Path(request["output"]).write_bytes(result.output)
        return {"ignored_signals": _ignored()}

    return serve


def _ignored():
    """The mask of signals that this process ignores, as the kernel has it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"SigIgn:\s*([0-9a-f]+)", status).group(1), 16)
