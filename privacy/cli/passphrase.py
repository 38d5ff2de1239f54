"""Options and questions about passphrases."""

import sys
from getpass import getpass
from pathlib import Path
from typing import Annotated

import typer

from privacy.cli.output import err, paused
from privacy.client.passphrase import Given, read_passphrase
from privacy.client.sealed import check_new_passphrase
from privacy.errors import AuthError

PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        help="File whose first line is the passphrase of your FHE keys; "
        "else $PRIVACY_PASSPHRASE, else it is asked for."
    ),
]
AllowPlaintextKeys = Annotated[
    bool,
    typer.Option(
        "--allow-plaintext-keys",
        help="Without a passphrase, keep FHE keys unprotected on disk.",
    ),
]


def passphrase_from(file: Path | None, *, what: str = "your FHE keys") -> Given:
    """Return a file's passphrase, or what asks for it on a terminal, or None."""
    if file is not None:
        return read_passphrase(file)
    if not sys.stdin.isatty():
        return None
    return lambda is_new: _ask(what, is_new=is_new)


def _ask(what: str, *, is_new: bool) -> str:
    """Return a passphrase from the terminal; a new one is asked for twice.

    Raises:
        AuthError: Nothing was given, or not the same twice.
    """
    with paused():
        if not is_new:
            given = getpass(f"Passphrase of {what}: ", sys.stderr)
        else:
            err.print(
                f"Choose a passphrase for {what}. Without it nothing opens them.",
                soft_wrap=True,
            )
            given = getpass("New passphrase: ", sys.stderr)
            check_new_passphrase(given)
            if getpass("Once more: ", sys.stderr) != given:
                raise AuthError("the two passphrases differ", code="wrong-passphrase")
    if not given:
        raise AuthError("no passphrase was given", code="passphrase-missing")
    return given
