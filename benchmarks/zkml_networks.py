"""Networks that proofs are measured on; each takes rows and shapes them itself."""

from pathlib import Path
from typing import Any

KINDS = ("cnn", "lenet", "transformer")
_STEPS = 60


def train(kind: str, x: Any, y: Any, folder: Path) -> Path:
    """Return a network trained on rows, as TorchScript."""
    import torch

    torch.manual_seed(0)
    net = {"cnn": _cnn, "lenet": _lenet, "transformer": _transformer}[kind]()
    rows = torch.tensor(x, dtype=torch.float32)
    trained = train_module(net, rows, y, rate=1e-2 if kind == "cnn" else 3e-3)
    torch.jit.save(torch.jit.trace(trained, rows[:1]), str(folder / "model.pt"))
    return folder / "model.pt"


def train_module(net: Any, x: Any, y: Any, *, rate: float = 1e-2) -> Any:
    """Return a network after some steps, on labels or on values."""
    import torch

    rows, truth = torch.as_tensor(x), torch.as_tensor(y)
    loss = torch.nn.functional.mse_loss
    if not truth.is_floating_point():
        loss = torch.nn.functional.cross_entropy
    optimizer = torch.optim.Adam(net.parameters(), rate)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        loss(net(rows), truth).backward()
        optimizer.step()
    return net.eval()


def _cnn() -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 10),
    )


def _lenet() -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def _transformer() -> Any:
    """Return one block on 8 tokens of width 16: attention, then a dense layer."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(8, 16)
            self.ask, self.offer, self.value = (nn.Linear(16, 16) for _ in range(3))
            self.join = nn.Linear(16, 16)
            self.wide, self.narrow = nn.Linear(16, 32), nn.Linear(32, 16)
            self.classes = nn.Linear(128, 10)

        def forward(self, x: Any) -> Any:
            tokens = self.embed(x.reshape(-1, 8, 8))
            scores = self.ask(tokens) @ self.offer(tokens).transpose(1, 2) / 4.0
            seen = torch.softmax(scores, dim=2) @ self.value(tokens)
            tokens = tokens + self.join(seen)
            tokens = tokens + self.narrow(torch.relu(self.wide(tokens)))
            return self.classes(tokens.reshape(-1, 128))

    return Block()
