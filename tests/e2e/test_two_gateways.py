"""Two gateways on one database, each with real enclaves of its own."""

import secrets
from contextlib import ExitStack

import pytest

from gateway.executors.base import Engines
from gateway.settings import Settings
from privacy.encoding import b64url
from privacy.tee.evidence import parse_evidence
from privacy.tee.seal import REPLY_KEY_BYTES, Purpose, seal_input
from tests.support.live_gateway import ThreadGateway
from tests.support.postgres import migrated
from tests.support.tee_bundle import write_tee_bundle

NONCE = bytes(32)
ROWS = [[0.5, -1.0, 2.0]]


def _sealed(api, bundle) -> bytes:
    """Return an input for the enclave that a gateway attests."""
    params = {"model": "demo", "nonce": b64url(NONCE)}
    evidence = parse_evidence(api.get("/v1/attestations", params=params).content)
    return seal_input(
        ROWS,
        columns=3,
        key=evidence.hpke_public_keys[0],
        purpose=Purpose(bundle.sha256, NONCE, secrets.token_bytes(32)),
        reply_key=secrets.token_bytes(REPLY_KEY_BYTES),
    )


def _job(api, sealed: bytes):
    body = {"model": "demo", "mode": "tee", "input": api.upload(sealed)}
    return api.finished(api.post("/v1/jobs", json=body).json()["id"])


@pytest.mark.slow
def test_a_job_is_run_where_its_enclave_is_and_told_if_that_is_gone(tmp_path):
    bundle = write_tee_bundle(tmp_path / "models", tmp_path / "publisher")
    url = migrated()
    with ExitStack() as stack:
        first, second = (
            ThreadGateway(
                Settings(
                    data_dir=tmp_path / name,
                    models_dir=tmp_path / "models",
                    home=tmp_path / "publisher",
                    database_url=url,
                    blobs_dir=tmp_path / "blobs",
                    receipt_key=tmp_path / "receipt.key",
                    node_name=name,
                ),
                Engines(),
            )
            for name in ("first", "second")
        )
        stack.enter_context(second)
        two = stack.enter_context(second.client(first.admin_key))
        with first, first.client() as one:
            sealed = _sealed(one, bundle)
            job = _job(two, sealed)  # taken by the second, run by the first
            assert job["status"] == "succeeded", job["problem"]
            holder = first.app.state.gateway
            assert holder.jobs.find(job["id"]).gateway == holder.membership.id
            waiting = _sealed(one, bundle)
        job = _job(two, waiting)
        assert (job["status"], job["problem"]["code"]) == ("failed", "enclave-gone")
