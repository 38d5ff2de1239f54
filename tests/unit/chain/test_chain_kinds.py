"""Models without a circuit, and models that show their input, on a real chain."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from privacy.bundle import list_files, write_manifest
from privacy.chain.inputs import input_on_chain, make_input, parse_input
from privacy.chain.models import (
    ATTESTATION,
    OrderOptions,
    public_input_of,
    register_model,
    request_inference,
)
from privacy.errors import FormatError, NotFoundError
from privacy.onchain import SALTED, SHOWN, terms_of
from privacy.zkml.evm import build_verifier
from tests.support.chain_site import FEE, PUBLISHER, REQUESTER
from tests.unit.chain.test_chain_enclaves import make_enclave, vouched


@pytest.fixture
def enclave_only(site, tmp_path):
    """The model without its circuit."""
    root = tmp_path / "bundle"
    shutil.copytree(site.bundle.root / "tee", root / "tee")
    manifest = site.bundle.manifest
    tee = {"tee": manifest.modes["tee"]}
    files = list_files(root, frozenset())
    return write_manifest(root, replace(manifest, modes=tee, files=files))


def served(site, bundle, folder):
    """Register another model at a site, and let the site be about it."""
    publisher = site.chain.sender(PUBLISHER)
    site.model_id, site.config = register_model(
        publisher, site.chain.rpc, site.config, bundle, folder
    )
    site.bundle = bundle
    return site


def ask(site, given, **options):
    request_id = request_inference(
        site.chain.sender(REQUESTER),
        site.chain.rpc,
        site.config,
        site.model_id,
        given,
        fee=FEE,
        options=OrderOptions(allow_insecure_srs=True, **options),
    )
    site.chain.mine(2)
    return request_id


def test_an_enclave_answers_for_a_model_without_a_circuit(site, enclave_only):
    given = parse_input(enclave_only, site.inputs[0])
    assert terms_of(enclave_only.manifest).kind == SALTED
    served(site, enclave_only, None)
    site.jobs.enclave = make_enclave(enclave_only)
    site.jobs.handed_over[given.commitment, False] = site.inputs[0]
    vouched(site, site.jobs.enclave)
    ask(site, given, evidence=ATTESTATION, allow_simulated=True)
    site.run(site.watcher())
    assert site.credit() == FEE


def test_a_verifier_is_not_deployed_for_a_circuit_that_does_not_fit(
    site, enclave_only, verifier_folder
):
    with pytest.raises(FormatError) as caught:
        served(site, enclave_only, verifier_folder)
    assert caught.value.code == "no-circuit"


@pytest.mark.slow
def test_a_public_input_is_taken_from_the_chain(
    site, linear, node, bundle_of, rows, tmp_path
):
    shown = bundle_of(tmp_path / "shown", linear, show=["input"])
    assert terms_of(shown.manifest).kind == SHOWN
    folder: Path = tmp_path / "shown-verifier"
    build_verifier(shown, folder, progress=lambda _: None, allow_insecure_srs=True)
    served(site, shown, folder)
    given = make_input(shown, [float(x) for x in rows[540]])
    assert given.is_public
    request_id = ask(site, given)
    newest = site.chain.rpc.block_number()
    published = public_input_of(site.coordinator, request_id, newest=newest)
    assert tuple(published) == given.described
    again = input_on_chain(shown, published)
    assert again.commitment == given.commitment
    job = node.run_blob(again.blob, bundle=shown)
    site.jobs.evidence[again.blob] = job.evidence
    site.run(site.watcher())
    assert site.credit() == FEE


def test_a_request_without_a_log_is_not_found(site):
    newest = site.chain.rpc.block_number()
    with pytest.raises(NotFoundError):
        public_input_of(site.coordinator, 99, newest=newest)
