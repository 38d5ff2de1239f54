"""What the commands print: tables for people on a terminal, JSON for programs.

Answers go to standard output, progress and errors to standard error. With `--json`
standard output holds exactly one JSON value, also when the command fails.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from privacy.encoding import Json
from privacy.errors import PrivacyError

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Print one JSON value to standard output."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def fail(exc: PrivacyError, *, as_json: bool) -> int:
    """Print an error and return its exit code."""
    if as_json:
        error = {"code": exc.code, "message": exc.message, "exit_code": exc.exit_code}
        print_json({"error": error})
    else:
        err.print(f"[bold red]error[/] ({exc.code}): {exc.message}", soft_wrap=True)
    return exc.exit_code


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table to standard output."""
    grid = Table(title=title or None, title_justify="left")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*row)
    out.print(grid)


def describe(event: Json) -> str:
    """Return a progress event in words."""
    words = [str(event["mode"])] if event.get("mode") else []
    words.append(str(event.get("stage", "working")))
    if "total" in event:
        words.append(f"{event.get('done', 0)} of {event['total']}")
    if "bytes" in event:
        words.append(f"({size(event['bytes'])})")
    if event.get("file"):
        words.append(str(event["file"]))
    return " ".join(words)


@contextmanager
def progress(*, quiet: bool) -> Iterator[Callable[[Json], None]]:
    """Give a function that shows progress events while the body runs.

    On a terminal one line with a spinner; elsewhere a line whenever the stage changes.
    """
    if quiet:
        yield lambda _: None
    elif err.is_terminal:
        started = time.monotonic()
        with err.status("working") as status:

            def show(event: Json) -> None:
                seconds = time.monotonic() - started
                status.update(f"{describe(event)}  [dim]{seconds:.0f} s[/]")

            yield show
    else:
        last = ""

        def say(event: Json) -> None:
            nonlocal last
            if (text := describe(event)) != last:
                last = text
                err.print(f"… {text}", soft_wrap=True)

        yield say


def size(count: float) -> str:
    """Return a number of bytes in words: `1.5 kB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:  # noqa: PLR2004 - SI
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def duration(seconds: float) -> str:
    """Return a time in words: `12 ms`, `3.4 s`."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
