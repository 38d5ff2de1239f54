"""Calibration data: read it, name its columns, hold rows back."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from privacy.errors import FormatError

MAX_FILE_BYTES = 1 << 28
MIN_ROWS = 20
MAX_HELD = 200
MAX_CALIBRATION = 2000


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of finite numbers.

    Attributes:
        names: One a column.
        rows: float64, shape (rows, columns).
        labels: The label column as text, if one was named; else None.
    """

    names: tuple[str, ...]
    rows: Any
    labels: tuple[str, ...] | None = None


def read_table(
    path: Path, *, label: str | None = None, names: Sequence[str] = ()
) -> Table:
    """Return the table in a `.csv` file (header line first) or a `.npy` file (2-D).

    Args:
        path: The file.
        label: A CSV column to keep apart as labels.
        names: Column names for a `.npy` file.

    Raises:
        FormatError: Empty, too large, not numbers, not finite, or not rectangular.
    """
    if not path.is_file():
        raise FormatError(f"there is no file {path}", code="no-such-file")
    size = path.stat().st_size
    if not 0 < size <= MAX_FILE_BYTES:
        msg = f"{path.name} has {size} bytes, expected 1 to {MAX_FILE_BYTES}"
        raise FormatError(msg, code="no-rows" if size == 0 else "too-large")
    if path.suffix == ".npy":
        if label is not None:
            msg = f"{path.name} has no named columns: give --label with a .csv file"
            raise FormatError(msg, code="no-such-column")
        return table_from_array(_load_npy(path), names=names)
    return _read_csv(path, label)


def table_from_array(array: Any, *, names: Sequence[str] = ()) -> Table:
    """Return a table of a 2-D array, its columns named `x0`, `x1`, … by default."""
    try:
        rows = np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError):
        types = getattr(array, "dtypes", {})
        odd = [str(k) for k in names_of(array) if types[k].kind not in "fiub"]
        which = f": leave out {', '.join(odd[:5])}" if odd else ""
        msg = f"the data is not numbers{which}"
        raise FormatError(msg, code="not-a-number") from None
    if rows.ndim != 2 or 0 in rows.shape:  # noqa: PLR2004 - rows and columns
        msg = f"the data has shape {rows.shape}, expected (rows, columns)"
        raise FormatError(msg, code="no-rows")
    bad = np.argwhere(~np.isfinite(rows))
    if len(bad):
        row, column = bad[0] + 1
        raise FormatError(
            f"row {row}, column {column} is not finite", code="not-finite"
        )
    names = tuple(names) or tuple(f"x{i}" for i in range(rows.shape[1]))
    if len(names) != rows.shape[1]:
        msg = f"{len(names)} names for {rows.shape[1]} columns"
        raise FormatError(msg, code="wrong-feature-count")
    return Table(names=names, rows=rows)


def names_of(data: Any) -> tuple[str, ...]:
    """Return the column names of a data frame; none of anything else."""
    names = tuple(getattr(data, "columns", ()))
    return names if all(isinstance(name, str) for name in names) else ()


def _load_npy(path: Path) -> Any:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as exc:
        raise FormatError(f"{path.name} is not a .npy array of numbers") from exc
    if not isinstance(array, np.ndarray):
        raise FormatError(f"{path.name} is an archive of arrays, expected one array")
    return array


def _read_csv(path: Path, label: str | None) -> Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *lines = [line for line in csv.reader(file) if line]
    except (ValueError, csv.Error) as exc:
        msg = f"{path.name} is not a UTF-8 CSV file with a header line"
        raise FormatError(msg, code="no-rows") from exc
    if not lines:
        raise FormatError(f"{path.name} has a header but no rows", code="no-rows")
    names = [name.strip() for name in header]
    if len(set(names)) < len(names) or "" in names:
        msg = f"{path.name}: its header names a column twice, or not at all"
        raise FormatError(msg, code="bad-header")
    at = _label_index(names, label, path)
    labels = tuple(line[at] for line in lines if at < len(line)) if label else None
    rows = [
        _numbers(line, number, names, skip=at if label else None)
        for number, line in enumerate(lines, start=2)
    ]
    kept = [n for i, n in enumerate(names) if label is None or i != at]
    return Table(names=tuple(kept), rows=np.array(rows), labels=labels)


def _label_index(names: list[str], label: str | None, path: Path) -> int:
    if label is None:
        return -1
    if label not in names:
        msg = f"{path.name} has no column {label!r}; it has {', '.join(names[:8])}, …"
        raise FormatError(msg, code="no-such-column")
    return names.index(label)


def _numbers(
    line: list[str], number: int, names: list[str], skip: int | None
) -> list[float]:
    if len(line) != len(names):
        msg = f"line {number} has {len(line)} values, the header names {len(names)}"
        raise FormatError(msg, code="wrong-feature-count")
    out = []
    for i, text in enumerate(line):
        if i == skip:
            continue
        try:
            value = float(text)
        except ValueError:
            msg = f"line {number}, column {names[i]!r} is not a number"
            raise FormatError(msg, code="not-a-number") from None
        if not math.isfinite(value):
            msg = f"line {number}, column {names[i]!r} is not finite"
            raise FormatError(msg, code="not-finite")
        out.append(value)
    return out


def hold_back(rows: Any, *, seed: int = 0) -> tuple[Any, Any]:
    """Return the indices of calibration rows and of rows held back from it.

    A fifth is held back, at most 200; the order is shuffled with a fixed seed.

    Raises:
        FormatError: Fewer than 20 rows.
    """
    if len(rows) < MIN_ROWS:
        msg = f"{len(rows)} rows of calibration data, at least {MIN_ROWS} are needed"
        raise FormatError(msg, code="too-few-rows")
    order = np.random.default_rng(seed).permutation(len(rows))
    held = min(len(rows) // 5, MAX_HELD)
    return order[held:][:MAX_CALIBRATION], order[:held]


def rounded_range(column: Any) -> tuple[float, float]:
    """Return a column's minimum and maximum, rounded outwards to two digits.

    Rounded so that the manifest does not publish two exact training values.
    """
    low, high = float(column.min()), float(column.max())
    if low == high:
        return low, high
    step = 10.0 ** (math.floor(math.log10(high - low)) - 1)
    digits = max(0, -math.floor(math.log10(step)))
    return (
        round(math.floor(low / step) * step, digits),
        round(math.ceil(high / step) * step, digits),
    )
