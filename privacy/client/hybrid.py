"""The data owner's side of a hybrid model: some layers run encrypted on a node.

    gpt = Gpt()
    usage = connect(gpt, parse_hybrid(raw), client)
    gpt.load_state_dict(torch.load("client.pt"))
    logits = gpt(ids)  # blind layers: encrypt, run, verify the receipt, decrypt

Every other layer runs here, in the clear, with PyTorch. Gradients pass through layers
that were published for training, so adapters around them can be trained.
"""

import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from privacy.errors import FormatError, PrivacyError, UnavailableError
from privacy.hybrid import HybridSpec, RemoteLayer, from_rows, to_rows
from privacy.modes import Mode
from privacy.runs import MAX_ROWS

if TYPE_CHECKING:
    from privacy.client import Client

_MAX_RESULT_BYTES = 1 << 26
"""Rows are split into jobs so that no job's encrypted result is larger."""


@dataclass(slots=True)
class LayerUsage:
    """What one layer has cost so far, forwards and backwards."""

    jobs: int = 0
    rows: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0
    checks: set[str] = field(default_factory=set)


def connect(module: Any, spec: HybridSpec, client: "Client") -> dict[str, LayerUsage]:
    """Replace layers of a PyTorch module by ones that a node computes encrypted.

    Args:
        module: Changed in place. What it holds for these layers is dropped, but for
            the biases: build it with any weights, connect, then `load_state_dict`.
        spec: What the publisher wrote; its digests pin every model.
        client: Of the gateway that serves them; it must stay open.

    Returns:
        What each layer has cost, kept up to date as the module runs.

    Raises:
        FormatError: The module has no such layer.
        UnavailableError: PyTorch is not installed here.
        PrivacyError: A model cannot be had, or is not the pinned one.
    """
    remote = _remote_layer()
    named = dict(module.named_modules())
    missing = [layer.path for layer in spec.layers if layer.path not in named]
    if missing:
        msg = f"the module has no layer {missing[0]!r}: is it the one of {spec.name}?"
        raise FormatError(msg, code="no-such-layer")
    usage = {layer.path: LayerUsage() for layer in spec.layers}
    made = {
        layer.path: remote(
            layer, getattr(named[layer.path], "bias", None), client, usage[layer.path]
        )
        for layer in spec.layers
    }
    for path, stand_in in made.items():  # only now: all or none are replaced
        parent, _, last = path.rpartition(".")
        setattr(named[parent], last, stand_in)
    return usage


def _remote_layer() -> Any:
    """Return the class that stands for a layer; PyTorch is loaded only now."""
    try:
        import torch
    except ImportError as exc:
        msg = "PyTorch is not installed: pip install torch, to run the clear layers"
        raise UnavailableError(msg, code="engine-missing") from exc

    class Product(torch.autograd.Function):  # type: ignore[misc]
        """Rows times the weight forwards, gradients times the weight backwards."""

        @staticmethod
        def forward(ctx: Any, rows: Any, forwards: _Ask, backwards: _Ask) -> Any:
            ctx.backwards = backwards
            return forwards(rows)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return ctx.backwards(gradient), None, None

    class Remote(torch.nn.Module):  # type: ignore[misc]
        """The layer, but for its weight."""

        def __init__(
            self, layer: RemoteLayer, bias: Any, client: "Client", usage: LayerUsage
        ) -> None:
            super().__init__()
            self.layer = layer
            self.register_parameter("bias", bias)
            shape = layer.inputs, layer.outputs
            self.forwards = _Ask(layer.model, shape, client, usage)
            self.backwards = _Ask(layer.backward, shape[::-1], client, usage)

        def forward(self, x: Any) -> Any:
            rows = to_rows(x, self.layer)
            out = Product.apply(rows, self.forwards, self.backwards)
            if self.bias is not None:
                out = out + self.bias
            return from_rows(out, x, self.layer)

    return Remote


class _Ask:
    """Asks one published model to multiply rows by its weight."""

    def __init__(
        self, model: str, shape: tuple[int, int], client: "Client", usage: LayerUsage
    ) -> None:
        """Fetch and check the model's public files; nothing private is sent yet."""
        self._model = model
        self._client = client
        self._usage = usage
        if not model:
            return
        manifest = client.fetch(model).manifest
        if (len(manifest.columns), manifest.outputs) != shape:
            msg = f"{model} is of another shape than the layer it stands for"
            raise FormatError(msg, code="hybrid-malformed")
        row_bytes = int(manifest.mode(Mode.FHE).cost["output_bytes"])
        self._rows = max(1, min(MAX_ROWS, _MAX_RESULT_BYTES // row_bytes))

    def __call__(self, x: Any) -> Any:
        """Return a tensor (rows, outputs) for a tensor (rows, inputs).

        Each row is divided by its greatest value, so that all use the whole range.

        Raises:
            FormatError: A value is not finite, or the layer was not published for this.
        """
        if not self._model:
            msg = (
                "the layer cannot pass gradients: publish it with trainable=True, or "
                "run the module under torch.no_grad()"
            )
            raise FormatError(msg, code="not-trainable")
        rows = x.detach().double().cpu().numpy()
        if not np.isfinite(rows).all():
            raise FormatError("a layer's input is not finite", code="not-finite")
        greatest = np.abs(rows).max(axis=1, keepdims=True)
        greatest[greatest == 0] = 1.0
        started = time.perf_counter()
        parts = [
            self._job(rows[at : at + self._rows] / greatest[at : at + self._rows])
            for at in range(0, len(rows), self._rows)
        ]
        self._usage.seconds += time.perf_counter() - started
        return x.new_tensor(np.concatenate(parts) * greatest)

    def _job(self, rows: Any) -> Any:
        answer = self._client.infer(self._model, rows.tolist(), mode=Mode.FHE)
        # The receipt stays. Its output is megabytes, and of no use once decrypted.
        answer.receipt.with_name("output.bin").unlink(missing_ok=True)
        with suppress(PrivacyError):  # it expires there in any case
            self._client.delete_result(answer.job_id)
        used = self._usage
        used.jobs += 1
        used.rows += len(rows)
        used.bytes_up += answer.bytes_up
        used.bytes_down += answer.bytes_down
        used.checks |= {check.name for check in answer.checks}
        return np.array([row.outputs for row in answer.rows])
