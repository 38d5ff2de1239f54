"""EZKL's verifier contracts alone: deployed, asked by eth_call, priced."""

import shutil
from dataclasses import replace

import pytest

from privacy.chain.abi import Reverted
from privacy.chain.verifiers import (
    artifact_words,
    deploy_verifier,
    estimate_verify,
    verify_call,
)
from privacy.errors import CannotVerifyError, VerificationError
from privacy.zkml.blobs import Proof
from privacy.zkml.evm.facts import read_facts, write_facts
from tests.support.chain_site import PUBLISHER


@pytest.mark.parametrize("kind", ["plain", "reusable"])
def test_a_verifier_checks_proofs_by_itself(site, verifier_folder, tmp_path, kind):
    folder = tmp_path / kind
    shutil.copytree(verifier_folder, folder)
    write_facts(folder, replace(read_facts(folder), chosen=kind))
    vka = artifact_words(folder) if kind == "reusable" else []
    rpc, proof = site.chain.rpc, site.proofs[0]
    address = deploy_verifier(site.chain.sender(PUBLISHER), folder)
    verify_call(rpc, address, proof, vka=vka)
    assert 400_000 < estimate_verify(rpc, address, proof, vka=vka) < 1_000_000
    forged = Proof((proof.instances[0], proof.instances[1] + 1), proof.proof)
    with pytest.raises(VerificationError):
        verify_call(rpc, address, forged, vka=vka)
    with pytest.raises(Reverted):
        estimate_verify(rpc, address, forged, vka=vka)


def test_what_is_no_verifier_is_told_apart(site):
    for address in ("0x" + "11" * 20, site.config.contracts["coordinator"]):
        with pytest.raises((CannotVerifyError, VerificationError)):
            verify_call(site.chain.rpc, address, site.proofs[0])


def test_changed_code_is_not_deployed(site, verifier_folder, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(verifier_folder, folder)
    with (folder / "plain.bin").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(VerificationError):
        deploy_verifier(site.chain.sender(PUBLISHER), folder)
