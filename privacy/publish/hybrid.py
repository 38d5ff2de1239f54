"""Publish chosen layers of a PyTorch module, each as a model of mode `fhe`.

    spec = publish_layers(gpt, ["blocks.*.qkv"], name="gpt", store=Path("models"))
    Path("hybrid.json").write_bytes(spec.to_bytes())
    torch.save(client_state(gpt, spec), "client.pt")  # all else of the module

Linear layers and convolutions need no look-ups, so data owners need no evaluation keys.
Whoever may ask a linear layer often enough can solve for its weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from privacy.bundle import Bundle
from privacy.child import Children, Progress
from privacy.encoding import Json
from privacy.errors import BackendError, FormatError
from privacy.hybrid import HybridSpec, RemoteLayer
from privacy.modes import Mode
from privacy.publish import publish

N_BITS = 10
_ROWS = 100

__all__ = ["client_state", "publish_layers"]


def publish_layers(  # noqa: PLR0913 - every one is a choice of the publisher's
    module: Any,
    layers: Sequence[str],
    *,
    name: str,
    store: Path,
    n_bits: int = N_BITS,
    trainable: bool = False,
    version: str | None = None,
    home: Path | None = None,
    progress: Progress = lambda _: None,
) -> HybridSpec:
    """Publish layers of a module under `store` and return what data owners need.

    Args:
        module: A PyTorch module; it is not changed.
        layers: Names of layers as `named_modules` gives them; `*` stands for any text.
        name: Each layer becomes the model `NAME.LAYER`.
        store: Folder of published models.
        n_bits: Bits of activations and of weights; more are closer and slower.
        trainable: Publish the transposed weights too, as `NAME.LAYER.backward`, so that
            data owners can train adapters (LoRA) around the layers.
        version: Of every layer's model; by default one more than its newest.
        home: Holds the publisher's key; see `privacy.publish.publish`.
        progress: Called with `{"layer", "stage", …}` as work goes on.

    Raises:
        FormatError: A name matches no layer, or a layer is of another kind, or its
            weight is another's too.
        BackendError: A layer cannot run encrypted.
    """
    chosen = _choose(module, layers)
    done = []
    with Children() as children:

        def serve(path: str, weight: Any) -> str:
            bundle = publish(
                _estimator(weight),
                _rows(weight.shape[1]),
                name=f"{name}.{path}".lower(),
                store=store,
                version=version,
                home=home,
                modes=(Mode.FHE,),
                options={Mode.FHE: {"n_bits": n_bits}},
                progress=_tell(progress, path),
                run=children.run,
            )
            return _reference(path, bundle)

        for layer, weight in chosen:
            model = serve(layer.path, weight)
            backward = serve(f"{layer.path}.backward", weight.T) if trainable else ""
            done.append(replace(layer, model=model, backward=backward))
    return HybridSpec(name=name, layers=tuple(done))


def client_state(module: Any, spec: HybridSpec) -> dict[str, Any]:
    """Return the module's state without the weights of the layers that run elsewhere.

    Give it to data owners: `load_state_dict` takes it once `connect` replaced them. It
    holds those layers' biases, which a row of zeros would tell anyway.

    Raises:
        FormatError: A layer's weight is another's too.
    """
    paths = [layer.path for layer in spec.layers]
    _check_apart(module, paths)
    return {k: v for k, v in module.state_dict().items() if not _is_kept_back(k, paths)}


def _is_kept_back(name: str, paths: Sequence[str]) -> bool:
    """Whether an entry of a state is a chosen layer's, and not its bias."""
    return any(name.startswith(f"{p}.") and name != f"{p}.bias" for p in paths)


def _check_apart(module: Any, paths: Sequence[str]) -> None:
    """Refuse layers whose weight is another's too: data owners would get it there.

    Raises:
        FormatError: One is, as an embedding that a language model's head shares.
    """
    state = module.state_dict()
    place = {name: t.untyped_storage().data_ptr() for name, t in state.items()}
    hidden = {place[n]: n for n in state if _is_kept_back(n, paths)}
    for name in state:
        if not _is_kept_back(name, paths) and place[name] in hidden:
            msg = (
                f"{hidden[place[name]]} is {name} too, which data owners get: choose "
                "another layer, or give each a weight of its own"
            )
            raise FormatError(msg, code="shared-weight")


Chosen = tuple[RemoteLayer, Any]
"""A layer that has no model yet, and its weight, (outputs, inputs)."""


def _choose(module: Any, patterns: Sequence[str]) -> list[Chosen]:
    named = {path: layer for path, layer in module.named_modules() if path}
    paths: dict[str, None] = {}
    for pattern in patterns:
        found = [path for path in named if fnmatchcase(path, pattern)]
        if not found:
            some = ", ".join(list(named)[:8])
            msg = f"the module has no layer {pattern!r}; it has {some}, …"
            raise FormatError(msg, code="no-such-layer")
        paths |= dict.fromkeys(found)
    if not paths:
        msg = "name at least one layer to run encrypted"
        raise FormatError(msg, code="no-such-layer")
    _check_apart(module, list(paths))
    return [_describe(path, named[path]) for path in paths]


def _describe(path: str, layer: Any) -> Chosen:
    kind = type(layer).__name__
    if kind not in {"Linear", "Conv1D", "Conv2d"}:
        msg = (
            f"{path} is a {kind}: only Linear, Conv2d and Conv1D (of GPT-2) layers run "
            "encrypted in a hybrid model"
        )
        raise FormatError(msg, code="unsupported-layer")
    weight = layer.weight.detach().double().cpu().numpy()
    window: tuple[tuple[int, int], ...] = ()
    if kind == "Conv1D":  # Transformers keeps it as (inputs, outputs)
        weight = weight.T
    if kind == "Conv2d":
        window = _window(path, layer)
        weight = weight.reshape(len(weight), -1)
    if not np.isfinite(weight).all():
        raise FormatError(f"{path} has weights that are not finite", code="not-finite")
    outputs, inputs = weight.shape
    return RemoteLayer(path, "", inputs, outputs, window=window), weight


def _window(path: str, layer: Any) -> tuple[tuple[int, int], ...]:
    plain = layer.groups == 1 and layer.padding_mode == "zeros"
    if not plain or isinstance(layer.padding, str):
        msg = f"{path} has groups, or padding that is not a number of zeros"
        raise FormatError(msg, code="unsupported-layer")
    return layer.kernel_size, layer.stride, layer.padding, layer.dilation


def _rows(inputs: int) -> Any:
    """Return rows over the whole range; the corners are added where it is compiled."""
    rows = np.random.default_rng(0).uniform(-1, 1, size=(_ROWS, inputs))
    rows[::2] = np.sign(rows[::2])
    return rows


def _estimator(weight: Any) -> Any:
    """Return the layer as the linear regression that it is."""
    from sklearn.linear_model import LinearRegression

    made = LinearRegression()
    made.coef_, made.intercept_ = weight, np.zeros(len(weight))
    made.n_features_in_ = weight.shape[1]
    return made


def _reference(path: str, bundle: Bundle) -> str:
    part = bundle.manifest.modes[Mode.FHE]
    if not part.available:
        raise BackendError(f"layer {path}: {part.reason}", code="no-mode-serves")
    return f"{bundle.manifest.name}/{bundle.manifest.version}@{bundle.sha256}"


def _tell(progress: Progress, path: str) -> Callable[[Json], None]:
    return lambda event: progress({"layer": path, **event})
