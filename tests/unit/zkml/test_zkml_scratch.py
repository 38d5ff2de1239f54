import os
from pathlib import Path

from privacy.zkml.scratch import memory_file


def test_a_memory_file_is_on_no_disk_and_gone_afterwards():
    with memory_file() as path:
        path.write_text("a witness")
        assert path.read_text() == "a witness"
        assert str(path.readlink()).startswith("/memfd:")
        path.write_text("less")
        assert path.stat().st_size == 4
    assert not path.exists()


def test_without_memory_files_a_private_folder_serves(monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    with memory_file() as path:
        path.write_bytes(b"a witness")
        assert path.parent.stat().st_mode & 0o077 == 0
        assert isinstance(path, Path)
    assert not path.parent.exists()
