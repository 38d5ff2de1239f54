"""What is free is told by the machine and by the container, whichever has less."""

from pathlib import Path

import pytest

from privacy.errors import UnavailableError
from privacy.zkml import memory
from privacy.zkml.memory import available_memory, check_memory, installed_memory


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 8 MiB, 6 of them free, and a folder for what a container says."""
    (tmp_path / "meminfo").write_text("MemTotal: 8192 kB\nMemAvailable: 6144 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    return tmp_path


def test_without_a_container_the_machine_counts(container: Path) -> None:
    assert (available_memory(), installed_memory()) == (6 << 20, 8 << 20)
    (container / "memory.max").write_text("max\n")
    (container / "memory.current").write_text("123\n")
    assert (available_memory(), installed_memory()) == (6 << 20, 8 << 20)


def test_a_containers_limit_counts_less_what_is_used(container: Path) -> None:
    (container / "memory.max").write_text(f"{4 << 20}\n")
    assert available_memory() == 6 << 20, "it does not say what is used"
    (container / "memory.current").write_text(f"{3 << 20}\n")
    assert (available_memory(), installed_memory()) == (1 << 20, 4 << 20)
    with pytest.raises(UnavailableError, match="about 2 MiB, 1 MiB are free"):
        check_memory(2 << 20)
    (container / "memory.current").write_text(f"{5 << 20}\n")
    assert available_memory() == 0


def test_files_that_can_be_dropped_do_not_count_as_used(container: Path) -> None:
    (container / "memory.max").write_text(f"{4 << 20}\n")
    (container / "memory.current").write_text(f"{4 << 20}\n")
    (container / "memory.stat").write_text(f"anon 7\ninactive_file {3 << 20}\n")
    assert available_memory() == 3 << 20
