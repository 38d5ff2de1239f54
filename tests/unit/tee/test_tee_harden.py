"""The enclave's sandbox: what cannot be done in it, or to it."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from sandbox_attempts import ATTEMPTS, LANDLOCKED
from sandbox_probes import GRANTS, PEERS

from privacy.tee import landlock, seccomp
from privacy.tee.harden import SANDBOX, Sandbox
from privacy.tee.host import _environment
from tests.support.probe_runs import outcomes_of

OLDER = Path(__file__).parents[2] / "support" / "older_kernel.py"
DENIED = {"EPERM", "EACCES", "ENOSYS"}
OTHERWISE = {
    "grow_an_open_file": "EFBIG",
    "take_more_memory_than_it_may": "ENOMEM",
    "use_the_calls_of_i386": "SIGSYS",
}


@pytest.fixture(scope="module")
def outcomes():
    """What came of every attempt; each ran in processes of its own."""
    # Under no folder of the user's own: file modes must not be what denies anything.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        yield outcomes_of("sandbox_probes.py", Path(name), _environment())


@pytest.mark.parametrize("name", ATTEMPTS)
def test_the_sandbox_denies_what_can_be_done_without_it(outcomes, name):
    bare, sandboxed = outcomes["attempts"][name]
    if bare != "done":
        pytest.skip(f"this machine denies it to every process of this user ({bare})")
    expected = {OTHERWISE[name]} if name in OTHERWISE else DENIED
    assert sandboxed in expected


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_of_the_same_user_cannot_look_into_the_enclave(outcomes, name):
    bare, sandboxed = outcomes["peers"][name]
    if bare != "done":
        pytest.skip(f"this machine denies it to every process of this user ({bare})")
    assert sandboxed in DENIED


@pytest.mark.skipif(landlock.version() < 6, reason="an older Landlock denies less")
@pytest.mark.parametrize("name", LANDLOCKED)
def test_landlock_alone_denies_it(outcomes, name):
    assert outcomes["landlock"][name] in DENIED


@pytest.mark.parametrize("name", GRANTS)
def test_a_granted_folder_is_all_that_can_be_reached(outcomes, name):
    expected = {
        "read_what_is_granted": {"done"},
        "write_what_is_granted": {"done"},
        "write_more_than_is_granted": {"EFBIG"},
    }
    assert outcomes["grants"][name] in expected.get(name, DENIED)


@pytest.mark.parametrize("layer", ["landlock", "seccomp"])
def test_a_kernel_that_lacks_a_layer_is_refused_unless_allowed(outcomes, layer):
    message = outcomes["lacking"][f"{layer}, strict"]
    assert layer in message.lower()
    assert "allow_weaker_sandbox" in message
    applied = json.loads(outcomes["lacking"][f"{layer}, allowed"])
    assert applied == {**SANDBOX, layer: "none"}


def test_who_keeps_its_user_has_no_capability_either(outcomes):
    assert outcomes["capabilities"].split() == ["CapEff:", "0" * 16]


def test_a_granted_folder_that_is_missing_never_means_no_landlock(outcomes):
    assert "/no/such/folder" in outcomes["missing"]


def test_a_process_with_threads_is_not_hardened_by_half(outcomes):
    assert "2 threads" in outcomes["threads"]


def test_the_running_enclave_has_the_whole_sandbox(shared_enclave):
    assert shared_enclave.info["sandbox"] == SANDBOX
    status = Path(f"/proc/{shared_enclave.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Seccomp"] == "2"
    assert fields["NoNewPrivs"] == "1"
    assert {fields[c].strip("0") for c in ("CapPrm", "CapEff", "CapInh")} == {""}
    assert fields["Uid"].split()[0] != "0"


def test_every_thread_of_the_enclave_is_under_the_filter(shared_enclave):
    assert shared_enclave.evidence(bytes(32))
    for thread in Path(f"/proc/{shared_enclave.pid}/task").iterdir():
        assert "Seccomp:\t2" in (thread / "status").read_text()


def test_what_is_granted_is_measured_by_name_not_by_path():
    here, there = Path("/here"), Path("/there")
    assert Sandbox(read={"a": here}).policy() == Sandbox(read={"a": there}).policy()
    others = (
        Sandbox(read={"a": here}),
        Sandbox(read={"b": here}),
        Sandbox(write={"a": here}),
        Sandbox(file_bytes=1),
    )
    seen = [json.dumps(sandbox.policy(), sort_keys=True) for sandbox in others]
    assert len({*seen, json.dumps(SANDBOX, sort_keys=True)}) == 5


def test_what_is_measured_names_every_call_that_is_let_through():
    calls = SANDBOX["seccomp"]["calls"]
    assert "openat" not in calls
    assert "openat" in seccomp.policy(read=True, write=False)["calls"]
    assert sys.platform == "linux"


def test_on_an_older_kernel_nothing_weaker_passes_unless_all_allow_it(
    model_dir, tmp_path
):
    """Node, publisher and thereby the data owner's client: each by its own."""
    run = subprocess.run(
        [sys.executable, str(OLDER), str(model_dir), str(tmp_path / "run")],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert json.loads(run.stdout) == {
        "landlock_version": 0,
        "strict": "sandbox-unavailable",
        "sandbox": {**SANDBOX, "landlock": "none"},
        "usual reference": "measurement-mismatch",
        "weaker reference": "accepted",
        "strict node attaches": False,
        "lenient node attaches": True,
    }
