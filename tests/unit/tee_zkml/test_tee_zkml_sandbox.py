"""What a process that proves cannot do; it reads decrypted rows with a large engine."""

import pytest

from privacy.tee.harden import SANDBOX
from privacy.tee.host import _environment
from privacy.tee_zkml.program import PROGRAM
from privacy.tee_zkml.sandbox import POLICY
from tests.support.probe_runs import outcomes_of
from tests.support.sandbox_attempts import ATTEMPTS

NEEDED = {
    "make_a_file_in_memory": "where the engine's own files are",
    "grow_an_open_file": "of those; no other file is open in the prover",
    "look_whether_a_file_exists": "Landlock does not hide names",
}
OTHERWISE = {
    "take_more_memory_than_it_may": "ENOMEM",
    "use_the_calls_of_i386": "SIGSYS",
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probes")
    return outcomes_of("prover_probes.py", folder, _environment(PROGRAM))


@pytest.mark.parametrize("name", sorted(set(ATTEMPTS) - set(NEEDED)))
def test_the_process_of_a_job_is_denied_what_the_enclave_is(outcomes, name):
    denied = {"EPERM", "EACCES", "ENOSYS"}
    assert outcomes[name] in ({OTHERWISE[name]} if name in OTHERWISE else denied)


@pytest.mark.parametrize("name", NEEDED)
def test_the_process_of_a_job_may_do_what_the_engine_needs(outcomes, name):
    assert outcomes[name] == "done"


def test_the_process_of_a_job_holds_the_channel_of_no_other(outcomes):
    assert outcomes["channels"] == [1]


def test_the_policy_of_the_prover_is_measured_with_the_enclaves():
    assert {k: v for k, v in POLICY.items() if k != "prover"} == SANDBOX
    prover = POLICY["prover"]
    assert "wait4" in prover["seccomp"]["calls"]
    assert "wait4" not in prover["job"]["calls"]
    assert prover["landlock"] == {"read": [], "write": []}
