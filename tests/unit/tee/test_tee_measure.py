"""Measurements are reproducible and change with everything they cover."""

import hashlib
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from privacy.errors import UnavailableError
from privacy.tee import measure as measuring
from privacy.tee.host import INTERPRETER, _environment
from privacy.tee.measure import PACKAGES, TEE, measure, measure_loaded, sources


def test_measurements_are_reproducible_in_another_process(model_dir):
    code = (
        "import json, sys, pathlib; from privacy.tee.measure import measure;"
        "print(json.dumps(measure(pathlib.Path(sys.argv[1])).as_dict()))"
    )
    command = [sys.executable, "-c", code, str(model_dir / "model.onnx")]
    run = subprocess.run(command, capture_output=True, check=True, text=True)
    assert json.loads(run.stdout) == measure(model_dir / "model.onnx").as_dict()


def test_registers_are_48_bytes_and_the_model_is_in_rtmr2_alone():
    one, other = measure_loaded(b"one"), measure_loaded(b"other")
    assert one.rtmr2 == hashlib.sha384(b"one").digest()
    assert (one.mrtd, one.rtmr0, one.rtmr1) == (other.mrtd, other.rtmr0, other.rtmr1)
    assert one.rtmr3 == bytes(48)
    assert {len(bytes.fromhex(v)) for v in one.as_dict().values()} == {48}


def test_measuring_in_many_threads_agrees():
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(measure_loaded, [b"model"] * 64))) == 1


@pytest.fixture
def copied_sources(monkeypatch, tmp_path):
    root = tmp_path / "privacy"
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(measuring._ROOT, root, ignore=skipped)
    monkeypatch.setattr(measuring, "_ROOT", root)
    return root


def test_mrtd_does_not_depend_on_where_the_code_lies(monkeypatch, copied_sources):
    copied = measure_loaded(b"").mrtd
    monkeypatch.undo()
    assert measure_loaded(b"").mrtd == copied


@pytest.mark.parametrize("name", sorted(sources()))
def test_mrtd_changes_with_every_source_the_enclave_loads(copied_sources, name):
    before = measure_loaded(b"").mrtd
    path = sources()[name]
    assert path.is_relative_to(copied_sources)
    path.write_bytes(path.read_bytes() + b"\n")
    assert measure_loaded(b"").mrtd != before


def test_mrtd_changes_with_the_interpreter(monkeypatch):
    before = measure_loaded(b"").mrtd
    told = {**measuring.interpreter(), "version": "3.99.0"}
    monkeypatch.setattr(measuring, "interpreter", lambda: told)
    assert measure_loaded(b"").mrtd != before


def test_rtmr0_changes_with_the_sandbox_policy():
    before = measure_loaded(b"").rtmr0
    changed = replace(TEE, policy={**TEE.policy, "core_bytes": 1})
    assert measure_loaded(b"", changed).rtmr0 != before


class FakeDistribution:
    """One installed package in a folder."""

    version = "1"

    def __init__(self, folder, names):
        self.files = []
        for name in names:
            path = metadata.PackagePath(name)
            path.hash, path.dist = metadata.FileHash("sha256=x"), self
            self.files.append(path)
        self._folder = folder

    def locate_file(self, path):
        return self._folder / str(path)


@pytest.fixture
def rtmr1(monkeypatch, tmp_path):
    """Return RTMR1 of one package made of these files."""

    def make(files, version="1"):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        fake = FakeDistribution(folder, files)
        fake.version = version
        monkeypatch.setattr(measuring, "_distribution", lambda _: fake)
        measuring._packages.cache_clear()
        return measuring._packages(PACKAGES)

    yield make
    measuring._packages.cache_clear()


def test_rtmr1_changes_with_a_package_file_itself_not_with_its_record(rtmr1):
    assert rtmr1({"p/a.py": b"1"}) == rtmr1({"p/a.py": b"1"})
    assert rtmr1({"p/a.py": b"1"}) != rtmr1({"p/a.py": b"2"})
    assert rtmr1({"p/a.py": b"1"}) != rtmr1({"p/b.py": b"1"})
    assert rtmr1({"p/a.py": b"1"}) != rtmr1({"p/a.py": b"1"}, version="2")


def test_rtmr1_leaves_out_what_installers_write(rtmr1):
    bare = {"p/a.py": b"1"}
    written = {"p-1.dist-info/INSTALLER": b"pip", "../bin/p": b"#!/some/python"}
    assert rtmr1(bare) == rtmr1({**bare, **written})


def test_a_missing_package_is_named():
    with pytest.raises(UnavailableError) as caught:
        measuring._distribution(("no-such-package-here",))
    assert caught.value.code == "engine-missing"


def test_everything_the_enclave_loads_is_measured(model_dir):
    """In a fresh process, started like the enclave."""
    code = (
        "import sys, pathlib; import privacy.tee.enclave as e;"
        "e.Engine(pathlib.Path(sys.argv[1]).read_bytes()).run([[0, 0, 0]]);"
        "[print(n, getattr(m, '__file__', None)) for n, m in sys.modules.items()]"
    )
    command = [*INTERPRETER, "-c", code, str(model_dir / "model.onnx")]
    run = subprocess.run(
        command, capture_output=True, check=True, text=True, env=_environment()
    )
    loaded = dict(line.split(" ", 1) for line in run.stdout.splitlines())
    ours = {name for name in loaded if name.split(".")[0] == "privacy"}
    assert ours <= set(sources())
    measured = {
        str(Path(str(file.locate())).resolve())
        for names in PACKAGES
        for file in measuring._distribution(names).files or ()
    }
    packages = {f for f in loaded.values() if "site-packages" in f}
    assert {f for f in packages if str(Path(f).resolve()) not in measured} == set()


MEASURE = (
    "import json, sys; sys.path[:0] = sys.argv[1:2]; import privacy, rfc8785;"
    "assert privacy.__file__.startswith(sys.argv[1]), privacy.__file__;"
    "assert rfc8785.__file__.startswith(sys.argv[1]), rfc8785.__file__;"
    "from privacy.tee.measure import measure_loaded;"
    "print(json.dumps(measure_loaded(sys.argv[2].encode()).as_dict()))"
)


@pytest.mark.slow
def test_two_clean_builds_agree_and_one_byte_changes_its_register_alone(tmp_path):
    """Whole copies in folders of their own, each measured by a process of its own."""
    package = metadata.distribution("rfc8785")

    def build(name, changed=""):
        folder = tmp_path / name
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(measuring._ROOT, folder / "privacy", ignore=skipped)
        for file in package.files:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(file.locate()), folder / file)
        if changed:
            path = folder / changed
            path.write_bytes(path.read_bytes() + b"#")
        return folder

    def measured(folder, model="model"):
        command = [sys.executable, "-P", "-c", MEASURE, str(folder), model]
        run = subprocess.run(
            command, capture_output=True, check=True, text=True, cwd=tmp_path
        )
        return json.loads(run.stdout)

    clean = measured(build("one"))
    assert measured(build("two/deeper")) == clean

    def differing(found):
        return [name for name in clean if found[name] != clean[name]]

    assert differing(measured(build("code", "privacy/tee/seal.py"))) == ["mrtd"]
    assert differing(measured(build("other", "privacy/cli/app.py"))) == []
    assert differing(measured(build("package", "rfc8785/__init__.py"))) == ["rtmr1"]
    assert differing(measured(tmp_path / "one", "modem")) == ["rtmr2"]
