"""What a data owner installs for `fhe`: small, without torch, and enough."""

import json
import shutil
import subprocess
import venv

import numpy as np
import pytest

from privacy.fhe.runner import Runner

MAX_BYTES = 400 * 10**6
_CODE = """
import json, sys
from pathlib import Path
import numpy as np
from privacy.fhe import FheClient
folder, step = Path(sys.argv[1]), sys.argv[2]
client = FheClient((folder / "client.json").read_bytes())
if step == "encrypt":
    keys = client.generate_keys()
    (folder / "secret").write_bytes(keys.to_bytes())
    (folder / "keys").write_bytes(keys.evaluation_keys())
    (folder / "input").write_bytes(keys.encrypt(np.load(folder / "rows.npy")))
else:
    keys = client.load_keys((folder / "secret").read_bytes())
    outputs = keys.decrypt((folder / "output").read_bytes(), rows=2)
    loaded = sorted({m.partition(".")[0] for m in sys.modules})
    print(json.dumps({"outputs": outputs.tolist(), "loaded": loaded}))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An environment made as the README says, apart from the project itself."""
    folder = tmp_path_factory.mktemp("client")
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    locked = ["--require-hashes", "-r", "requirements/client-fhe.txt"]
    subprocess.run([*pip, *locked], check=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    for package in ("privacy", "gateway"):
        shutil.copytree(package, site / package)
    return python


def run(python, *arguments):
    return subprocess.run(
        [str(python), "-I", "-c", _CODE, *map(str, arguments)],
        check=True,
        capture_output=True,
    ).stdout


@pytest.mark.slow
def test_the_installation_is_small(python):
    root = python.parents[1]
    files = [p for p in root.rglob("*") if p.is_file() and not p.is_symlink()]
    pip = ("pip", "setuptools", "_distutils_hack")  # of venv itself, of no use here
    ours = [p for p in files if not set(pip) & set(p.relative_to(root).parts)]
    assert sum(p.stat().st_size for p in ours) < MAX_BYTES
    assert not list(root.rglob("torch"))


@pytest.mark.slow
def test_a_row_is_encrypted_and_its_answer_decrypted(python, diagnosis, tmp_path):
    bundle = diagnosis.bundle
    shutil.copy(bundle.path("fhe/client.json"), tmp_path)
    columns = bundle.manifest.columns
    offset, scale = (np.array([getattr(c, n) for c in columns]) for n in _STEPS)
    np.save(tmp_path / "rows.npy", (diagnosis.rows[:2] - offset) / scale)
    run(python, tmp_path, "encrypt")
    blob = (tmp_path / "input").read_bytes()
    output = Runner(bundle).run(blob, tmp_path / "keys", lambda _: None).output
    (tmp_path / "output").write_bytes(output)
    found = json.loads(run(python, tmp_path, "decrypt"))
    clear = diagnosis.model.decision_function(diagnosis.rows[:2])
    np.testing.assert_allclose(np.array(found["outputs"])[:, 0], clear, atol=0.1)
    assert not {"torch", "concrete", "pkg_resources", "scipy"} & set(found["loaded"])


_STEPS = ("offset", "scale")
