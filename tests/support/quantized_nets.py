"""Networks trained with quantization on iris, in a second."""

from typing import Any

import numpy as np
from sklearn.datasets import load_iris
from sklearn.preprocessing import scale


def iris() -> tuple[Any, Any]:
    """Return standardised rows, float32, and labels."""
    rows, truth = load_iris(return_X_y=True)
    return scale(rows).astype(np.float32), truth


def brevitas_net(*, bits: int = 3, hidden: int = 8, **weight: Any) -> Any:
    """Return a trained 4-8-3 network with layers of Brevitas.

    Args:
        bits: Of weights and activations; inputs have one more.
        hidden: Neurons.
        weight: More for the linear layers, such as another weight quantizer.
    """
    import brevitas.nn as qnn
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kind = {"weight_bit_width": bits, "bias_quant": None, **weight}
            self.seen = qnn.QuantIdentity(bit_width=bits + 1, return_quant_tensor=True)
            self.first = qnn.QuantLinear(4, hidden, bias=True, **kind)
            self.act = qnn.QuantReLU(bit_width=bits, return_quant_tensor=True)
            self.last = qnn.QuantLinear(hidden, 3, bias=True, **kind)

        def forward(self, x: Any) -> Any:
            return self.last(self.act(self.first(self.seen(x))))

    torch.manual_seed(0)
    net, (rows, truth) = Net(), iris()
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        made = net(torch.tensor(rows))
        torch.nn.functional.cross_entropy(made, torch.tensor(truth)).backward()
        optimizer.step()
    return net.eval()
