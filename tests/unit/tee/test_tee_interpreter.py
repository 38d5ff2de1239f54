"""The interpreter is measured by content, not by where it lies."""

import shutil
import sys

import pytest

from privacy.tee.interpreter import digest_of, interpreter


@pytest.fixture
def library(tmp_path):
    folder = tmp_path / "one" / "lib"
    for name in ("os.py", "json/decoder.py", "lib-dynload/_ssl.so"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def test_two_copies_in_other_folders_agree(library, tmp_path):
    other = shutil.copytree(library, tmp_path / "two" / "elsewhere")
    assert digest_of(other) == digest_of(library)


@pytest.mark.parametrize("name", ["os.py", "json/decoder.py", "lib-dynload/_ssl.so"])
def test_one_changed_byte_of_a_module_changes_the_digest(library, name):
    before = digest_of(library)
    (library / name).write_bytes(b"X" + (library / name).read_bytes()[1:])
    assert digest_of(library) != before


def test_a_renamed_module_changes_the_digest(library):
    before = digest_of(library)
    (library / "os.py").rename(library / "so.py")
    assert digest_of(library) != before


@pytest.mark.parametrize(
    "name",
    [
        "__pycache__/os.cpython-311.pyc",
        "json/__pycache__/x.py",
        "site-packages/p.py",
        "test/test_os.py",
        "_sysconfigdata__linux.py",
        "config-3.11/x.py",
        "LICENSE.txt",
    ],
)
def test_what_installing_and_building_leave_behind_does_not_count(library, name):
    before = digest_of(library)
    path = library / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"/some/machine's/path")
    assert digest_of(library) == before


def test_everything_about_the_interpreter_is_in_mrtd():
    told = interpreter()
    assert told["version"] == ".".join(map(str, sys.version_info[:3]))
    assert len(told["executable"]) == len(told["modules"]) == 64
