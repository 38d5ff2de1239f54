"""Small dense networks, trained here."""

import io
from itertools import pairwise

import torch


def trained_net(data, *hidden, activation=torch.nn.ReLU, classes=2):
    """Return a network as ONNX and its raw outputs on the held rows.

    `data` is training rows, held rows, training labels, held labels.
    """
    widths = (data[0].shape[1], *hidden)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = []
        for pair in pairwise(widths):
            layers += [torch.nn.Linear(*pair), activation()]
        net = torch.nn.Sequential(*layers, torch.nn.Linear(widths[-1], classes))
    optimizer = torch.optim.Adam(net.parameters(), 0.02, weight_decay=1e-3)
    for _ in range(150):
        optimizer.zero_grad()
        outputs = net(torch.tensor(data[0]))
        torch.nn.functional.cross_entropy(outputs, torch.tensor(data[2])).backward()
        optimizer.step()
    buffer = io.BytesIO()
    torch.onnx.export(
        net,
        torch.zeros(1, widths[0]),
        buffer,
        input_names=["input"],
        output_names=["output"],
        dynamic_axes={"input": {0: "rows"}, "output": {0: "rows"}},
        opset_version=14,
    )
    return buffer.getvalue(), net(torch.tensor(data[1])).detach().numpy()
