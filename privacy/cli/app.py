"""The command's root, its common options, and how errors become exit codes."""

import functools
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from privacy import __version__
from privacy.cli.output import fail, print_json
from privacy.errors import FormatError, PrivacyError

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


_GROUPS = {
    "fhe": "Circuits for encrypted inputs.",
    "zk": "Circuits and proofs.",
    "attest": "Evidence of enclaves and GPUs.",
    "attest collateral": "What evidence is verified with.",
    "tee": "Enclaves.",
    "broker": "Keys of sealed models.",
    "certs": "Certificates of a private authority.",
    "chain": "Smart contracts.",
    "keys": "Your FHE keys.",
    "node": "This machine as a node of a Ray cluster.",
    "peers": "Other operators' gateways that run jobs.",
    "webhooks": "Who is told when a job ends.",
    "gateway": "A gateway's own data.",
    "api-keys": "Keys that callers of a gateway send.",
    "tenants": "Whose jobs a gateway runs, and how many.",
    "log": "A gateway's log of receipts.",
    "disputes": "Jobs whose runs do not agree.",
    "audit": "A gateway's audit log.",
}
_groups: dict[str, typer.Typer] = {}
_BARE = {"--prove-answer": "anyone"}
"""Options that may come without their value, which then is this."""


Hide = Annotated[
    list[str] | None,
    typer.Option(help="Proofs show nothing of: input, model. Repeatable."),
]
Commit = Annotated[
    list[str] | None,
    typer.Option(
        help="Proofs show a hash of: input (default), model; or a KZG commitment of: "
        "input:kzg. Repeatable."
    ),
]
Show = Annotated[list[str] | None, typer.Option(help="Proofs show: input.")]
Salt = Annotated[
    bool,
    typer.Option("--salt", help="Proofs are of one job, and nobody guesses the input."),
]


def _group(name: str) -> typer.Typer:
    """Return the group of commands of that name, such as `privacy zk …`."""
    if name not in _groups:
        _groups[name] = typer.Typer(
            help=_GROUPS[name], no_args_is_help=True, pretty_exceptions_enable=False
        )
        above, _, last = name.rpartition(" ")
        (_group(above) if above else app).add_typer(_groups[name], name=last)
    return _groups[name]


def command(name: str) -> Callable[[F], F]:
    """Register a command whose errors become its exit code.

    A name of several words, such as `zk calldata`, puts it into a group.
    """
    group, _, last = name.rpartition(" ")

    def register(function: F) -> F:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except (typer.Exit, typer.Abort, typer.TyperException):
                raise
            except BaseException as exc:
                raise typer.Exit(_failed(exc, bool(kwargs.get("as_json")))) from exc

        (_group(group) if group else app).command(last)(wrapped)
        return function

    return register


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code."""
    as_json = "--json" in arguments
    try:
        code = app(_filled(arguments), prog_name="privacy", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except typer.TyperException as exc:
        if not as_json and not exc.format_message():
            return exc.exit_code  # no command was given: the help is shown
        what = (exc.format_message() or "no command").rstrip(".")
        text = f"{what}. See `privacy --help`."
        return fail(FormatError(text, code="usage"), as_json=as_json)
    except typer.Abort:
        msg = "nothing was done: a question was not answered with yes (--yes asks none)"
        return fail(_InterruptedError(msg), as_json=as_json)
    except KeyboardInterrupt as exc:
        return _failed(exc, as_json)
    except BrokenPipeError as exc:
        return _failed(exc, as_json)


def _filled(arguments: Sequence[str]) -> list[str]:
    """Return the arguments, with what a bare option stands for behind it."""
    out: list[str] = []
    for word, following in zip(arguments, [*arguments[1:], "-"], strict=True):
        out.append(word)
        if word in _BARE and following.startswith("-"):
            out.append(_BARE[word])
    return out


def _failed(exc: BaseException, as_json: bool) -> int:  # noqa: FBT001
    """Print what went wrong and return the exit code, whatever it was."""
    if isinstance(exc, PrivacyError):
        return fail(exc, as_json=as_json)
    if isinstance(exc, KeyboardInterrupt):
        msg = "interrupted; a job that was submitted goes on: see `privacy jobs`"
        return fail(_InterruptedError(msg), as_json=as_json)
    if isinstance(exc, BrokenPipeError):  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(exc, OSError):
        where = f"{exc.filename}: " if exc.filename else ""
        msg = (
            f"{where}{exc.strerror or type(exc).__name__}: check the path, "
            "its permissions and the free space"
        )
        return fail(FormatError(msg, code="unusable-file"), as_json=as_json)
    if not isinstance(exc, Exception):
        raise exc
    if not as_json:
        traceback.print_exception(exc)
    msg = f"a defect of this program: {type(exc).__name__}; please report it"
    return fail(PrivacyError(msg, code="defect"), as_json=as_json)


class _InterruptedError(PrivacyError):
    default_code = "interrupted"
    exit_code = 130  # as shells count SIGINT


@command("version")
def version(as_json: AsJson = False) -> None:
    """Print the version."""
    if as_json:
        print_json({"version": __version__})
    else:
        typer.echo(__version__)
