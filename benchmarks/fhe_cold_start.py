"""From process start to the first ciphertext, ours and through concrete.ml.

Each figure is of fresh processes, in turn: a client that loads a model's public file,
makes keys and encrypts a row; a worker that loads the circuit and answers a row. Theirs
are Concrete-ML's `FHEModelClient` and `FHEModelServer` on a logistic regression of the
same data, which needs no evaluation keys on either side, so no key is in the figures.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.fhe_malformed import published_alone
from privacy.bundle import Bundle, open_bundle
from privacy.encoding import Json
from privacy.fhe import FheClient

_OUR_CLIENT = """
import sys
from pathlib import Path
import numpy as np
from privacy.fhe import FheClient
client = FheClient(Path(sys.argv[1], "fhe", "client.json").read_bytes())
blob = client.generate_keys().encrypt(np.zeros((1, client.spec.features)))
assert len(blob) > client.spec.batches[0].ciphertext.size
"""
_OUR_WORKER = """
import sys
from pathlib import Path
from privacy.bundle import open_bundle
from privacy.fhe.runner import Runner
runner = Runner(open_bundle(Path(sys.argv[1])))
assert runner.run(Path(sys.argv[2]).read_bytes(), None, lambda _: None).output
"""
_THEIR_CLIENT = """
import sys
import numpy as np
from concrete.ml.deployment import FHEModelClient
client = FHEModelClient(sys.argv[1], key_dir=sys.argv[2])
client.generate_private_and_evaluation_keys()
assert client.quantize_encrypt_serialize(np.zeros((1, 30)))
"""
_THEIR_WORKER = """
import sys
from pathlib import Path
from concrete.ml.deployment import FHEModelServer
server = FHEModelServer(sys.argv[1])
server.load()
blob, keys = (Path(sys.argv[2], n).read_bytes() for n in ("input", "keys"))
assert server.run(blob, keys)
"""


def measure(folder: Path, *, quick: bool) -> Json:
    """Return the figures, JSON-ready; see the module."""
    root = published_alone(folder / "malformed", "linear")
    with tempfile.TemporaryDirectory() as scratch:
        theirs, given = Path(scratch) / "theirs", Path(scratch) / "given"
        _publish_theirs(theirs, given)
        (given / "ours").write_bytes(_our_input(open_bundle(root)))
        calls = {
            ("client", "ours"): (_OUR_CLIENT, root),
            ("client", "concrete_ml"): (_THEIR_CLIENT, theirs, given / "secret"),
            ("worker", "ours"): (_OUR_WORKER, root, given / "ours"),
            ("worker", "concrete_ml"): (_THEIR_WORKER, theirs, given),
        }
        found: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
        for turn in range(1 + (2 if quick else 7)):
            for key, (code, *arguments) in calls.items():
                took = _run(code, *arguments)
                if turn:  # the first reads the files from disk
                    found[key].append(took)
    medians = {key: statistics.median(times) for key, times in found.items()}
    return {
        "seconds": {
            f"{who}: first {what}": {
                "ours": medians[who, "ours"],
                "concrete_ml": medians[who, "concrete_ml"],
                "ratio": medians[who, "concrete_ml"] / medians[who, "ours"],
            }
            for who, what in (("client", "ciphertext"), ("worker", "result"))
        }
    }


def _run(code: str, *arguments: Any) -> float:
    """Return how long a fresh interpreter takes, start and imports included."""
    started = time.perf_counter()
    ended = f"{code}\nimport os; os._exit(0)"  # how long it takes to end is not asked
    subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-W", "ignore", "-c", ended, *map(str, arguments)],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - started


def _our_input(bundle: Bundle) -> bytes:
    import numpy as np

    client = FheClient(bundle.path("fhe/client.json").read_bytes())
    return client.generate_keys().encrypt(np.zeros((1, client.spec.features)))


def _publish_theirs(folder: Path, given: Path) -> None:
    """Compile Concrete-ML's own logistic regression, its input and keys beside it."""
    import numpy as np
    from concrete.ml.deployment import FHEModelClient, FHEModelDev
    from concrete.ml.sklearn import LogisticRegression
    from sklearn.datasets import load_breast_cancer
    from sklearn.preprocessing import StandardScaler

    rows, labels = load_breast_cancer(return_X_y=True)
    rows = StandardScaler().fit_transform(rows).astype(np.float32)
    model = LogisticRegression(n_bits=8)
    model.fit(rows, labels)
    model.compile(rows)
    FHEModelDev(str(folder), model).save()
    client = FHEModelClient(str(folder), key_dir=str(given / "secret"))
    client.generate_private_and_evaluation_keys()
    (given / "input").write_bytes(client.quantize_encrypt_serialize(rows[:1]))
    (given / "keys").write_bytes(client.get_serialized_evaluation_keys())
