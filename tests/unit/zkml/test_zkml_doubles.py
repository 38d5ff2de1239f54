"""ReLUs and averages written too large by a power of two, told or taken off."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from privacy.zkml.doubles import double
from privacy.zkml.system import CircuitChoice, Visibility, load_backend
from tests.support import exported
from tests.support.exported import answers, operators

FEATURES = 64
ROWS = np.random.default_rng(0).normal(size=(20, FEATURES)).astype(np.float32)
CHOICE = CircuitChoice(9, 512, 4, 1, 10, 22)


def export(path: Path, module: Any) -> None:
    torch.manual_seed(0)
    exported.export(path, module, features=FEATURES)


def run(path: Path) -> Any:
    return answers(path, rows=ROWS)


def cells(path: Path) -> int:
    seen = Visibility(input="private")
    return load_backend().size(path, CHOICE, seen, path.parent).assignments


def image(*layers: Any) -> Any:
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), *layers)


class Residual(nn.Module):  # type: ignore[misc]
    """Adds what a hidden layer makes to what went in."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(FEATURES, 32), nn.Linear(32, FEATURES)

    def forward(self, x: Any) -> Any:
        return x + self.narrow(torch.relu(self.wide(x)))


class Shared(nn.Module):  # type: ignore[misc]
    """Uses what one ReLU makes twice: once straight on, once through a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(FEATURES, 8), nn.Linear(8, 2)

    def forward(self, x: Any) -> Any:
        hidden = torch.relu(self.wide(x))
        return self.narrow(hidden) + torch.sigmoid(hidden[:, :2])


MLP = nn.Sequential(
    nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)
)
CNN = image(
    nn.Conv2d(1, 4, 3, padding=1),
    nn.ReLU(),
    nn.AvgPool2d(2),
    nn.Conv2d(4, 8, 3, bias=False),
    nn.BatchNorm2d(8),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(8, 3),
)


@pytest.mark.parametrize(
    ("module", "bits", "relus"),
    [
        (MLP, 0, 0),
        (CNN, 2, 0),
        (image(nn.AvgPool2d((4, 2), stride=2), nn.Flatten()), 3, 0),
        (nn.Sequential(nn.Linear(FEATURES, 4), nn.ReLU()), 1, 0),
        (Residual(), 0, 0),
        (nn.Sequential(MLP, nn.Softmax(dim=1)), 0, 0),
        (nn.Sequential(nn.Linear(FEATURES, 4), nn.ReLU(), nn.Sigmoid()), 0, 1),
        (Shared(), 0, 1),
        (image(nn.AvgPool2d(3), nn.Flatten()), 0, 0),
        (image(nn.AvgPool2d(2, padding=1), nn.Flatten()), 0, 0),
        (nn.Sequential(nn.Linear(FEATURES, 4), nn.Tanh()), 0, 0),
    ],
    ids=[
        "two layers",
        "image",
        "windows that overlap",
        "relu at the end",
        "residual",
        "softmax after it",
        "sigmoid right after it",
        "used twice",
        "nine values",
        "padded average",
        "neither",
    ],
)
def test_answers_are_the_same_less_a_power_of_two(
    tmp_path: Path, module: Any, bits: int, relus: int
) -> None:
    path = tmp_path / "m.onnx"
    export(path, module)
    before, many = run(path), cells(path)
    assert double(path, FEATURES) == bits
    assert np.allclose(run(path) / 2**bits, before, atol=1e-5)
    assert operators(path).count("Relu") == relus
    assert cells(path) <= many


def _deep(layers: int, *end: Any) -> Any:
    body = [m for _ in range(layers - 1) for m in (nn.Linear(8, 8), nn.ReLU())]
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), *body, *end)


def _in_fixed_point(path: Path) -> Any:
    """Return answers with every weight at 9 bits."""
    model = onnx.load(str(path))
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float32:
            coarse = (np.rint(value * 512) / 512).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(coarse, tensor.name))
    onnx.save(model, str(path))
    return run(path)


def test_many_layers_before_a_sigmoid_stay_as_precise(tmp_path: Path) -> None:
    """Were its weights to take eight bits off, one bit would be left of them."""
    module = _deep(8, nn.Linear(8, 4), nn.Sigmoid(), nn.Linear(4, 1))
    with torch.no_grad():  # or the answer would hardly depend on the input
        for layer in module[:-3:2]:
            layer.weight.mul_(2.5)
    paths = tmp_path / "m.onnx", tmp_path / "coarse.onnx"
    for path in paths:
        export(path, module)
    exact = run(paths[0])
    plain = np.abs(_in_fixed_point(paths[1]) - exact).max()
    assert double(paths[0], FEATURES) == 0
    ours = np.abs(_in_fixed_point(paths[0]) - exact).max()
    assert ours < 4 * plain < np.ptp(exact) / 4


def test_deep_networks_gain_eight_bits_at_most(tmp_path: Path) -> None:
    """Each bit more would count in the digits of every value."""
    path = tmp_path / "m.onnx"
    export(path, _deep(12, nn.Linear(8, 2)))
    before = run(path)
    assert double(path, FEATURES) == 6
    assert operators(path).count("Relu") == 4
    assert np.allclose(run(path) / 2**6, before, atol=1e-5)


def test_a_relu_takes_four_cells_less(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    export(path, nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, 1)))
    many = cells(path)
    double(path, FEATURES)
    assert cells(path) == many - 4 * 32


def test_an_average_of_four_takes_a_tenth_of_the_cells(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    export(path, image(nn.AvgPool2d(2), nn.Flatten()))
    many = cells(path)
    double(path, FEATURES)
    assert many - cells(path) > 16 * 60
