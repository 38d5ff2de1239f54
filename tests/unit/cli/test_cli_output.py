"""What commands print: never an escape sequence, and always one JSON value."""

import io
import json

import pytest
import typer

from privacy.cli import app, output
from privacy.cli.app import command, run
from privacy.cli.infer import print_job
from privacy.errors import FormatError, VerificationError

HOSTILE = "\x1b]0;owned\x07\x9b2J\u202e[red]x[/red]\ud800:skull:"


@pytest.mark.parametrize("show", ["fail", "table", "progress"])
def test_hostile_text_reaches_the_terminal_as_plain_text(show, capsys, monkeypatch):
    monkeypatch.setattr(output.out, "width", 500)
    if show == "fail":
        output.fail(FormatError(HOSTILE, code=HOSTILE), as_json=False)
    elif show == "table":
        output.table(HOSTILE, [HOSTILE], [[HOSTILE]])
    else:
        with output.progress(quiet=False) as notify:
            notify({"stage": HOSTILE, "total": "x", "bytes": "y", "file": HOSTILE})
    printed = "".join(capsys.readouterr())
    assert "[red]x[/red]" in printed
    assert ":skull:" in printed
    assert r"\x1b]0;owned" in printed
    assert not set(printed) & set("\x1b\x07\x9b\u202e\ud800")


def test_a_job_is_printed_a_fact_a_row_without_links(capsys):
    sees = {"operator_sees_input": "no: encrypted"}
    job = {"id": "job_1", "problem": None, "who_sees_what": sees, "links": {"a": "/v1"}}
    print_job(job)
    printed = capsys.readouterr().out
    assert "who_sees_what operator_sees_input" in printed
    assert "no: encrypted" in printed
    assert not any(word in printed for word in ("None", "/v1", "{"))


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.0004, "0.4 ms"), (0.0123, "12 ms"), (3.21, "3.2 s")]
)
def test_a_time_is_never_rounded_to_nothing(seconds, words):
    assert output.duration(seconds) == words


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], "usage"),
        (["no-such-command"], "usage"),
        (["infer"], "usage"),
        (["infer", "m", "--mode"], "usage"),
        (["jobs", "--limit", "x"], "usage"),
        (["modes", "--no-such-option"], "usage"),
    ],
)
def test_usage_errors_are_one_json_value_too(arguments, code, capsys):
    assert run([*arguments, "--json"]) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"]["code"] == code


def test_a_question_nobody_answers_does_nothing(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    gateway = ["--gateway", "http://127.0.0.1:9", "--home", str(tmp_path)]
    assert run(["tenants", "delete", "acme", *gateway]) == 130
    assert "nothing was done" in capsys.readouterr().err


@pytest.fixture
def raising():
    """Register a command that raises what it is told, for one test."""
    raised = []

    @command("raise")
    def _raise(*, as_json: bool = typer.Option(default=False)) -> None:
        raise raised.pop()

    yield raised
    app.registered_commands.pop()


@pytest.mark.parametrize(
    ("error", "exit_code", "code"),
    [
        (VerificationError("x"), 6, "verification-failed"),
        (PermissionError(13, "Permission denied", "/x"), 2, "unusable-file"),
        (OSError(28, "No space left on device"), 2, "unusable-file"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyError("modes"), 1, "defect"),
        (MemoryError(), 1, "defect"),
    ],
)
def test_whatever_is_raised_becomes_one_json_value(
    raising, error, exit_code, code, capsys
):
    raising.append(error)
    assert run(["raise", "--as-json"]) == exit_code
    found = json.loads(capsys.readouterr().out)["error"]
    assert (found["code"], found["exit_code"]) == (code, exit_code)
