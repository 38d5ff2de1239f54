"""Hybrid models: a PyTorch module of which some layers run elsewhere, encrypted.

`hybrid.json` names the layers and the published model that computes each. Publisher
and data owner share this file and how a layer's input becomes rows and back:

    {"format": "privacy-compute/hybrid/1", "layers": [{"path": "blocks.0.qkv", …}], …}

The published model multiplies by the layer's weight alone, on rows from -1 to 1: the
data owner divides each row by its greatest value, multiplies what comes back, and adds
the bias, so no row is out of range and none needs calibration data. A convolution is a
linear layer on patches (im2col), one row for each place it looks at.
"""

from dataclasses import asdict, dataclass
from typing import Any

from privacy.encoding import Json, canonical_json, parse_canonical
from privacy.errors import FormatError

FORMAT = "privacy-compute/hybrid/1"
_WINDOW = ("kernel_size", "stride", "padding", "dilation")


@dataclass(frozen=True, slots=True)
class RemoteLayer:
    """One layer that runs encrypted.

    Attributes:
        path: Its name in the module, as `named_modules` gives it.
        model: The published model, `name/version@sha256`.
        inputs: Width of a row that is encrypted.
        outputs: Width of a row that comes back.
        backward: The model that multiplies by the transposed weight, for gradients;
            empty if the layer was not published for training.
        window: For a convolution: kernel size, stride, padding, dilation, each (height,
            width); empty for a linear layer.
    """

    path: str
    model: str
    inputs: int
    outputs: int
    backward: str = ""
    window: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class HybridSpec:
    """Which layers of a module run encrypted, and where."""

    name: str
    layers: tuple[RemoteLayer, ...]

    def to_bytes(self) -> bytes:
        """Return the content of hybrid.json."""
        return canonical_json({"format": FORMAT, **asdict(self)})


def parse_hybrid(raw: bytes) -> HybridSpec:
    """Return what a hybrid.json says.

    Raises:
        FormatError: It is none, or of another version.
    """
    value = parse_canonical(raw, what="hybrid.json", limit=1 << 22)
    if value.pop("format", None) != FORMAT:
        msg = f"hybrid.json's format is not {FORMAT}: use the version that published it"
        raise FormatError(msg, code="hybrid-malformed")
    try:
        spec = HybridSpec(value.pop("name"), tuple(map(_layer, value.pop("layers"))))
    except (KeyError, TypeError, ValueError) as exc:
        msg = f"hybrid.json lacks or misnames a member: {exc}"
        raise FormatError(msg, code="hybrid-malformed") from exc
    paths = {layer.path for layer in spec.layers}
    named = isinstance(spec.name, str)
    if value or not named or not paths or len(paths) != len(spec.layers):
        msg = "hybrid.json has members or layers that it should not have, or no layer"
        raise FormatError(msg, code="hybrid-malformed")
    return spec


def _layer(value: Json) -> RemoteLayer:
    window = tuple((int(h), int(w)) for h, w in value["window"])
    layer = RemoteLayer(**{**value, "window": window})
    texts = {type(value[name]) for name in ("path", "model", "backward")} == {str}
    sizes = {type(value[name]) for name in ("inputs", "outputs")} == {int}
    fits = texts and sizes and min(layer.inputs, layer.outputs) > 0
    if not fits or len(window) not in {0, len(_WINDOW)}:
        msg = "a layer is malformed"
        raise ValueError(msg)
    return layer


def to_rows(x: Any, layer: RemoteLayer) -> Any:
    """Return a layer's input tensor as rows, shape (rows, inputs).

    Raises:
        FormatError: The tensor is of another width.
    """
    if layer.window:
        from torch.nn.functional import unfold

        kernel, stride, padding, dilation = layer.window
        patches = unfold(
            x, kernel, stride=stride, padding=padding, dilation=dilation
        )  # (images, inputs, places)
        x = patches.transpose(1, 2)
    if x.shape[-1] != layer.inputs:
        msg = (
            f"layer {layer.path} was given {tuple(x.shape)}, its rows have "
            f"{layer.inputs} values: is this the module that was published?"
        )
        raise FormatError(msg, code="wrong-feature-count")
    return x.reshape(-1, layer.inputs)


def from_rows(rows: Any, x: Any, layer: RemoteLayer) -> Any:
    """Return output rows, shape (rows, outputs), as the layer would for input `x`."""
    if not layer.window:
        return rows.reshape(*x.shape[:-1], layer.outputs)
    height, width = (
        (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, pad, dilation in zip(
            x.shape[-2:], *layer.window, strict=True
        )
    )
    images = rows.reshape(x.shape[0], height * width, layer.outputs)
    return images.transpose(1, 2).reshape(x.shape[0], layer.outputs, height, width)
