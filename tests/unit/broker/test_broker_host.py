"""A sealed model in a real enclave process, found again after the node's death."""

from privacy.broker import Decisions
from privacy.tee.host import Enclave
from privacy.tee.measure import measure_folder


def test_an_enclave_is_found_again_once_it_has_its_model(
    broker, made, home, tmp_path, now
):
    model_dir, run_dir = made.bundle.root / "tee", tmp_path / "run"
    enclave = Enclave.start(model_dir, run_dir, model_sha256=made.bundle.sha256)
    try:
        assert enclave.info["sealed"] is True
        assert Enclave.attach(run_dir) is None  # nobody else would unseal it
        nonce = broker.challenge(made.bundle.sha256, now=now)
        release, _ = broker.release(enclave.evidence(nonce), now=now)
        enclave.unseal(release)
        enclave.unseal(release)  # safe to repeat
        assert enclave.info["sealed"] is False
        assert enclave.info["measurements"] == measure_folder(model_dir).as_dict()
        enclave.detach()
        again = Enclave.attach(run_dir)
        assert again.pid == enclave.pid
        again.detach()
    finally:
        enclave.stop()
    assert [d.released for d in Decisions(home).all()] == [True]
