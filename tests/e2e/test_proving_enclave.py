"""The enclave that proves: what reaches whom, and what dies with whom."""

import json
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from privacy.bundle import open_bundle, standardise
from privacy.client import verify_saved
from privacy.client.context import Context
from privacy.client.sessions import session_for
from privacy.encoding import sha256_hex
from privacy.errors import (
    BackendError,
    FormatError,
    JobFailedError,
    LimitError,
    UnavailableError,
    VerificationError,
)
from privacy.modes import Mode
from privacy.tee.client import TeeSession
from privacy.tee_zkml.circuit import circuit_sha256
from privacy.tee_zkml.client import check_agreement
from privacy.tee_zkml.host import ProvingEnclave
from privacy.zkml import verify_proofs
from privacy.zkml.blobs import parse_evidence
from privacy.zkml.evm import build_verifier
from privacy.zkml.evm.local import LocalEvm, Reverted, check_plain
from privacy.zkml.params import parse_params

SALT = b"salt" * 8


@pytest.fixture(scope="module")
def running(diagnosis, tmp_path_factory):
    bundle = diagnosis.bundle
    enclave = ProvingEnclave.start(
        bundle.root / "tee",
        tmp_path_factory.mktemp("run"),
        model_sha256=bundle.sha256,
    )
    yield enclave
    enclave.stop()


def session(bundle, enclave):
    """Return a session that has checked the enclave's evidence."""
    made = TeeSession(
        model_sha256=bundle.sha256,
        reference=bundle.manifest.mode(Mode.TEE_ZKML).params["measurements"],
        columns=len(bundle.manifest.columns),
        allow_simulated=True,
        circuit_sha256=circuit_sha256(bundle.manifest),
    )
    made.check_evidence(enclave.evidence(made.nonce), now=datetime.now(UTC))
    return made


def rows_of(diagnosis, count=1):
    return standardise(diagnosis.rows[:count], diagnosis.bundle.manifest.columns)


def children(pid):
    """Return the processes that a process started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


def job_of(enclave):
    """Return the process that proves now, and the prover that forked it."""
    (prover,) = children(enclave.pid)
    until = time.monotonic() + 30
    while not (jobs := children(prover)):
        assert time.monotonic() < until
        time.sleep(0.005)
    return jobs[0], prover


def test_one_sealed_answer_holds_the_outputs_and_proofs_of_them(running, diagnosis):
    bundle, rows = diagnosis.bundle, rows_of(diagnosis, 2)
    made, told = session(bundle, running), []
    sealed = made.seal(rows, salt=SALT)
    result = running.infer(sealed, timeout_s=300, progress=told.append)
    assert result.evidence_kind == "attestation+proof"
    now = datetime.now(UTC)
    outputs, proofs = made.open_proven(result.output, result.evidence, now=now)
    proven = verify_proofs(
        bundle, proofs, rows=rows, salt=SALT, allow_insecure_srs=True
    )
    check_agreement(bundle.manifest, outputs, proven)
    assert {"stage": "prove", "done": 1, "total": 2} in told
    assert sha256_hex(proofs).encode() in result.evidence
    proof = parse_evidence(
        proofs,
        instances=len(bundle.manifest.modes["zkml"].params["instances"]),
        proof_bytes=bundle.manifest.modes["zkml"].params["proof_bytes"],
    ).proofs[0]
    for seen in (result.output, result.evidence):
        assert proof.proof[:32] not in seen
        assert proof.proof[:32].hex().encode() not in seen


def test_an_input_for_mode_tee_or_without_salt_is_refused(running, diagnosis):
    made = session(diagnosis.bundle, running)
    with pytest.raises(FormatError) as caught:
        made.seal(rows_of(diagnosis))
    assert caught.value.code == "bad-salt"
    plain = TeeSession(
        model_sha256=diagnosis.bundle.sha256,
        reference=diagnosis.bundle.manifest.mode(Mode.TEE_ZKML).params["measurements"],
        columns=len(diagnosis.bundle.manifest.columns),
        allow_simulated=True,
    )
    plain.check_evidence(running.evidence(plain.nonce), now=datetime.now(UTC))
    with pytest.raises(FormatError) as caught:
        running.infer(plain.seal(rows_of(diagnosis)), timeout_s=60)
    assert caught.value.code == "unsealable"


def test_the_enclave_of_mode_tee_is_not_taken_for_it(running, diagnosis):
    bundle = diagnosis.bundle
    made = TeeSession(
        model_sha256=bundle.sha256,
        reference=bundle.manifest.mode(Mode.TEE).params["measurements"],
        columns=len(bundle.manifest.columns),
        allow_simulated=True,
    )
    with pytest.raises(VerificationError):
        made.check_evidence(running.evidence(made.nonce), now=datetime.now(UTC))
    files = dict(bundle.manifest.files)
    files["zkml/pk.key"] = replace(files["zkml/pk.key"], sha256="ab" * 32)
    other = circuit_sha256(replace(bundle.manifest, files=files))
    made = TeeSession(
        model_sha256=bundle.sha256,
        reference=bundle.manifest.mode(Mode.TEE_ZKML).params["measurements"],
        columns=len(bundle.manifest.columns),
        allow_simulated=True,
        circuit_sha256=other,
    )
    with pytest.raises(VerificationError) as caught:
        made.check_evidence(running.evidence(made.nonce), now=datetime.now(UTC))
    assert caught.value.code == "event-log-mismatch"


def test_a_row_out_of_the_circuits_range_is_refused_unread(running, diagnosis):
    made = session(diagnosis.bundle, running)
    sealed = made.seal(np.full((1, 30), 1e6), salt=SALT)
    with pytest.raises(FormatError) as caught:
        running.infer(sealed, timeout_s=60)
    assert caught.value.code == "out-of-range"
    assert "column" not in caught.value.message  # the node reads it


def test_a_row_out_of_the_circuits_range_is_not_sealed_at_all(owner, diagnosis):
    context = Context(
        owner.home, "http://127.0.0.1:9", lambda _: None, allow_out_of_range=True
    )
    job = session_for(Mode.TEE_ZKML, context, diagnosis.bundle)
    with pytest.raises(FormatError) as caught:
        next(job.prepare(np.full((1, 30), 1e6)))
    assert caught.value.code == "out-of-range"
    assert "column 1" in caught.value.message


def test_a_proof_ends_when_nobody_listens_and_the_enclave_lives(running, diagnosis):
    made = session(diagnosis.bundle, running)

    class GoneError(Exception):
        pass

    def hang_up(progress):
        if progress.get("stage") == "prove":
            seen.append(job_of(running)[0])
            raise GoneError

    seen = []
    with pytest.raises(GoneError):
        running.infer(
            made.seal(rows_of(diagnosis, 20), salt=SALT),
            timeout_s=300,
            progress=hang_up,
        )
    until = time.monotonic() + 60
    while children(children(running.pid)[0]):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert seen
    with pytest.raises(LimitError):
        running.infer(made.seal(rows_of(diagnosis, 20), salt=SALT), timeout_s=0.1)
    assert running.alive


@pytest.mark.slow
def test_a_killed_proof_is_made_again_and_twice_is_an_error(running, diagnosis):
    made = session(diagnosis.bundle, running)

    def kill_job(_):
        if len(killed) < most:
            killed.append(job_of(running)[0])
            os.kill(killed[-1], signal.SIGKILL)

    killed, most = [], 1
    sealed = made.seal(rows_of(diagnosis), salt=SALT)
    result = running.infer(sealed, timeout_s=300, progress=kill_job)
    made.open_proven(
        result.output, result.evidence, now=datetime.now(UTC), sealed=sealed
    )
    assert len(killed) == 1
    for _ in range(4):  # more deaths than there are places for jobs
        killed, most = [], 2
        with pytest.raises(BackendError) as caught:
            running.infer(
                made.seal(rows_of(diagnosis), salt=SALT),
                timeout_s=300,
                progress=kill_job,
            )
        assert caught.value.code == "worker-died"
    sealed = made.seal(rows_of(diagnosis), salt=SALT)
    assert running.infer(sealed, timeout_s=60).output


@pytest.mark.slow
def test_an_enclave_ends_with_its_prover_and_the_prover_with_its_enclave(
    diagnosis, tmp_path
):
    bundle = diagnosis.bundle
    for victim in ("prover", "enclave"):
        enclave = ProvingEnclave.start(
            bundle.root / "tee", tmp_path / victim, model_sha256=bundle.sha256
        )
        made = session(bundle, enclave)
        pids = []

        def kill(_, *, enclave=enclave, pids=pids, victim=victim):
            if not pids:
                pids.extend(job_of(enclave))
                os.kill(pids[1] if victim == "prover" else enclave.pid, 9)

        with pytest.raises(UnavailableError) as caught:
            enclave.infer(
                made.seal(rows_of(diagnosis, 20), salt=SALT),
                timeout_s=300,
                progress=kill,
            )
        assert caught.value.code == "enclave-gone"
        until = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() for pid in (*pids, enclave.pid)):
            assert time.monotonic() < until
            time.sleep(0.05)


@pytest.mark.slow
def test_an_enclave_does_not_start_with_a_changed_circuit(diagnosis, tmp_path):
    root = tmp_path / "bundle"
    shutil.copytree(diagnosis.bundle.root, root)
    key = root / "zkml" / "pk.key"
    raw = bytearray(key.read_bytes())
    raw[len(raw) // 2] ^= 1
    key.write_bytes(raw)
    bundle = open_bundle(root, check_files=False)
    with pytest.raises(VerificationError) as caught:
        ProvingEnclave.start(root / "tee", tmp_path / "run", model_sha256=bundle.sha256)
    assert caught.value.code == "bundle-changed"


@pytest.mark.slow
def test_the_proof_of_a_sealed_job_is_accepted_by_the_evm_verifier(
    owner, diagnosis, tmp_path
):
    bundle = diagnosis.bundle
    answer = owner.infer(diagnosis.name, diagnosis.rows[:1].tolist(), mode="tee+zkml")
    params = parse_params(bundle.manifest.mode(Mode.ZKML).params)
    (proof,) = parse_evidence(
        answer.receipt.with_name("proofs.json").read_bytes(),
        instances=len(params.instances),
        proof_bytes=params.proof_bytes,
    ).proofs
    build_verifier(bundle, tmp_path, progress=lambda _: None, allow_insecure_srs=True)
    evm = LocalEvm()
    address, _ = evm.deploy((tmp_path / "plain.bin").read_bytes())
    check_plain(evm, address, proof)
    forged = replace(proof, proof=proof.proof[:40] + b"\x01" + proof.proof[41:])
    with pytest.raises((Reverted, BackendError)):
        check_plain(evm, address, forged)


def test_a_receipt_with_both_pieces_of_evidence_is_checked_offline(
    owner, diagnosis, tmp_path
):
    rows = diagnosis.rows[:1].tolist()
    answer = owner.infer(diagnosis.name, rows, mode="tee+zkml")
    names = {check.name for check in answer.checks}
    assert {"attestation", "enclave-signature", "proof", "proof-input"} <= names
    assert "agreement" in names
    folder = answer.receipt.parent

    def verdict(**options):
        return verify_saved(
            answer.receipt,
            home=owner.home,
            allow_simulated=True,
            allow_insecure_srs=True,
            **options,
        )

    found = verdict(rows=rows)
    assert found.exit_code == 0, found.steps
    assert [s.name for s in found.steps] == ["signature", "output", "evidence", "proof"]
    assert verdict(rows=diagnosis.rows[1:2].tolist()).exit_code == 6
    found = verify_saved(answer.receipt, home=owner.home, rows=rows)
    assert found.exit_code == 7
    assert found.missing_allowances == ("allow_insecure_srs", "allow_simulated")
    for name in ("proofs.json", "evidence.json", "output.bin"):
        good = (folder / name).read_bytes()
        for at in np.linspace(1, len(good) - 2, 4, dtype=int):
            (folder / name).write_bytes(
                good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
            )
            assert verdict().exit_code == 6
        (folder / name).unlink()
        assert verdict().exit_code == 7
        (folder / name).write_bytes(good)


def served_enclave(gateway):
    """Return the pid of the proving enclave that a gateway started."""
    (record,) = (gateway.log.parent / "enclaves" / "tee+zkml").glob("*/enclave.json")
    return json.loads(record.read_bytes())["process"]["pid"]


def proving(gateway):
    """Return the enclave's pid and that of a process that proves, once there is one."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with suppress(ValueError, OSError):
            enclave = served_enclave(gateway)
            (prover,) = children(enclave)
            if jobs := children(prover):
                return enclave, jobs[0]
        time.sleep(0.01)
    raise AssertionError("nobody proves")


@pytest.mark.slow
def test_a_cancelled_job_stops_proving_and_a_killed_enclave_is_attested_anew(
    gateway, owner, diagnosis
):
    owner.infer(diagnosis.name, diagnosis.rows[:1].tolist(), mode="tee+zkml")
    many = np.repeat(diagnosis.rows[:1], 200, axis=0).tolist()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(owner.infer, diagnosis.name, many, mode="tee+zkml")
        enclave, job = proving(gateway)
        (running,) = [j for j in owner.jobs() if j["status"] == "running"]
        owner.cancel(running["id"])
        with pytest.raises(JobFailedError) as caught:
            asked.result(60)
        assert caught.value.code == "job-cancelled"
        until = time.monotonic() + 30
        while Path(f"/proc/{job}").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        assert served_enclave(gateway) == enclave
        some = diagnosis.rows[:4].tolist()
        asked = pool.submit(owner.infer, diagnosis.name, some, mode="tee+zkml")
        assert proving(gateway)[0] == enclave
        os.kill(enclave, signal.SIGKILL)
        assert len(asked.result(120).rows) == 4
    assert served_enclave(gateway) != enclave
