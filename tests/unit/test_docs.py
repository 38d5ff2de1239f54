"""The documents say what is so: links, files, routes, commands and codes exist."""

import re
import subprocess
from pathlib import Path

import pytest

from gateway.app import create_app
from gateway.problems import STATUS
from gateway.settings import Settings
from privacy import errors, modes, receipt
from privacy.cli import app
from privacy.errors import PrivacyError

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted(
    p
    for where in ("", "docs/**/", "contracts/", "deploy/**/")
    for p in ROOT.glob(f"{where}*.md")
)
FOLDERS = (
    "privacy|gateway|tests|examples|scripts|requirements|docs|benchmarks|contracts"
)


def _read(name):
    return (ROOT / "docs" / name).read_text()


def _tracked():
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT).decode()
    paths = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file()]


def _anchors(text):
    headings = re.findall(r"(?m)^#+ (.+)$", text)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), f"{target} does not exist"
        if anchor:
            assert anchor in _anchors(found.read_text()), f"no heading for {target}"


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_files_named_in_backticks_exist(path):
    named = re.findall(rf"`((?:{FOLDERS})/[\w./-]*)(?:::(\w+))?`", path.read_text())
    for file, test in named:
        assert (ROOT / file).exists(), f"{file} does not exist"
        if test:
            assert f"def {test}(" in (ROOT / file).read_text(), f"{file} lacks {test}"


def test_no_registry_is_named_in_any_tracked_file():
    hosts = (
        "py" + "pi.org",
        "pythonhosted" + ".org",
        "npmjs" + ".org",
        "npmjs" + ".com",
    )
    for path in _tracked():
        content = path.read_bytes().lower()
        for host in hosts:
            assert host.encode() not in content, (
                f"{path.relative_to(ROOT)} names {host}"
            )


def test_every_tracked_document_is_checked():
    documents = {path for path in _tracked() if path.suffix == ".md"}
    elsewhere = {p for p in documents if p.is_relative_to(ROOT / "tests")}
    elsewhere |= {p for p in documents if p.is_relative_to(ROOT / "privacy")}
    assert documents - elsewhere <= set(DOCS)


def test_api_md_lists_every_route_and_no_other(tmp_path):
    settings = Settings(data_dir=tmp_path / "data", models_dir=tmp_path / "models")
    paths = create_app(settings).openapi()["paths"]
    served = {(m.upper(), path) for path, methods in paths.items() for m in methods}
    listed = re.findall(r"(?m)^\| `([A-Z]+) (/\S+)` \|", _read("api.md"))
    assert set(listed) - {("GET", "/openapi.json")} == served


def _error_classes():
    found = [c for c in vars(errors).values() if isinstance(c, type)]
    return [c for c in found if issubclass(c, PrivacyError)]


@pytest.mark.parametrize("error", _error_classes(), ids=lambda c: c.__name__)
def test_api_md_gives_every_error_its_status_and_exit_code(error):
    row = f"| `{error.__name__}` | {STATUS[error]} | {error.exit_code} |"
    assert row in _read("api.md")


def test_cli_md_describes_every_command_and_no_other():
    groups = {}
    served = set(_commands(app, "", groups))
    described = set()
    for heading in re.findall(r"(?m)^## `privacy ([^`]+)`", _read("cli.md")):
        words = heading.split()
        count = 1
        while " ".join(words[:count]) in groups:
            count += 1
        described.add(" ".join(words[:count]))
    assert described == served


def _commands(group, prefix, groups):
    yield from (prefix + command.name for command in group.registered_commands)
    for below in group.registered_groups:
        groups[prefix + below.name] = below
        yield from _commands(below.typer_instance, f"{prefix}{below.name} ", groups)


def test_who_sees_what_covers_every_mode():
    headings = re.findall(r"(?m)^## (.+)$", _read("who-sees-what.md"))
    assert set(modes.modes_table()) <= set(headings)


def test_receipt_format_names_every_member():
    named = re.findall(r"(?m)^\| `(\w+)` \|", _read("receipt-format.md"))
    assert set(named) == set(receipt.Receipt.__dataclass_fields__)
