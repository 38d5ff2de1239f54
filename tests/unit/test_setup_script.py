"""scripts/setup.py and the locked sets it installs."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "setup.py"


def _load():
    spec = importlib.util.spec_from_file_location("setup_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


setup = _load()


@pytest.fixture
def venv(tmp_path):
    """An environment in looks only: the script decides by its files."""
    folder = tmp_path / "venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    return folder


def _stamp(venv, name):
    setup.stamp_of(venv, name).write_text(setup.stamp_text(venv, name))


def _fake_python(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_the_script_is_readable_by_python_3_8():
    ast.parse(SCRIPT.read_text(), feature_version=(3, 8))


@pytest.mark.parametrize(
    ("version", "suits"),
    [
        ((3, 10, 13), False),
        ((3, 11, 0), False),
        ((3, 11, 1), True),
        ((3, 12, 9), True),
        ((3, 13, 0), False),
        ((), False),
    ],
)
def test_only_pythons_that_the_lock_was_made_for_suit(version, suits):
    assert setup.suits(version) is suits


def test_the_range_is_the_one_pyproject_declares():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert declared["project"]["requires-python"] == ">=3.11.1,<3.13"
    assert (setup.OLDEST, setup.BELOW) == ((3, 11, 1), (3, 13))


def test_version_of_asks_the_interpreter_itself():
    assert setup.version_of(sys.executable) == sys.version_info[:3]


def test_version_of_a_shim_that_fails_is_none(tmp_path):
    shim = _fake_python(tmp_path / "python3.12", "exit 127")
    assert setup.version_of(shim) == ()
    assert setup.version_of(str(tmp_path / "nothing")) == ()


def test_find_python_skips_what_does_not_suit(tmp_path, monkeypatch):
    shim = _fake_python(tmp_path / "python3.11", "exit 127")
    old = _fake_python(tmp_path / "old", "echo 3 10 13")
    right = _fake_python(tmp_path / "right", "echo 3 12 4")
    monkeypatch.setattr(setup, "candidates", lambda: [shim, old, right, sys.executable])
    assert setup.find_python() == right


def test_without_a_python_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setattr(setup, "candidates", list)
    with pytest.raises(setup.SetupError, match=r"3\.11\.1\+ or 3\.12.*install") as told:
        setup.find_python()
    assert "\n" not in str(told.value)


def test_a_full_disk_is_refused_in_one_line(tmp_path):
    setup.check_disk(tmp_path / "not" / "made" / "yet", 0)
    with pytest.raises(
        setup.SetupError, match=r"GB free, 1e\+09 GB are needed"
    ) as told:
        setup.check_disk(tmp_path / "not" / "made" / "yet", 1e9)
    assert "\n" not in str(told.value)


def test_a_larger_set_serves_for_a_smaller_one_only(venv):
    _stamp(venv, "dev")
    ready = [name for name in setup.SETS if setup.is_ready(venv, name)]
    assert ready == ["client", "demo", "dev"]


def test_a_changed_lock_makes_a_stamp_worthless(venv, tmp_path):
    root = tmp_path / "root"
    (root / "requirements").mkdir(parents=True)
    for name in setup.SETS:
        (root / "requirements" / f"{name}.txt").write_text("a==1")
    (root / "pyproject.toml").write_text("")
    stamp = setup.stamp_of(venv, "demo")
    stamp.write_text(setup.stamp_text(venv, "demo", root))
    assert setup.is_ready(venv, "demo", root)
    (root / "requirements" / "demo.txt").write_text("a==2")
    assert not setup.is_ready(venv, "demo", root)


def test_an_environment_that_lost_its_python_is_not_ready(venv):
    _stamp(venv, "demo")
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to(venv / "gone")
    assert not setup.is_ready(venv, "demo")
    assert setup.must_rebuild(venv)


def test_an_interrupted_environment_is_made_anew(venv):
    _stamp(venv, "demo")
    assert not setup.must_rebuild(venv)
    setup.stamp_of(venv, "installing").touch()
    assert setup.must_rebuild(venv)


def test_a_moved_environment_is_made_anew(venv):
    _stamp(venv, "dev")
    moved = venv.rename(venv.with_name("moved"))
    assert not setup.is_ready(moved, "dev")
    assert setup.must_rebuild(moved)


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    assert not setup.must_rebuild(tmp_path / "not-there")
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(setup.SetupError, match="not made by this script"):
        setup.must_rebuild(tmp_path)


def test_emptying_keeps_the_mark_until_the_end(venv):
    _stamp(venv, "demo")
    setup.empty(venv)
    assert [p.name for p in venv.iterdir()] == [".privacy-installing"]


def test_packages_are_copied_only_from_another_disk(venv, tmp_path):
    near = _fake_python(tmp_path / "near", f"echo {tmp_path}/cache")
    assert setup.link_mode(near, venv) == {}
    far = _fake_python(tmp_path / "far", "echo /proc/cache")
    assert setup.link_mode(far, venv) == {"UV_LINK_MODE": "copy"}


def test_a_second_run_ends_at_once_and_says_nothing(venv):
    _stamp(venv, "dev")
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "demo"],
        env={**os.environ, "PRIVACY_VENV": str(venv)},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert time.monotonic() - begin < 5


def test_an_unknown_set_is_a_usage_error():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "everything"], capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"usage: python3 scripts/setup.py client|demo|dev" in done.stderr


def _locked(name):
    """Return version by package of a set; a package may have one per Python."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    entries = re.split(
        r"\n(?=[a-zA-Z0-9])", re.sub(r"(?m)^\s*#.*\n?", "", text).strip()
    )
    found = set()
    for entry in entries:
        pin = re.match(r"([a-zA-Z0-9._-]+)(?:\[[^\]]*\])?==([^ ;\\\n]+)", entry)
        assert pin, f"{name}.txt: not pinned: {entry[:60]}"
        assert "--hash=sha256:" in entry, f"{name}.txt: {pin[1]} has no hash"
        found.add((pin[1].lower().replace("_", "-"), pin[2]))
    return found


@pytest.mark.parametrize("name", [*setup.SETS, "all", "uv"])
def test_every_package_is_pinned_by_version_and_hash(name):
    assert _locked(name)


def test_each_set_holds_the_one_before_in_the_same_versions():
    client, demo, dev = map(_locked, setup.SETS)
    assert client < demo < dev <= _locked("all")


def test_what_pyproject_asks_for_is_locked():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = declared["project"]["optional-dependencies"]
    base = declared["project"]["dependencies"]
    engines = [
        *base,
        *(d for e in ("fhe", "zkml", "tee", "gateway") for d in extras[e]),
    ]
    asked = {
        "client": base,
        "demo": engines,
        "dev": [*engines, *declared["dependency-groups"]["dev"]],
        "all": [d for name, extra in extras.items() if name != "all" for d in extra],
    }
    for name, wanted in asked.items():
        packages = {package for package, _ in _locked(name)}
        names = {re.match(r"[a-zA-Z0-9._-]+", d)[0].lower() for d in wanted}
        assert names <= packages, f"run `make lock`: {name}.txt lacks something"


def test_an_editable_install_needs_nothing_unpinned():
    for name in setup.SETS:
        assert {"editables", "hatchling"} <= {package for package, _ in _locked(name)}
