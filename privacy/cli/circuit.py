"""What a model's FHE circuit is, in words, from what its manifest says."""

from typing import Any

from privacy.cli.output import out, safe
from privacy.encoding import Json

_WORDS = {
    "splits": {
        "hidden": "splits hidden: clients get quantiles of the calibration rows, not "
        "the trees' thresholds",
        "revealed": "splits revealed: clients get every threshold of the trees",
    },
    "answer": {
        "sums": "answer: one encrypted sum an output, over all trees",
        "leaves": "answer: the number of each tree's leaf; clients get what they hold",
    },
}
"""What each choice of a publisher means for clients."""


def show_circuit(params: Json) -> None:
    """Print what a data owner and a publisher want to know of an FHE circuit.

    Args:
        params: The manifest's parameters of mode `fhe`; empty without that mode.
    """
    for line in circuit_lines(params):
        out.print(f"[dim]fhe[/] {safe(line)}", soft_wrap=True)


def circuit_lines(params: Json) -> list[str]:
    """Return what a circuit is and shows, a line each; nothing of what is unsaid."""
    lines = [_size(params)] if "look_ups" in params else []
    for name, words in _WORDS.items():
        if (said := words.get(str(params.get(name)))) is not None:
            lines.append(said)
    lines += _binning(params.get("binned"), str(params.get("splits")))
    if why := params.get("not_fhe_native"):
        lines.append(f"computed by Concrete-ML's circuit, as ours will not do: {why}")
    return lines


def _size(params: Json) -> str:
    trees = f" for {params['trees']} trees" if "trees" in params else ""
    keyset = params.get("keyset")
    keys = f"; keys of the set {keyset}, which other models take, too"
    if keyset == "own":
        keys = "; keys of its own"
    return f"{params['look_ups']} look-ups a row{trees}{keys if keyset else ''}"


def _binning(binned: Any, splits: str) -> list[str]:
    """Say what moving the splits did by itself; nothing where none were moved."""
    if not isinstance(binned, dict) or splits != "hidden":
        return []
    agree, error = binned.get("label_agreement"), binned.get("max_error")
    said = [f"labels agree on {agree:.1%}"] if _is_number(agree) else []
    said += [f"max error {error:.2g}"] if _is_number(error) else []
    return [f"hiding the splits alone: {', '.join(said)}"] if said else []


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
