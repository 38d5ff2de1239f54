"""The data owner's rows: taken as given or read from a file, held against the range."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from privacy.bundle import Column
from privacy.encoding import parse_json
from privacy.errors import FormatError
from privacy.modes import Mode

MAX_BYTES = 1 << 26
_NAMED = 5


def read_rows(path: Path, names: Sequence[str] | None) -> list[list[Any]]:
    """Return rows of raw features from a `.csv`, `.npy` or `.json` file.

    A CSV file may have a header line; then its columns are matched by name, in any
    order, and columns the model does not know are refused.

    Args:
        path: The file; `.json` holds a list of lists.
        names: The model's feature names, or None to take columns as they stand.

    Raises:
        FormatError: No such file, empty, too large, or not numbers.
    """
    if not path.is_file():
        raise FormatError(f"there is no file {path}", code="no-such-file")
    size = path.stat().st_size
    if size == 0:
        raise FormatError(f"{path.name} is empty", code="no-rows")
    if size > MAX_BYTES:
        msg = f"{path.name} has {size} bytes, at most {MAX_BYTES}: split it"
        raise FormatError(msg, code="too-large")
    if path.suffix == ".npy":
        return _read_npy(path)
    if path.suffix == ".json":
        value = parse_json(path.read_bytes(), what=path.name)
        if not isinstance(value, list) or not all(isinstance(r, list) for r in value):
            raise FormatError(f"{path.name} is not a list of rows")
        return value
    return _read_csv(path, names)


def as_rows(rows: Any, names: Sequence[str]) -> list[list[Any]]:
    """Return rows of raw features as lists of plain numbers.

    Args:
        rows: Lists of lists, an array of shape (rows, features), or a data frame, whose
            columns are matched by name, in any order, as those of a CSV file.
        names: The model's feature names.

    Raises:
        FormatError: Not rows, or a data frame with other columns than the model's.
    """
    if hasattr(rows, "columns") and hasattr(rows, "to_numpy"):
        header = [str(name) for name in rows.columns]
        rows = rows.to_numpy()[:, _order("the data frame", header, names)]
    if hasattr(rows, "tolist"):  # arrays and tensors
        rows = rows.tolist()
    try:
        return [[_plain(x) for x in _cells(row)] for row in rows]
    except TypeError:
        msg = (
            "these are no rows: give a list of lists, an array of shape (rows, "
            "features) or a data frame; one row is [[…]]"
        )
        raise FormatError(msg, code="no-rows") from None


def _cells(row: Any) -> Any:
    if isinstance(row, str | Mapping):  # they could be iterated, to no good
        raise TypeError
    return row


def _plain(value: Any) -> Any:
    """Return a NumPy scalar as a Python number, anything else as it is."""
    return value.item() if hasattr(value, "item") else value


def _read_npy(path: Path) -> list[list[Any]]:
    import numpy as np

    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as exc:
        raise FormatError(f"{path.name} is not a .npy array of numbers") from exc
    if not isinstance(array, np.ndarray):
        raise FormatError(f"{path.name} is an archive of arrays, expected one array")
    if array.ndim != 2 or array.dtype.kind not in "fiu":  # noqa: PLR2004
        msg = f"{path.name} has shape {array.shape} of {array.dtype}, expected rows"
        raise FormatError(msg, code="wrong-feature-count")
    rows: list[list[Any]] = array.tolist()
    return rows


def _read_csv(path: Path, names: Sequence[str] | None) -> list[list[Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file) if line]
    except (ValueError, csv.Error) as exc:
        raise FormatError(f"{path.name} is not a UTF-8 CSV file") from exc
    order: list[int] | None = None
    first = 1
    if lines and not all(_is_number(text) for text in lines[0]):
        header, first = [name.strip() for name in lines.pop(0)], 2
        order = None if names is None else _order(path.name, header, names)
    if not lines:
        raise FormatError(f"{path.name} has no rows", code="no-rows")
    return [_row(line, i, order) for i, line in enumerate(lines, start=first)]


def _order(what: str, header: list[str], names: Sequence[str]) -> list[int]:
    missing = [n for n in names if n not in header]
    unknown = [n for n in header if n not in names]
    if len(set(header)) < len(header):
        msg = f"{what}: its header names a column twice"
        raise FormatError(msg, code="wrong-feature-count")
    if missing or unknown:
        msg = (
            f"{what}: its columns are not the model's "
            f"(missing: {', '.join(missing[:5]) or 'none'}; "
            f"unknown: {', '.join(unknown[:5]) or 'none'})"
        )
        raise FormatError(msg, code="wrong-feature-count")
    return [header.index(n) for n in names]


def _row(line: list[str], number: int, order: list[int] | None) -> list[float]:
    if order is not None and len(line) != len(order):
        msg = f"line {number} has {len(line)} values, the header names {len(order)}"
        raise FormatError(msg, code="wrong-feature-count")
    picked = line if order is None else [line[i] for i in order]
    out = []
    for i, text in enumerate(picked, start=1):
        try:
            out.append(float(text))
        except ValueError:
            msg = f"line {number}, column {i} is not a number"
            raise FormatError(msg, code="not-a-number") from None
    return out


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def range_caveats(
    rows: Sequence[Sequence[float]],
    columns: Sequence[Column],
    mode: Mode,
    *,
    allow_out_of_range: bool,
) -> tuple[str, ...]:
    """Return what to say of values that the model was not calibrated on.

    Args:
        rows: Raw features, shape (rows, columns).
        columns: The model's, with their published ranges.
        mode: What the job will be run in.
        allow_out_of_range: Say it and go on, instead of refusing.

    Raises:
        FormatError: There are such values, and they are not allowed.
    """
    odd = [
        (number, column.name)
        for number, row in enumerate(rows, start=1)
        for value, column in zip(row, columns, strict=True)
        if not column.minimum <= value <= column.maximum
    ]
    if not odd:
        return ()
    named = {name for _, name in odd}
    ranges = [
        f"{c.name} {c.minimum:g} to {c.maximum:g}" for c in columns if c.name in named
    ]
    more = ", …" if len(ranges) > _NAMED else ""
    outside = (
        f"{len(odd)} {'value lies' if len(odd) == 1 else 'values lie'} outside the "
        f"range the model was calibrated on ({', '.join(ranges[:_NAMED])}{more}; "
        f"first in row {odd[0][0]})"
    )
    if not allow_out_of_range:
        msg = (
            f"{outside}: correct them, or accept a less certain answer with "
            "--allow-out-of-range (allow_out_of_range=True)"
        )
        raise FormatError(msg, code="out-of-range")
    does = "clips them" if mode is Mode.FHE else "extrapolates"
    return (f"{outside}: mode {mode} {does}",)
