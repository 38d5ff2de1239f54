"""Write recurrent layers out, step by step, in operators that circuits compute rightly.

EZKL compiles `RNN`, `LSTM` and `GRU` and gives wrong answers without a word. With a
batch of one every length is known, so the loop can be written out: the same numbers,
in products, sums, sigmoids and hyperbolic tangents. What is not written out (two
directions, lengths that vary, other activations) stays, and the accuracy gate refuses
it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from privacy.errors import BackendError
from privacy.zkml.onnx_prep import inner_values, moving
from privacy.zkml.writer import Writer

_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
_ATTRIBUTES: dict[str, set[str]] = {
    "RNN": set(),
    "LSTM": set(),
    "GRU": {"linear_before_reset"},
}
_PLAIN: dict[str, object] = {"direction": b"forward", "layout": 0, "input_forget": 0}


def unroll(path: Path) -> None:
    """Write a model's recurrent layers out, in place.

    Args:
        path: ONNX, one input of fixed shape; see `privacy.zkml.onnx_prep.fix_batch`.
    """
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    layers = [n for n in graph.node if n.op_type in _ATTRIBUTES and _is_plain(n)]
    wanted = {name for node in layers for name in node.input if name}
    seen = _values(model, sorted(wanted)) if layers else _Values()
    for node in layers:
        given = dict(zip(_INPUTS, node.input, strict=False))
        if any(given[n] not in seen for n in given if given[n] and n != "X"):
            continue  # weights or states that depend on the input
        at = list(graph.node).index(node)
        nodes = _written_out(node, given, seen, graph)
        graph.node.remove(node)
        for offset, step in enumerate(nodes):
            graph.node.insert(at + offset, step)
    if layers:
        _drop_unused(graph)
        onnx.save(model, str(path))


def _is_plain(node: Any) -> bool:
    given = dict(zip(_INPUTS, node.input, strict=False))
    if given.get("sequence_lens") or given.get("P"):
        return False
    known = {"hidden_size", *_ATTRIBUTES[node.op_type]}
    return all(
        a.name in known or _PLAIN.get(a.name) in {a.s or a.i, a.i}
        for a in node.attribute
    )


@dataclass(slots=True)
class _Values:
    """What tensors hold: constants, and the shapes of the others."""

    constants: dict[str, Any] = field(default_factory=dict)
    shapes: dict[str, Sequence[int]] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.constants


def _values(model: Any, names: Sequence[str]) -> _Values:
    """Return what tensors hold that the input does not decide, and others' shapes."""
    size = model.graph.input[0].type.tensor_type.shape.dim[-1].dim_value
    made = inner_values(model, names)(np.zeros(size))
    decided = moving(model.graph)
    found = _Values()
    for name, value in zip(names, made, strict=True):
        found.shapes[name] = value.shape
        if name not in decided:
            found.constants[name] = value
    return found


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer's weights by gate, each of shape (hidden, …), and its writer."""

    write: Writer
    of_input: Any
    of_state: Any
    input_bias: Any
    state_bias: Any

    def from_input(self, gate: int, x: str, bias: Any) -> str:
        """Return a gate's part that the step's input makes, with a bias."""
        return self._gemm(x, self.of_input[gate], bias)

    def from_state(self, gate: int, h: str, bias: Any) -> str:
        """Return a gate's part that the state makes, with a bias."""
        return self._gemm(h, self.of_state[gate], bias)

    def gate(self, gate: int, x: str, h: str, *, activation: str) -> str:
        """Return a whole gate."""
        bias = self.input_bias[gate] + self.state_bias[gate]
        both = self.write(
            "Add",
            self.from_input(gate, x, bias),
            self.from_state(gate, h, np.zeros_like(bias)),
        )
        return self.write(activation, both)

    def _gemm(self, row: str, weights: Any, bias: Any) -> str:
        parts = self.write.constant(weights), self.write.constant(bias)
        return self.write("Gemm", row, *parts, transB=1)


State = tuple[str, str]
"""Names of a step's hidden state and, of an LSTM, its cell."""


def _rnn(layer: _Layer, x: str, state: State, _reset_after: bool) -> State:  # noqa: FBT001
    return layer.gate(0, x, state[0], activation="Tanh"), ""


def _lstm(layer: _Layer, x: str, state: State, _reset_after: bool) -> State:  # noqa: FBT001
    write, (h, c) = layer.write, state
    enter, leave, keep = (layer.gate(i, x, h, activation="Sigmoid") for i in range(3))
    new = layer.gate(3, x, h, activation="Tanh")
    c = write("Add", write("Mul", keep, c), write("Mul", enter, new))
    return write("Mul", leave, write("Tanh", c)), c


def _gru(layer: _Layer, x: str, state: State, reset_after: bool) -> State:  # noqa: FBT001
    write, h = layer.write, state[0]
    update, reset = (layer.gate(i, x, h, activation="Sigmoid") for i in range(2))
    if reset_after:
        kept = write("Mul", reset, layer.from_state(2, h, layer.state_bias[2]))
        new = layer.from_input(2, x, layer.input_bias[2])
    else:
        bias = layer.input_bias[2] + layer.state_bias[2]
        rest = write("Mul", reset, h)
        kept = layer.from_state(2, rest, np.zeros_like(bias))
        new = layer.from_input(2, x, bias)
    new = write("Tanh", write("Add", new, kept))
    return write("Add", new, write("Mul", update, write("Sub", h, new))), ""


_STEPS: dict[str, tuple[int, Callable[[_Layer, str, State, bool], State]]] = {
    "RNN": (1, _rnn),
    "LSTM": (4, _lstm),
    "GRU": (3, _gru),
}
"""Gates in the weights, and one step."""


def _written_out(
    node: Any, given: dict[str, str], seen: _Values, graph: Any
) -> list[Any]:
    gates, step = _STEPS[node.op_type]
    write = Writer(f"unrolled/{node.output[0] or node.output[1]}", graph)
    steps, batch, _ = seen.shapes[given["X"]]
    if batch != 1:
        raise BackendError("a recurrent layer has another batch than one row")
    weights, recurrent = (seen.constants[given[n]][0] for n in ("W", "R"))
    hidden = recurrent.shape[1]
    biases = np.zeros(2 * gates * hidden, np.float32)
    if given.get("B"):
        biases = seen.constants[given["B"]][0]
    of_input, of_state = biases.reshape(2, gates, hidden)
    layer = _Layer(
        write,
        weights.reshape(gates, hidden, -1),
        recurrent.reshape(gates, hidden, hidden),
        of_input,
        of_state,
    )
    h, c = (
        write.constant(
            seen.constants[given[n]][0] if given.get(n) else np.zeros((1, hidden), "f")
        )
        for n in ("initial_h", "initial_c")
    )
    after = any(a.name == "linear_before_reset" and a.i for a in node.attribute)
    states = []
    for t in range(steps):
        x = write("Gather", given["X"], write.constant(np.int64(t)), axis=0)
        h, c = step(layer, x, (h, c), after)
        states.append(h)
    _give(write, node, states, c, hidden)
    return write.nodes


def _give(write: Writer, node: Any, states: list[str], cell: str, hidden: int) -> None:
    """Write the layer's outputs: all states, the last one, the last cell."""
    outputs = [*node.output, "", "", ""]
    if outputs[0]:
        four = write.constant(np.array([1, 1, 1, hidden]))
        rows = [write("Reshape", h, four) for h in states]
        write("Concat", *rows, out=outputs[0], axis=0)
    three = write.constant(np.array([1, 1, hidden]))
    for name, value in ((outputs[1], states[-1]), (outputs[2], cell)):
        if name:
            write("Reshape", value, three, out=name)


def _drop_unused(graph: Any) -> None:
    """Remove nodes that nothing needs any more, the shapes of states among them."""
    while True:
        used = {n for node in graph.node for n in node.input}
        used |= {o.name for o in graph.output}
        unused = [n for n in graph.node if not used & set(n.output)]
        if not unused:
            break
        for node in unused:
            graph.node.remove(node)
    kept = [i for i in graph.initializer if i.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
