"""The command's root, its common options, and how errors become exit codes."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from privacy import __version__
from privacy.cli.output import fail, print_json
from privacy.errors import PrivacyError

F = TypeVar("F", bound=Callable[..., Any])

app = typer.Typer(
    help="Run one model blind (FHE), with a proof (ZK) or in an enclave (TEE).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Gateway = Annotated[
    str | None,
    typer.Option(help="Gateway address; else $PRIVACY_GATEWAY or as saved by login."),
]
ApiKey = Annotated[
    str | None,
    typer.Option(help="API key; better: $PRIVACY_API_KEY or `privacy login`."),
]
HomeDir = Annotated[
    Path | None,
    typer.Option("--home", help="Folder for keys, pins, receipts; else $PRIVACY_HOME."),
]


def command(name: str) -> Callable[[F], F]:
    """Register a command whose `PrivacyError`s become its exit code."""

    def register(function: F) -> F:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except PrivacyError as exc:
                as_json = bool(kwargs.get("as_json"))
                raise typer.Exit(fail(exc, as_json=as_json)) from exc

        app.command(name)(wrapped)
        return function

    return register


@command("version")
def version(as_json: AsJson = False) -> None:
    """Print the version."""
    if as_json:
        print_json({"version": __version__})
    else:
        typer.echo(__version__)
