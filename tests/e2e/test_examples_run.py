"""The other example models, through the gateway, beside the clear model."""

import numpy as np
import pytest


def clear(model, rows):
    if hasattr(model.model, "predict_proba"):
        return model.model.predict_proba(rows)
    import torch

    with torch.no_grad():
        logits = model.model(torch.tensor(rows, dtype=torch.float32)).double()
        return torch.softmax(logits, dim=1).numpy()


def agrees(owner, model, mode, count):
    columns = model.bundle.manifest.columns
    low, high = np.array([(c.minimum, c.maximum) for c in columns]).T
    known = ((model.rows >= low) & (model.rows <= high)).all(axis=1)
    rows = model.rows[known][:count]
    assert len(rows) == count
    answer = owner.infer(model.name, rows.tolist(), mode=mode)
    got = np.array([row.probabilities for row in answer.rows])
    expected = clear(model, rows)
    assert (got.argmax(1) == expected.argmax(1)).all()
    limit = model.bundle.manifest.modes[mode].accuracy["max_error"]
    assert np.abs(got - expected).max() <= limit + 1e-3


@pytest.mark.parametrize(("mode", "count"), [("fhe", 1), ("zkml", 3), ("tee", 20)])
def test_boosted_trees_answer_in_every_mode(owner, published, mode, count):
    agrees(owner, published("credit"), mode, count)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "count"), [("fhe", 1), ("zkml", 3), ("tee", 9)])
def test_a_network_answers_in_every_mode(owner, published, mode, count):
    agrees(owner, published("wine"), mode, count)
