"""Build a bundle's native circuit anew for this machine; runs in a child process.

`build` compiles the source: the program must come out the same, word for word. `check`
loads the library, makes keys, encrypts sample rows, runs and decrypts them: keys,
ciphertexts and results are compared with the templates that clients and nodes check,
and the answers with those that the publisher signed.
"""

import tempfile
from pathlib import Path

from privacy.bundle import open_bundle
from privacy.child import Handler, Progress
from privacy.encoding import Json
from privacy.errors import BackendError
from privacy.fhe.client import FheClient
from privacy.fhe.machine import check_engine, machine_params
from privacy.fhe.runner import CIRCUIT, CLIENT_JSON, Runner
from privacy.fhe.samples import parse_bounds, sample_values
from privacy.fhe.source import CIRCUIT_FILES, SOURCE, build, read_source
from privacy.modes import Mode


def build_handler() -> Handler:
    """Return the handler of `{"bundle"}`: builds in place, gives the mode's params."""
    return _build


def check_handler() -> Handler:
    """Return the handler of `{"bundle"}`, which answers with nothing if all is well."""
    return _check


def _build(request: Json, progress: Progress) -> Json:
    bundle = open_bundle(Path(request["bundle"]))
    params = bundle.manifest.mode(Mode.FHE).params
    check_engine(params)
    progress({"stage": "compile"})
    circuit = bundle.root / "fhe" / CIRCUIT
    program = (circuit / CIRCUIT_FILES[1]).read_text()
    source, device = read_source(bundle.root / "fhe" / SOURCE), params.get("device")
    build(source, program, circuit, device=device or "cpu")
    machine = machine_params()
    return {**params, **machine, "versions": params["versions"] | machine["versions"]}


def _check(request: Json, progress: Progress) -> Json:
    root = Path(request["bundle"])
    bundle = open_bundle(root)
    params = bundle.manifest.mode(Mode.FHE).params
    progress({"stage": "check"})
    client = _client(root)
    keys = client.generate_keys()
    bounds = parse_bounds(params["samples"]) if "samples" in params else None
    count = len(bounds.least) if bounds else 1
    spec = client.spec
    values = sample_values(spec.quantizers, count, features=spec.features)
    with tempfile.TemporaryDirectory(prefix="privacy-fhe-") as scratch:
        path = Path(scratch) / "keys"
        path.write_bytes(keys.evaluation_keys())
        runner = Runner(bundle)
        output = runner.run(keys.encrypt_values(values), path, lambda _: None).output
    found = keys.decrypt_integers(output, rows=count)
    if bounds and not bounds.hold(found, p_error=params["p_error"]):
        msg = (
            "the circuit that was built here answers sample rows otherwise than its "
            "publisher signed: install the version that the manifest names"
        )
        raise BackendError(msg, code="fhe-rebuild-differs")
    return {}


def _client(root: Path) -> FheClient:
    return FheClient((root / "fhe" / CLIENT_JSON).read_bytes())
