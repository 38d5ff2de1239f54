"""The lines of a verdict: what was looked at, what was found, what was expected."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from privacy.errors import CannotVerifyError, FormatError, VerificationError


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a verdict; `code` is stable and names the reason of a failure."""

    name: str
    found: str
    expected: str
    ok: bool
    code: str


class Checklist:
    """Collects the lines; whoever passes one in can read it after a refusal, too."""

    def __init__(self) -> None:
        """Begin with no line."""
        self.lines: list[Check] = []

    @contextmanager
    def step(self, name: str, expected: str) -> Iterator[list[str]]:
        """Add a line that is good unless the body finds something false.

        A failing step ends the verification: what stands on it is not believed. The
        body may append what it found to the list it gets.
        """
        found: list[str] = []
        try:
            yield found
        except (VerificationError, CannotVerifyError, FormatError) as exc:
            self.lines.append(
                Check(name, exc.message, expected, ok=False, code=exc.code)
            )
            raise
        text = found[0] if found else "as expected"
        self.lines.append(Check(name, text, expected, ok=True, code="ok"))
