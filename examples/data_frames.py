"""Two encrypted tables are joined by someone who can read neither.

A clinic and a laboratory share a key. Each encrypts a table; whoever holds both joins
them on the patient with Concrete-ML's encrypted data frames; the clinic decrypts.
The file that travels holds ciphertexts and evaluation keys, never the secret key.

    python examples/data_frames.py [--rows 4]

What is in the clear: column names, sizes, and the words of text columns.
"""

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from rich.console import Console

from privacy.cli.output import duration, size

GROUPS = ("A", "B", "AB", "0")
MOST = 15
"""Values have four bits, and 0 stands for "missing"."""
console = Console(highlight=False)


def tables(rows: int) -> tuple[Any, Any]:
    """Return the clinic's table and the laboratory's, which lacks a third of it."""
    import pandas as pd

    patients = list(range(1, rows + 1))
    visits = [1 + (3 * p) % MOST for p in patients]
    clinic = pd.DataFrame({"patient": patients, "visits": visits})
    known = [p for p in reversed(patients) if p % 3]
    groups = [GROUPS[p % len(GROUPS)] for p in known]
    return clinic, pd.DataFrame({"patient": known, "group": groups})


def main() -> int:
    """Join encrypted, compare with the join in the clear, and return 0 if equal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4, choices=range(3, MOST + 1))
    args = parser.parse_args()
    clinic, laboratory = tables(args.rows)
    with tempfile.TemporaryDirectory() as folder:
        told, seconds = joined(clinic, laboratory, Path(folder))
    expected = clinic.merge(laboratory, how="left", on="patient")
    console.print(told.to_string(index=False))
    pairs = len(clinic) * len(laboratory)
    console.print(
        f"joined {len(clinic)} with {len(laboratory)} rows in {duration(seconds)}, "
        f"{duration(seconds / pairs)} a pair"
    )
    console.print("who joined saw: column names, sizes, the words of text columns")
    console.print("who joined did not see: any value, nor which rows matched")
    same = told.fillna("").astype(str).equals(expected.fillna("").astype(str))
    console.print("equal to the join in the clear" if same else "NOT equal")
    return 0 if same else 1


def joined(clinic: Any, laboratory: Any, folder: Path) -> tuple[Any, float]:
    """Return the decrypted join, and how long the encrypted one took, in s."""
    console.print("loading Concrete-ML …")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, about pandas and setuptools
        from concrete.ml.pandas import ClientEngine, load_encrypted_dataframe

    owners = ClientEngine()  # makes the key that both owners share
    names = []
    for name, table in (("clinic", clinic), ("laboratory", laboratory)):
        path = folder / f"{name}.zip"
        owners.encrypt_from_pandas(table).save(path)
        console.print(f"{name} sends {size(path.stat().st_size)}, keys included")
        names.append(path)
    left, right = (load_encrypted_dataframe(path) for path in names)
    console.print("joining …")
    started = time.monotonic()
    both = left.merge(right, how="left", on="patient")
    took = time.monotonic() - started
    both.save(folder / "joined.zip")
    return owners.decrypt_to_pandas(
        load_encrypted_dataframe(folder / "joined.zip")
    ), took


if __name__ == "__main__":
    sys.exit(main())
