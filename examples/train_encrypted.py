"""A classifier is trained on encrypted rows: data, labels and weights stay encrypted.

Concrete-ML's `SGDClassifier(fit_encrypted=True)`: each step of gradient descent runs
under encryption, from the encrypted weights of the step before. Here one process plays
both parts, the owner of the data, who encrypts and decrypts, and the trainer. The same
steps are taken in the clear and both results compared.

    python examples/train_encrypted.py [--steps 16]

A step of four rows with two features takes seconds to a minute: see
docs/limitations.md.
"""

import argparse
import sys
import time
import warnings
from typing import Any

import numpy as np
from rich.console import Console

from privacy.cli.output import duration, size

COLUMNS = ("worst radius", "worst concave points")
BATCH, BITS, ROUNDING, ERROR = 4, 4, 5, 0.01
"""Rows a step, bits of values, bits looked up, chance that a look-up errs: Concrete-ML
takes 8, 6, 7 and 0.01 by default, for steps over three times as long."""
AGREE = 0.9
console = Console(highlight=False)


def tumours() -> tuple[Any, Any, Any, Any]:
    """Return rows and diagnoses to train on, then others to test with."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import MinMaxScaler

    data = load_breast_cancer()
    at = [list(data.feature_names).index(name) for name in COLUMNS]
    rows = MinMaxScaler((-1, 1)).fit_transform(data.data[:, at])
    seen, kept, truth, others = train_test_split(
        rows, data.target, test_size=0.4, random_state=0
    )
    return seen, truth, kept, others


def classifier(steps: int) -> Any:
    """Return an untrained classifier, always with the same first weights."""
    from concrete.ml.sklearn import SGDClassifier

    made = SGDClassifier(
        random_state=42,
        max_iter=steps,
        fit_encrypted=True,
        parameters_range=(-1.0, 1.0),
    )
    made.batch_size, made.n_bits_training = BATCH, BITS
    made.rounding_training, made.training_p_error = ROUNDING, ERROR
    return made


def main() -> int:
    """Train twice and return 0 if both classifiers say nearly the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=16)
    args = parser.parse_args()
    seen, truth, kept, others = tumours()
    console.print("loading Concrete-ML, compiling a step …")
    warnings.simplefilter("ignore")  # Concrete-ML's own, about its dependencies
    clear = classifier(args.steps)
    clear.fit(seen, truth, fhe="disable")
    console.print(f"training on {args.steps} times {BATCH} encrypted rows …")
    blind = classifier(args.steps)
    started = time.monotonic()
    blind.fit(seen, truth, fhe="execute")
    took = time.monotonic() - started
    circuit = blind.training_quantized_module.fhe_circuit
    keys = len(circuit.keys.evaluation.serialize())
    told, expected = blind.predict(kept), clear.predict(kept)
    agree = float(np.mean(told == expected))
    console.print(
        f"{duration(took)} with keys and compiling, {duration(took / args.steps)} a "
        f"step; evaluation keys {size(keys)}"
    )
    console.print(
        f"right about {np.mean(told == others):.1%} of {len(kept)} others; trained in "
        f"the clear {np.mean(expected == others):.1%}; same answer on {agree:.1%}"
    )
    console.print("the trainer saw: number of rows and features, how many steps")
    console.print("the trainer did not see: rows, diagnoses, weights at any step")
    return 0 if agree >= AGREE else 1


if __name__ == "__main__":
    sys.exit(main())
