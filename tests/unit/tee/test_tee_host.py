"""The enclave process, from its start to its end, as the node sees it."""

import os
import platform
import signal
import socket
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tee_models import MODEL_SHA256, WEIGHTS, attested_session, linear_model

from privacy.encoding import pack, sha256_hex
from privacy.errors import BackendError, FormatError, LimitError, UnavailableError
from privacy.tee import host
from privacy.tee.client import new_job
from privacy.tee.evidence import parse_evidence
from privacy.tee.host import Enclave
from privacy.tee.kem import HYBRID, KemKey, choose
from privacy.tee.process import ProcessIdentity, identify
from privacy.tee.seal import MAX_SEALED_BYTES, Purpose, seal_input

SOMETHING_SEALED = pack([bytes(32), bytes(32), bytes(32), b"ciphertext"])
ROWS = [[1.0, 2.0, 3.0], [0.5, -1.0, 0.0]]


def until(condition, *, timeout_s=10.0):
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_a_sealed_input_gives_the_models_outputs(shared_enclave, model_dir, now):
    session = attested_session(shared_enclave, model_dir, now)
    sealed = session.seal(ROWS)
    result = shared_enclave.infer(sealed, timeout_s=10)
    outputs = session.open(result.output, result.evidence, now=now)
    np.testing.assert_allclose(outputs, np.array(ROWS) @ WEIGHTS, rtol=1e-6)
    assert result.evidence_kind == "attestation"
    statement = parse_evidence(result.evidence).statement
    assert statement.input_sha256 == sha256_hex(sealed)
    assert statement.output_sha256 == sha256_hex(result.output)
    assert statement.simulated


def test_an_enclave_tells_how_many_rows_are_done(start_enclave, model_dir, now):
    enclave = start_enclave()
    session = attested_session(enclave, model_dir, now)
    told = []
    sealed = session.seal(ROWS)
    result = enclave.infer(sealed, timeout_s=10, progress=told.append)
    assert told == [{"stage": "compute", "done": 1, "total": len(ROWS)}]
    outputs = session.open(result.output, result.evidence, now=now)
    np.testing.assert_allclose(outputs, np.array(ROWS) @ WEIGHTS, rtol=1e-6)


def test_the_same_sealed_input_can_be_run_again(shared_enclave, model_dir, now):
    session = attested_session(shared_enclave, model_dir, now)
    sealed = session.seal(ROWS)
    for _ in range(3):
        result = shared_enclave.infer(sealed, timeout_s=10)
        assert session.open(result.output, result.evidence, now=now).shape == (2, 2)


def test_a_job_shows_the_quote_of_its_session_and_no_other(
    shared_enclave, model_dir, now
):
    first, second = (attested_session(shared_enclave, model_dir, now) for _ in range(2))
    quotes = [parse_evidence(shared_enclave.evidence(first.nonce)).quote]
    for session in (first, second):
        result = shared_enclave.infer(session.seal(ROWS), timeout_s=10)
        quotes.append(parse_evidence(result.evidence).quote)
    assert quotes[0] == quotes[1] != quotes[2]


def test_eight_threads_get_their_own_answers(shared_enclave, model_dir, now):
    def work(i):
        session = attested_session(shared_enclave, model_dir, now)
        rows = [[float(i), 0.0, 1.0]] * (i + 1)
        result = shared_enclave.infer(session.seal(rows), timeout_s=20)
        return session.open(result.output, result.evidence, now=now)

    with ThreadPoolExecutor(8) as pool:
        for i, outputs in enumerate(pool.map(work, range(16))):
            np.testing.assert_allclose(outputs, [[i + 3.0, 0.0]] * (i + 1))


def test_evidence_refuses_a_nonce_that_is_not_32_bytes(shared_enclave):
    with pytest.raises(FormatError) as caught:
        shared_enclave.evidence(b"short")
    assert caught.value.code == "bad-nonce"


def test_an_input_for_another_enclave_is_refused(shared_enclave):
    key = KemKey.generate(HYBRID).public
    purpose = Purpose(MODEL_SHA256, bytes(32), new_job())
    sealed = seal_input(ROWS, columns=3, key=key, purpose=purpose, reply_key=bytes(32))
    with pytest.raises(FormatError) as caught:
        shared_enclave.infer(sealed, timeout_s=10)
    assert caught.value.code == "enclave-gone"


def test_an_input_for_another_model_is_refused(shared_enclave):
    shown = parse_evidence(shared_enclave.evidence(bytes(32)))
    key = choose(shown.hpke_public_keys)
    purpose = Purpose("cd" * 32, bytes(32), new_job())
    sealed = seal_input(ROWS, columns=3, key=key, purpose=purpose, reply_key=bytes(32))
    with pytest.raises(FormatError) as caught:
        shared_enclave.infer(sealed, timeout_s=10)
    assert caught.value.code == "unsealable"


def test_an_input_beyond_the_limit_is_refused_before_it_is_sent(shared_enclave):
    with pytest.raises(FormatError) as caught:
        shared_enclave.infer(bytes(MAX_SEALED_BYTES + 1), timeout_s=10)
    assert caught.value.code == "too-large"


@pytest.mark.parametrize("sealed", [b"", b"junk", b"PCF1" + bytes(40)])
def test_what_is_not_a_sealed_input_is_refused(shared_enclave, sealed):
    with pytest.raises(FormatError):
        shared_enclave.infer(sealed, timeout_s=10)
    assert shared_enclave.evidence(bytes(32))


def test_an_output_that_is_not_finite_is_an_engine_failure(
    start_enclave, tmp_path, now
):
    folder = tmp_path / "steep"
    folder.mkdir()
    steep = np.full((3, 1), 3e38, dtype=np.float32)
    (folder / "model.onnx").write_bytes(linear_model(steep))
    enclave = start_enclave(model_dir=folder)
    session = attested_session(enclave, folder, now)
    with pytest.raises(BackendError) as caught:
        enclave.infer(session.seal([[10.0, 10.0, 10.0]]), timeout_s=10)
    assert caught.value.code == "output-not-finite"


def test_a_dropped_enclave_is_found_again_with_the_same_keys(
    start_enclave, model_dir, tmp_path, now
):
    first = start_enclave()
    pid = first.pid
    session = attested_session(first, model_dir, now)
    sealed = session.seal(ROWS)
    first.detach()
    again = Enclave.attach(tmp_path / "run")
    assert again.pid == pid
    assert again.model_sha256 == MODEL_SHA256
    assert again.simulated
    result = again.infer(sealed, timeout_s=10)
    assert session.open(result.output, result.evidence, now=now).shape == (2, 2)
    again.stop()


def test_an_enclave_survives_a_killed_node_and_is_found_again(model_dir, tmp_path):
    code = (
        "import sys, pathlib; from privacy.tee.host import Enclave;"
        "e = Enclave.start(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]),"
        " model_sha256='ab' * 32); print(e.pid, flush=True); sys.stdin.read()"
    )
    run_dir = tmp_path / "run"
    node = subprocess.Popen(
        [sys.executable, "-c", code, str(model_dir), str(run_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    pid = int(node.stdout.readline())
    node.kill()
    node.communicate()
    enclave = Enclave.attach(run_dir)
    assert enclave.pid == pid
    assert enclave.evidence(bytes(32))
    enclave.stop()
    assert not enclave.alive


def test_a_killed_enclave_is_a_typed_error_and_no_zombie(start_enclave, tmp_path):
    enclave = start_enclave()
    os.kill(enclave.pid, signal.SIGKILL)
    assert until(lambda: not Path(f"/proc/{enclave.pid}").exists())
    assert not enclave.alive
    assert Enclave.attach(tmp_path / "run") is None
    for ask in (
        lambda: enclave.evidence(bytes(32)),
        lambda: enclave.infer(SOMETHING_SEALED, timeout_s=1),
    ):
        with pytest.raises(UnavailableError) as caught:
            ask()
        assert caught.value.code == "enclave-gone"


def test_an_enclave_killed_while_it_works_is_a_typed_error(start_enclave):
    enclave = start_enclave()
    os.kill(enclave.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(enclave.infer, SOMETHING_SEALED, timeout_s=20)
        time.sleep(0.1)
        os.kill(enclave.pid, signal.SIGKILL)
        with pytest.raises(UnavailableError) as caught:
            waiting.result()
    assert caught.value.code == "enclave-gone"


def test_an_enclave_that_does_not_answer_in_time_is_a_time_limit(
    start_enclave, monkeypatch, tmp_path
):
    enclave = start_enclave()
    os.kill(enclave.pid, signal.SIGSTOP)
    with pytest.raises(LimitError) as caught:
        enclave.infer(SOMETHING_SEALED, timeout_s=0.2)
    assert caught.value.code == "time-limit"
    monkeypatch.setattr(host, "_QUICK_S", 0.2)
    assert Enclave.attach(tmp_path / "run") is None
    enclave.stop()  # also ends a process that does not listen
    assert not enclave.alive


def test_nothing_is_attached_where_nothing_runs(tmp_path):
    assert Enclave.attach(tmp_path) is None
    (tmp_path / "enclave.json").write_text("{}")
    assert Enclave.attach(tmp_path) is None


def test_an_enclave_of_an_older_model_is_not_attached_but_replaced(
    start_enclave, tmp_path
):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(linear_model())
    old = start_enclave(model_dir=folder)
    (folder / "model.onnx").write_bytes(linear_model(WEIGHTS * 2))
    assert Enclave.attach(tmp_path / "run") is None
    assert old.alive
    new = start_enclave(model_dir=folder)
    assert not old.alive
    assert Enclave.attach(tmp_path / "run").pid == new.pid


def test_an_enclave_nobody_holds_ends_by_itself(start_enclave):
    enclave = start_enclave(idle_s=0.5)
    time.sleep(1.2)
    assert enclave.alive  # held, though nothing was asked
    enclave.detach()
    assert until(lambda: not Path(f"/proc/{enclave.pid}").exists(), timeout_s=5)


def test_a_stopped_enclave_leaves_nothing_behind(start_enclave, tmp_path):
    enclave = start_enclave()
    enclave.stop()
    assert list((tmp_path / "run").iterdir()) == []
    assert until(lambda: not Path(f"/proc/{enclave.pid}").exists())
    enclave.stop()  # once more is no error


def test_stopping_never_ends_another_process():
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE
    ) as p:
        real = identify(p.pid)
        ProcessIdentity(p.pid, real.start_ticks + 1, real.boot_id).kill()
        ProcessIdentity(p.pid, real.start_ticks, "another boot").kill()
        assert p.poll() is None
        real.kill()
        assert p.wait(5) == -signal.SIGKILL
    real.kill()  # gone: no error


def test_a_zombie_is_not_alive():
    with subprocess.Popen([sys.executable, "-c", ""]) as p:
        os.waitid(os.P_PID, p.pid, os.WEXITED | os.WNOWAIT)
        assert identify(p.pid) is None


def test_a_run_folder_may_have_a_long_path(start_enclave):
    enclave = start_enclave(name="/".join(["a-long-folder-name"] * 10))
    assert enclave.evidence(bytes(32))


def test_a_model_that_is_none_is_reported_by_start(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(BackendError) as caught:
        Enclave.start(tmp_path, tmp_path / "run", model_sha256=MODEL_SHA256)
    assert caught.value.code == "model-not-loadable"


def test_a_missing_model_is_reported_by_start(tmp_path):
    with pytest.raises(BackendError) as caught:
        Enclave.start(tmp_path, tmp_path / "run", model_sha256=MODEL_SHA256)
    assert caught.value.code == "enclave-start"


def test_a_start_that_takes_too_long_is_given_up(model_dir, tmp_path):
    with pytest.raises(BackendError) as caught:
        Enclave.start(
            model_dir, tmp_path / "run", model_sha256=MODEL_SHA256, timeout_s=0.01
        )
    assert caught.value.code == "enclave-start"
    assert "0.01 s" in caught.value.message


@pytest.mark.parametrize("junk", [b"\xff" * 8, b"\x03" + bytes(7) + b"abc", b"\x01"])
def test_a_stranger_who_speaks_nonsense_harms_nobody(shared_enclave, junk):
    connection = host._connect(shared_enclave._run_dir, timeout_s=5)
    with connection:
        connection.sendall(junk)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    assert shared_enclave.evidence(bytes(32))


def test_questions_one_after_another_share_a_connection(start_enclave, monkeypatch):
    enclave, made, real = start_enclave(), [], host._connect

    def connect(*args, **options):
        made.append(args)
        return real(*args, **options)

    monkeypatch.setattr(host, "_connect", connect)
    for _ in range(5):
        assert enclave.evidence(bytes(32))
    assert len(made) == 1
    with pytest.raises(FormatError):
        enclave.evidence(b"short")  # may have left something on the way
    assert enclave.evidence(bytes(32))
    assert len(made) == 2


def test_an_unknown_operation_is_an_error(shared_enclave):
    connection = host._connect(shared_enclave._run_dir, timeout_s=5)
    with connection, pytest.raises(BackendError):
        host._ask(connection, {"op": "dump-keys"})


def test_requests_beyond_the_limit_of_connections_wait_for_their_turn(shared_enclave):
    run_dir = shared_enclave._run_dir
    newcomer = Enclave.attach(run_dir)  # has no connection to spare yet
    held = [host._connect(run_dir, timeout_s=5) for _ in range(80)]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(newcomer.evidence, bytes(32))
        time.sleep(0.3)
        assert not waiting.done()
        for connection in held:
            connection.close()
        assert waiting.result(timeout=5)
    newcomer.detach()


def test_an_enclave_with_a_full_backlog_is_busy_not_gone(tmp_path):
    """A listener that never accepts stands in for an enclave under a flood."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "enclave.sock"))
        listener.listen(0)
        first = host._connect(tmp_path, timeout_s=1)
        with first, pytest.raises(UnavailableError) as caught:
            host._connect(tmp_path, timeout_s=1)
    assert caught.value.code == "enclave-busy"


# Hardening, on the running process.


def test_the_enclave_cannot_gain_privileges_dump_core_or_write_files(shared_enclave):
    proc = Path(f"/proc/{shared_enclave.pid}")
    assert "NoNewPrivs:\t1" in (proc / "status").read_text()
    limits = (proc / "limits").read_text().splitlines()
    for name in ("Max core file size", "Max file size"):
        (line,) = (text for text in limits if text.startswith(name))
        assert line.removeprefix(name).split()[:2] == ["0", "0"]


NODE_WITHOUT_PTRACE = """
import ctypes, os, pathlib, subprocess, sys
if sys.argv[1] != "again":  # without CAP_SYS_PTRACE even root is an ordinary user
    ctypes.CDLL(None).prctl(24, 19, 0, 0, 0)
    python, (code, *rest) = sys.executable, sys.argv[1:]
    os.execv(python, [python, "-c", code, "again", *rest])
from privacy.tee.host import Enclave
def readable(pid):
    try:
        open(f"/proc/{pid}/mem", "rb").close()
    except PermissionError:
        return False
    return True
model_dir, run_dir = map(pathlib.Path, sys.argv[2:])
enclave = Enclave.start(model_dir, run_dir, model_sha256="ab" * 32)
ordinary = subprocess.Popen(["sleep", "60"])
print(readable(ordinary.pid), readable(enclave.pid))
ordinary.kill(); ordinary.wait(); enclave.stop()
"""


def test_no_other_process_of_the_user_can_read_the_enclaves_memory(model_dir, tmp_path):
    code = NODE_WITHOUT_PTRACE
    run = subprocess.run(
        [sys.executable, "-c", code, code, str(model_dir), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["True", "False"]


def test_the_enclaves_folder_is_private(shared_enclave):
    mode = shared_enclave._run_dir.stat().st_mode
    assert stat.S_IMODE(mode) == 0o700
    record = shared_enclave._run_dir / "enclave.json"
    assert stat.S_IMODE(record.stat().st_mode) == 0o600


def test_the_enclave_is_no_child_of_the_nodes_session(shared_enclave):
    assert os.getsid(shared_enclave.pid) == shared_enclave.pid


def test_the_nodes_settings_and_others_hooks_do_not_reach_an_enclave(monkeypatch):
    names = {"PRIVACY_PASSPHRASE", "PRIVACY_GATEWAY_DATABASE_URL", *host._HOOKS}
    for name in (*names, "PYTHONSTARTUP", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    given = host._environment()
    assert not {*names, "PYTHONSTARTUP"} & given.keys()
    assert {"LD_PRELOAD", "LD_AUDIT"} <= names
    assert given["OMP_NUM_THREADS"] == "1"


_HUGE = """
held = bytearray(1 << 25)
with open("/proc/self/smaps") as file:
    sizes = [line.split()[1] for line in file if line.startswith("AnonHugePages")]
print(max(map(int, sizes)))
"""


def test_an_enclave_keeps_weights_in_large_pages_where_the_kernel_gives_them(
    monkeypatch,
):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    command = [sys.executable, "-c", _HUGE]
    environment = host._environment()
    found = subprocess.run(
        command, capture_output=True, check=True, text=True, env=environment
    )
    told = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if platform.libc_ver() < ("glibc", "2.35") or "[never]" in told.read_text():
        pytest.skip("no transparent large pages here")
    assert int(found.stdout) >= 2048  # KiB
