"""Make ONNX nodes and constants with names of their own."""

from collections.abc import Sequence
from typing import Any

import numpy as np

Column = tuple[str, int]
"""One column of a tensor of shape (1, columns)."""


class Writer:
    """Makes nodes, which it keeps in order, and constants, which it adds to a graph."""

    def __init__(self, prefix: str, graph: Any) -> None:
        """Write nothing yet; every name will begin with the prefix."""
        self.nodes: list[Any] = []
        self._prefix, self._graph, self._count = prefix, graph, 0
        self._widths: dict[str, int] = {}

    def name(self) -> str:
        """Return a new name."""
        self._count += 1
        return f"{self._prefix}/{self._count}"

    def constant(self, value: Any) -> str:
        """Return the name of a new constant."""
        import onnx

        made = onnx.numpy_helper.from_array(np.asarray(value), self.name())
        self._graph.initializer.append(made)
        return str(made.name)

    def __call__(self, kind: str, *inputs: str, out: str = "", **how: Any) -> str:
        """Return the name of what a new node makes."""
        import onnx

        made = out or self.name()
        # ONNX Runtime names what it fuses after these, and fails on two of one name.
        name = f"{self._prefix}/node/{len(self.nodes)}"
        node = onnx.helper.make_node(kind, list(inputs), [made], name, **how)
        self.nodes.append(node)
        return made

    def columns(self, tensor: str, width: int) -> list[Column]:
        """Return the columns of a tensor of shape (1, width)."""
        self._widths[tensor] = width
        return [(tensor, i) for i in range(width)]

    def together(self, columns: Sequence[Column]) -> str:
        """Return a tensor of shape (1, columns); putting them together costs nothing.

        Args:
            columns: Of tensors that `columns` was asked for.
        """
        starts: dict[str, int] = {}
        width = 0
        for tensor, _ in columns:
            if tensor not in starts:
                starts[tensor] = width
                width += self._widths[tensor]
        whole = next(iter(starts))
        if len(starts) > 1:
            whole = self("Concat", *starts, axis=1)
        picked = [starts[tensor] + i for tensor, i in columns]
        if picked == list(range(width)):
            return whole
        return self("Gather", whole, self.constant(np.array(picked)), axis=1)
