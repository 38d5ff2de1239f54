"""What the commands print: tables for people on a terminal, JSON for programs.

Answers go to standard output, progress and errors to standard error. With `--json`
standard output holds exactly one JSON value, also when the command fails.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress as Bar
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from privacy.encoding import Json
from privacy.errors import PrivacyError

_FILE_COLUMNS = 200
out = Console(highlight=False, emoji=False)
if not (out.is_terminal or "COLUMNS" in os.environ):
    out.width = _FILE_COLUMNS  # nothing is gained by folding what a program reads
err = Console(stderr=True, highlight=False, emoji=False)


def print_json(value: Any) -> None:
    """Print one JSON value to standard output."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def print_one(value: Any, line: str, *, as_json: bool) -> None:
    """Print an answer that people read as one line, in rich's markup."""
    if as_json:
        print_json(value)
    else:
        out.print(line, soft_wrap=True)


def safe(value: object) -> str:
    """Return text from elsewhere so that it cannot act on the terminal, for `print`.

    Gateways, manifests and file names may hold escape sequences, characters that
    reverse the line, or our own markup.
    """
    shown = (
        c if c.isprintable() else " " if c in "\t\r\n" else f"\\x{ord(c):02x}"
        for c in str(value)
    )
    return escape("".join(shown))


def as_object(exc: PrivacyError) -> Json:
    """Return an error as `--json` shows it."""
    return {"code": exc.code, "message": exc.message, "exit_code": exc.exit_code}


def fail(exc: PrivacyError, *, as_json: bool) -> int:
    """Print an error and return its exit code."""
    if as_json:
        print_json({"error": as_object(exc)})
    else:
        code, message = safe(exc.code), safe(exc.message)
        err.print(f"[bold red]error[/] ({code}): {message}", soft_wrap=True)
    return exc.exit_code


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table to standard output."""
    grid = Table(title=safe(title) or None, title_justify="left")
    for i, column in enumerate(columns):
        grid.add_column(safe(column), overflow="fold", no_wrap=not i)
    for row in rows:
        grid.add_row(*(safe(cell) for cell in row))
    out.print(grid)


def describe(event: Json) -> str:
    """Return a progress event in words; events may come from a gateway."""
    words = [str(event["mode"])] if event.get("mode") else []
    words.append(str(event.get("stage", "working")))
    done, total, count = (event.get(k) for k in ("done", "total", "bytes"))
    if isinstance(total, int):
        words.append(f"{done if isinstance(done, int) else 0} of {total}")
    if isinstance(count, int):
        words.append(f"({size(count)})")
    if event.get("file"):
        words.append(str(event["file"]))
    return safe(" ".join(words))


@contextmanager
def progress(*, quiet: bool) -> Iterator[Callable[[Json], None]]:
    """Give a function that shows progress events while the body runs.

    On a terminal one line with a spinner and the time; elsewhere a line a change.
    """
    if quiet:
        yield lambda _: None
    elif err.is_terminal:
        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        with Bar(*columns, console=err, transient=True) as bar, _shown(bar):
            line = bar.add_task("working", total=None)
            yield lambda event: bar.update(line, description=describe(event))
    else:
        last = ""

        def say(event: Json) -> None:
            nonlocal last
            if (text := describe(event)) != last:
                last = text
                err.print(f"… {text}", soft_wrap=True)

        yield say


_bars: list[Bar] = []


@contextmanager
def _shown(bar: Bar) -> Iterator[None]:
    _bars.append(bar)
    try:
        yield
    finally:
        _bars.pop()


@contextmanager
def paused() -> Iterator[None]:
    """Take the progress line away meanwhile, to ask something on the terminal."""
    for bar in _bars:
        bar.stop()
    try:
        yield
    finally:
        for bar in _bars:
            bar.start()


def size(count: float) -> str:
    """Return a number of bytes in words: `1.5 kB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:  # noqa: PLR2004 - SI
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def duration(seconds: float) -> str:
    """Return a time in words: `12 ms`, `3.4 s`."""
    if seconds < 0.01:  # noqa: PLR2004 - below, one digit is too few
        return f"{seconds * 1000:.2g} ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
