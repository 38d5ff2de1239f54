"""hybrid.json and the rows that layers become."""

import dataclasses
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from privacy.encoding import canonical_json
from privacy.errors import FormatError
from privacy.hybrid import HybridSpec, RemoteLayer, from_rows, parse_hybrid, to_rows

LINEAR = RemoteLayer("a.b", "m.a.b/1@" + "0" * 64, 4, 3)
SPEC = HybridSpec("m", (LINEAR,))


def test_a_spec_survives_its_own_file():
    window = ((3, 3), (2, 1), (1, 0), (1, 1))
    conv = dataclasses.replace(LINEAR, path="c", backward="x/1", window=window)
    spec = HybridSpec("m", (LINEAR, conv))
    assert parse_hybrid(spec.to_bytes()) == spec


@pytest.mark.parametrize(
    "change",
    [
        {"format": "privacy-compute/hybrid/2"},
        {"layers": []},
        {"layers": [{}]},
        {"more": 1},
        {"name": 3},
    ],
)
def test_parse_hybrid_refuses_another_file(change):
    value = {**json.loads(SPEC.to_bytes()), **change}
    with pytest.raises(FormatError, match=r"hybrid\.json"):
        parse_hybrid(canonical_json(value))


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("path", 1),
        ("model", None),
        ("inputs", 0),
        ("outputs", True),
        ("window", [[3, 3]]),
        ("window", [[3], [1], [1], [1]]),
        ("window", 7),
        ("odd", 1),
    ],
)
def test_parse_hybrid_refuses_a_malformed_layer(member, value):
    made = json.loads(SPEC.to_bytes())
    made["layers"][0][member] = value
    with pytest.raises(FormatError, match=r"hybrid\.json"):
        parse_hybrid(canonical_json(made))


def test_parse_hybrid_refuses_a_layer_named_twice():
    with pytest.raises(FormatError):
        parse_hybrid(HybridSpec("m", (LINEAR, LINEAR)).to_bytes())


@given(st.binary(max_size=200))
def test_any_bytes_give_a_spec_or_a_format_error(raw):
    with pytest.raises(FormatError):
        parse_hybrid(raw)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1])
def test_a_convolution_is_its_weight_times_rows(stride, padding):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(2, 3, (3, 2), stride=stride, padding=padding, dilation=1)
    window = conv.kernel_size, conv.stride, conv.padding, conv.dilation
    layer = RemoteLayer("c", "m/1", 12, 3, window=window)
    x = torch.rand(2, 2, 6, 5)
    rows = to_rows(x, layer)
    told = from_rows(rows @ conv.weight.reshape(3, -1).T + conv.bias, x, layer)
    assert torch.allclose(told, conv(x), atol=1e-6)


def test_rows_of_another_width_are_refused():
    with pytest.raises(FormatError, match=r"layer a\.b .* 4 values"):
        to_rows(torch.zeros(2, 5), LINEAR)
