r"""Train a small network: 13 measurements of a wine, 16 neurons, three cultivars.

    python examples/train_wine_net.py var/in
    privacy publish var/in/wine_net.pt --data var/in/wine_net.csv --name wine \
        --task classification --activation softmax --label cultivar \
        --classes cultivar-1,cultivar-2,cultivar-3

A network carries no scaler that publishing could take apart, so this one is trained,
and must be asked, on standardised measurements; the table holds those.
"""

import sys
from pathlib import Path
from typing import Any

CLASSES = ("cultivar-1", "cultivar-2", "cultivar-3")


def train() -> tuple[Any, Any, list[str]]:
    """Return the network, standardised rows it was not trained on, their cultivars.

    The network ends in logits: `softmax` is left to whoever reads the answer.
    """
    import pandas as pd
    import torch
    from sklearn.datasets import load_wine
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    table, truth = load_wine(return_X_y=True, as_frame=True)
    seen, kept, seen_truth, kept_truth = train_test_split(
        table, truth.to_numpy(), test_size=0.5, random_state=0, stratify=truth
    )
    scaler = StandardScaler().fit(seen.to_numpy())
    rows = torch.tensor(scaler.transform(seen.to_numpy()), dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(13, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)
        )
    _fit(model, rows, torch.tensor(seen_truth))
    scaled = pd.DataFrame(scaler.transform(kept.to_numpy()), columns=table.columns)
    return model.eval(), scaled, [CLASSES[i] for i in kept_truth]


def _fit(model: Any, rows: Any, truth: Any, *, steps: int = 200) -> None:
    import torch

    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, weight_decay=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(rows), truth).backward()
        optimizer.step()


def main(folder: Path) -> None:
    """Write `wine_net.pt` (TorchScript) and `wine_net.csv`, as `publish` takes them."""
    import torch

    model, table, truth = train()
    folder.mkdir(parents=True, exist_ok=True)
    example = torch.tensor(table.to_numpy()[:2], dtype=torch.float32)
    torch.jit.save(torch.jit.trace(model, example), str(folder / "wine_net.pt"))
    table.assign(cultivar=truth).to_csv(folder / "wine_net.csv", index=False)
    print(f"wrote {folder / 'wine_net.pt'} and {folder / 'wine_net.csv'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
