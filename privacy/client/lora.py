"""Train adapters (LoRA) around layers of a PyTorch module, wherever those run.

    connect(model, spec, client)  # its layers are asked of a node, encrypted
    trainer = LoraTrainer(model, ["blocks.*.qkv"], rank=8)
    trainer.fit(batches, cross_entropy)
    torch.save(trainer.state(), "adapters.pt")

An adapter adds a product of two thin matrices to what a layer says. It and the rows it
is trained on stay here. Encrypted layers see ciphertexts of activations and, where they
were published with `trainable=True`, of gradients.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from privacy.child import Progress
from privacy.errors import FormatError, UnavailableError

__all__ = ["LoraTrainer"]

_STATE = ("down.weight", "up.weight")


class LoraTrainer:
    """Adapters around some layers of a module, and what trains them."""

    def __init__(
        self,
        module: Any,
        layers: Sequence[str],
        *,
        rank: int = 8,
        rate: float = 1e-2,
    ) -> None:
        """Freeze a module and put adapters around layers; they change nothing yet.

        Args:
            module: Changed in place; linear layers may be `connect`ed ones.
            layers: Their names as `named_modules` gives them; `*` stands for any text.
            rank: Width of the adapters, at least 1.
            rate: Learning rate of the optimizer (Adam).

        Raises:
            FormatError: A name matches no layer, or a layer is not linear; the module
                is as it was then.
            UnavailableError: PyTorch is not installed here.
        """
        if rank < 1 or not 0 < rate < math.inf:
            msg = f"rank {rank} and rate {rate}: expected at least 1, and above 0"
            raise FormatError(msg, code="not-trainable")
        torch, adapter = _torch(), _adapter()
        named = dict(module.named_modules())
        sizes = {path: _size(path, named[path]) for path in _matched(named, layers)}
        module.requires_grad_(requires_grad=False)
        self._adapters: dict[str, Any] = {}
        for path, (inputs, outputs) in sizes.items():
            made = adapter(named[path], inputs, outputs, rank)
            parent, _, last = path.rpartition(".")
            setattr(named[parent], last, made)
            self._adapters[path] = made
        self._module = module
        wanted = [p for a in self._adapters.values() for p in a.trained()]
        self._optimizer = torch.optim.Adam(wanted, lr=rate)

    def fit(
        self,
        batches: Iterable[tuple[Any, Any]],
        loss: Callable[[Any, Any], Any],
        *,
        progress: Progress = lambda _: None,
    ) -> list[float]:
        """Take a step for each batch and return what was lost before each.

        Args:
            batches: Pairs of what the module takes and what it should say.
            loss: From what the module says and what it should, a tensor of one number.
            progress: Called after each step with `{"stage", "done", "loss"}`.

        Raises:
            FormatError: The loss or a gradient is not finite (that step is not taken),
                or a layer was not published for training.
            PrivacyError: A layer could not be asked. Steps already taken stay.
        """
        losses: list[float] = []
        for given, wanted in batches:
            lost = loss(self._module(given), wanted)
            losses.append(float(lost.detach()))
            if not math.isfinite(losses[-1]):
                msg = f"the loss of step {len(losses)} is not finite: lower the rate"
                raise FormatError(msg, code="not-finite")
            self._optimizer.zero_grad()
            lost.backward()
            if not self._gradients_finite():
                msg = f"a gradient of step {len(losses)} is not finite: lower the rate"
                raise FormatError(msg, code="not-finite")
            self._optimizer.step()
            progress({"stage": "train", "done": len(losses), "loss": losses[-1]})
        return losses

    def _gradients_finite(self) -> bool:
        gradients = (p.grad for g in self._optimizer.param_groups for p in g["params"])
        return all(bool(g.isfinite().all()) for g in gradients if g is not None)

    def state(self) -> dict[str, Any]:
        """Return a copy of the adapters' matrices by name, to be saved."""
        return {name: weight.clone() for name, weight in self._weights().items()}

    def _weights(self) -> dict[str, Any]:
        return {
            f"{path}.{name}": getattr(made, name.partition(".")[0]).weight.detach()
            for path, made in self._adapters.items()
            for name in _STATE
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take adapters that `state` gave.

        Raises:
            FormatError: They are for other layers, or of another rank.
        """
        mine = self._weights()
        if mine.keys() != state.keys() or any(
            mine[name].shape != state[name].shape for name in mine
        ):
            msg = "the adapters are for other layers, or of another rank"
            raise FormatError(msg, code="adapters-mismatch")
        for name, weight in mine.items():
            weight.copy_(state[name])  # detached, but the same memory


def _matched(named: Mapping[str, Any], patterns: Sequence[str]) -> list[str]:
    found: dict[str, None] = {}
    for pattern in patterns:
        mine = [path for path in named if path and fnmatchcase(path, pattern)]
        if not mine:
            some = ", ".join([path for path in named if path][:8])
            msg = f"the module has no layer {pattern!r}; it has {some}, …"
            raise FormatError(msg, code="no-such-layer")
        found |= dict.fromkeys(mine)
    if not found:
        msg = "name at least one layer to put an adapter around"
        raise FormatError(msg, code="no-such-layer")
    return list(found)


def _size(path: str, layer: Any) -> tuple[int, int]:
    """Return a linear layer's inputs and outputs.

    Raises:
        FormatError: It is no linear layer.
    """
    kind = type(layer).__name__
    if kind == "Remote" and not layer.layer.window:
        return layer.layer.inputs, layer.layer.outputs
    if kind == "Linear":
        return layer.in_features, layer.out_features
    if kind == "Conv1D":  # Transformers' linear layer
        inputs, outputs = layer.weight.shape
        return int(inputs), int(outputs)
    msg = f"{path} is a {kind}: adapters go around linear layers only"
    raise FormatError(msg, code="unsupported-layer")


def _torch() -> Any:
    try:
        import torch
    except ImportError as exc:
        msg = "PyTorch is not installed: pip install torch, to train adapters"
        raise UnavailableError(msg, code="engine-missing") from exc
    return torch


def _adapter() -> Any:
    """Return the class of adapters; PyTorch is loaded only now."""
    nn = _torch().nn

    class Adapter(nn.Module):  # type: ignore[misc, name-defined]
        """A layer, plus a product of two thin matrices that starts at zero."""

        def __init__(self, layer: Any, inputs: int, outputs: int, rank: int) -> None:
            super().__init__()
            self.layer = layer
            like = next(layer.parameters(), None)  # an encrypted one may have none
            kind = {}
            if like is not None:  # a smaller type has no room for Adam's steps
                wide = _torch().promote_types(like.dtype, _torch().float32)
                kind = {"dtype": wide, "device": like.device}
            self.down = nn.Linear(inputs, rank, bias=False, **kind)
            self.up = nn.Linear(rank, outputs, bias=False, **kind)
            nn.init.zeros_(self.up.weight)

        def trained(self) -> list[Any]:
            return [self.down.weight, self.up.weight]

        def forward(self, x: Any) -> Any:
            given = self.layer(x)
            more = self.up(self.down(x.to(self.down.weight.dtype)))
            return given + more.to(given.dtype)

    return Adapter
