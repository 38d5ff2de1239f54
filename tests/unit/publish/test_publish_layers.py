"""What the publisher of a hybrid model may choose; nothing is compiled here."""

import numpy as np
import pytest
import torch

from privacy.errors import FormatError
from privacy.publish.hybrid import _choose, publish_layers


def _refused(tmp_path, module, *layers):
    with pytest.raises(FormatError) as caught:
        publish_layers(module, layers, name="m", store=tmp_path)
    assert not list(tmp_path.iterdir())
    return caught.value


def test_a_layer_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(3, 2))
    error = _refused(tmp_path, net, "0", "blocks.*")
    assert error.code == "no-such-layer"
    assert "it has 0" in error.message


def test_no_layer_at_all_is_refused(tmp_path):
    assert _refused(tmp_path, torch.nn.Linear(3, 2)).code == "no-such-layer"


@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.ReLU(),
        torch.nn.LSTM(3, 3),
        torch.nn.Conv2d(4, 4, 3, groups=2),
        torch.nn.Conv2d(1, 1, 3, padding_mode="reflect"),
        torch.nn.Conv2d(1, 1, 3, padding="same"),
    ],
)
def test_a_layer_that_is_not_linear_is_refused(tmp_path, layer):
    error = _refused(tmp_path, torch.nn.Sequential(layer), "0")
    assert error.code == "unsupported-layer"


def test_weights_that_are_not_finite_are_refused(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(3, 2))
    torch.nn.init.constant_(net[0].weight, float("nan"))
    assert _refused(tmp_path, net, "0").code == "not-finite"


def test_a_layer_of_gpt_2_is_read_the_other_way_round():
    class Conv1D(torch.nn.Module):  # as in Transformers: (inputs, outputs)
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.rand(3, 2))
            self.bias = torch.nn.Parameter(torch.rand(2))

    net = torch.nn.Sequential(Conv1D())
    ((layer, weight),) = _choose(net, ["*"])
    assert (layer.path, layer.inputs, layer.outputs) == ("0", 3, 2)
    assert np.allclose(weight, net[0].weight.detach().numpy().T)
