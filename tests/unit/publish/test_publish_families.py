"""Every family is published and answers as its library does; docs/models.md says so."""

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.model_families import FAMILIES, MODES
from privacy.bundle import standardise
from privacy.child import Children
from privacy.client.answer import answer_rows
from privacy.errors import NotFoundError
from privacy.fhe import FheClient
from privacy.fhe.runner import Runner
from privacy.modes import Mode
from privacy.publish.data import hold_back
from privacy.tee.engine import Engine

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::RuntimeWarning"),
]
DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "models.md"
QUICK = [f for f in FAMILIES if not f.slow]
SLOW = [f for f in FAMILIES if f.slow]
ROWS = 4


@pytest.fixture(scope="module")
def children():
    with Children() as kept:
        yield kept


def test_models_md_says_of_every_family_where_it_is_served():
    lines = re.findall(r"(?m)^\| (.+) \|$", DOCUMENT.read_text())
    rows = [line.split(" | ") for line in lines]
    said = {
        row[0]: {m for m, cell in zip(MODES, row[3:], strict=True) if cell[:3] == "yes"}
        for row in rows
        if row[0] != "Family"
    }
    assert said == {f.name: set(map(Mode, f.modes.split())) for f in FAMILIES}


@pytest.mark.parametrize("family", QUICK, ids=lambda f: f.name)
def test_a_linear_family_decrypts_to_what_its_library_predicts(
    family, children, tmp_path
):
    bundle = family.publish(tmp_path / "store", (Mode.FHE, Mode.TEE), children)
    model, rows, answer = _asked(family, bundle, tmp_path)
    _compare(model, rows, answer)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("family", SLOW, ids=lambda f: f.name)
def test_a_family_is_served_where_the_document_says(family, children, tmp_path):
    bundle = family.publish(tmp_path / "store", tuple(Mode), children)
    parts = bundle.manifest.modes
    served = {mode for mode in Mode if parts[mode].available}
    stated = {Mode(m) for m in family.modes.split()}
    both = {Mode.TEE, Mode.ZKML} <= stated
    assert served == stated | ({Mode.TEE_ZKML} if both else set())
    for mode in served:
        assert parts[mode].accuracy.get("label_agreement", 1.0) >= 0.9
    for mode in set(Mode) - served:
        assert parts[mode].reason
        with pytest.raises(NotFoundError, match="does not offer"):
            bundle.manifest.mode(mode)
    if Mode.FHE in served:
        model, rows, answer = _asked(family, bundle, tmp_path)
        if bundle.manifest.mode(Mode.FHE).params["family"] == "linear":
            _compare(model, rows, answer)


def _asked(family, bundle, folder):
    """Return the model, some rows held back, and their decrypted answers."""
    model, data = family.make()
    rows = data[hold_back(data)[1]][:ROWS]
    standard = standardise(rows, bundle.manifest.columns)
    keys = FheClient(bundle.path("fhe/client.json").read_bytes()).generate_keys()
    (folder / "keys").write_bytes(keys.evaluation_keys())
    needed = bundle.manifest.mode(Mode.FHE).params["needs_keys"]
    blob = keys.encrypt(standard, allow_clipped=True)
    output = Runner(bundle).run(
        blob, folder / "keys" if needed else None, lambda _: None
    )
    raw = keys.decrypt(output.output, len(rows))
    engine = Engine(bundle.path("tee/model.onnx").read_bytes())
    clear = np.array(engine.run(standard.tolist()))
    assert raw.shape == clear.shape
    return model, rows, answer_rows(bundle.manifest, raw)


def _compare(model, rows, answer):
    if hasattr(model, "classes_"):
        expected = [str(label) for label in model.predict(rows)]
        assert [row.label for row in answer] == expected
        if answer[0].probabilities:
            found = [row.probabilities for row in answer]
            assert np.allclose(found, model.predict_proba(rows), atol=0.01)
    else:
        expected = np.asarray(model.predict(rows)).reshape(len(rows), -1)
        assert np.allclose([row.outputs for row in answer], expected, rtol=0.02)
