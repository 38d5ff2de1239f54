"""Every reason code of attestation is in the documents, and no other."""

import ast
import re
from pathlib import Path

import privacy.tee
from privacy.errors import AppraisalError, CannotVerifyError, FormatError

ROOT = Path(privacy.tee.__file__).parents[2]
DOCUMENT = ROOT / "docs" / "attestation-codes.md"
ENTRIES = ("attest", "ear", "reference_values", "cache")
ELSEWHERE = {"ok", "no-such-file"}
INHERITED = {FormatError.default_code, "not-json"}  # the classes' own, and encoding's
CODE = re.compile(r"[a-z]+(-[a-z]+)*")


def modules():
    """The files that the entries import, one from another."""
    found, waiting = {}, [f"privacy.tee.{name}" for name in ENTRIES]
    while waiting:
        name = waiting.pop()
        path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
        if name in found or not path.is_file():
            continue
        found[name] = ast.parse(path.read_text())
        for node in ast.walk(found[name]):
            if isinstance(node, ast.ImportFrom) and node.module:
                waiting += [
                    node.module,
                    *(f"{node.module}.{n.name}" for n in node.names),
                ]
    return {
        name: tree for name, tree in found.items() if name.startswith("privacy.tee")
    }


def values(node):
    """What is given as `code`, by name, by place or by assignment."""
    if isinstance(node, ast.Call):
        yield from (k.value for k in node.keywords if k.arg == "code")
        if getattr(node.func, "id", "") == "_line":
            yield node.args[3]
    for target in node.targets if isinstance(node, ast.Assign) else []:
        names = target.elts if isinstance(target, ast.Tuple) else [target]
        at = [getattr(name, "id", "") for name in names]
        if "code" in at:
            yield from elements(node.value, at.index("code"))


def elements(value, at):
    if isinstance(value, ast.IfExp):
        yield from elements(value.body, at)
        yield from elements(value.orelse, at)
    else:
        yield value.elts[at] if isinstance(value, ast.Tuple) else value


def codes():
    found = {
        constant.value
        for tree in modules().values()
        for node in ast.walk(tree)
        for value in values(node)
        for constant in ast.walk(value)
        if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
    }
    return {code for code in found if CODE.fullmatch(code)} - ELSEWHERE


def test_the_document_lists_every_code_and_no_other():
    listed = re.findall(r"(?m)^\| `([a-z-]+)` \|", DOCUMENT.read_text())
    assert len(listed) == len(set(listed)) > 20
    assert set(listed) == codes() | INHERITED


def test_codes_are_found_where_they_are_written():
    assert {"qe-binding", "svn-too-low", "collateral-missing", "x5c"} - codes() == {
        "x5c"
    }
    assert len(modules()) > 15


def test_headings_name_the_exit_codes():
    text = DOCUMENT.read_text()
    for error in (FormatError, AppraisalError, CannotVerifyError):
        assert f": exit {error.exit_code}\n" in text
