"""Enclaves answer contracts on a real chain: vouched for, checked, beside proofs."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from gateway.chain.state import Known
from privacy.chain.abi import Reverted
from privacy.chain.contracts import contract
from privacy.chain.enclaves import attest_enclave, recoverable, revoke, vouch
from privacy.chain.inputs import parse_input, seal_to_enclave
from privacy.chain.models import ATTESTATION, BOTH, input_path
from privacy.encoding import sha256_hex
from privacy.errors import FormatError, NotFoundError, VerificationError
from privacy.onchain import Question, terms_of
from privacy.tee.contract import ContractAnswer
from privacy.tee.enclave import Enclave
from privacy.tee.engine import Engine
from privacy.tee.measure import measure_loaded
from privacy.tee.simulator import SimulatedTdxAttester
from privacy.zkml.field import signed
from tests.support.chain_site import FEE, PROVIDER, PUBLISHER

NONCE = bytes(range(32))
LAX = {"evidence": ATTESTATION, "allow_simulated": True}


def make_enclave(bundle, *, knows_manifest=True):
    model = (bundle.root / "tee" / "model.onnx").read_bytes()
    return Enclave(
        Engine(model),
        SimulatedTdxAttester(),
        measure_loaded(model),
        model_sha256=bundle.sha256,
        terms=terms_of(bundle.manifest) if knows_manifest else None,
    )


@pytest.fixture
def enclave(site):
    site.jobs.enclave = make_enclave(site.bundle)
    return site.jobs.enclave


def attested(site, enclave):
    return attest_enclave(
        site.bundle,
        enclave.evidence(NONCE),
        nonce=NONCE,
        now=datetime.now(UTC),
        allow_simulated=True,
    )


def vouched(site, enclave, **changes):
    return vouch(
        site.chain.sender(changes.pop("who", PUBLISHER)),
        site.chain.rpc,
        changes.pop("config", site.config),
        site.model_id,
        changes.pop("bundle", site.bundle),
        attested(site, enclave),
        valid_s=changes.pop("valid_s", 86_400),
        folder=site.folder,
    )


def answer(site, **order):
    """Ask, let a watcher answer, and return the outputs; None if it did not."""
    watcher = site.watcher()
    request_id = site.ask(**order)
    site.chain.mine(2)
    site.run(watcher, rounds=4)
    site.notes = watcher.state.notes()
    topics = [site.coordinator.abi.topic("Fulfilled"), request_id.to_bytes(32, "big")]
    logs = site.chain.rpc.logs(site.coordinator.address, topics)
    if not logs:
        return None
    event = site.coordinator.abi.event(
        [bytes.fromhex(t[2:]) for t in logs[0]["topics"]],
        bytes.fromhex(logs[0]["data"][2:]),
    )
    return event.values["outputs"]


def test_an_enclave_answers_without_a_proof(site, enclave):
    made = vouched(site, enclave)
    outputs = answer(site, **LAX)
    params = terms_of(site.bundle.manifest)
    proven = signed(site.proofs[0].instances[1])
    assert abs(outputs[0] - proven) <= params.tolerance * 2**params.output_bits
    assert site.credit() == FEE
    assert sha256_hex(made.path.read_bytes()) == made.result_sha256
    kept = json.loads(made.path.read_bytes())
    assert kept["result"]["simulated"] is True
    assert (site.receipts / "1.tee.receipt.json").exists()
    assert not list(site.folder.glob("sealed/*"))


def test_proof_and_enclave_answer_as_one(site, enclave):
    vouched(site, enclave)
    outputs = answer(site, **{**LAX, "evidence": BOTH})
    assert outputs == [signed(site.proofs[0].instances[1])]
    delivery = json.loads((site.receipts / "1.delivery.json").read_text())
    assert set(delivery["jobs"]) == {"zkml", "tee"}


def test_an_input_sealed_by_the_requester_is_never_seen_here(site, enclave):
    vouched(site, enclave)
    given = parse_input(site.bundle, site.inputs[0])
    sealed = seal_to_enclave(
        site.bundle,
        given,
        enclave.evidence(NONCE),
        nonce=NONCE,
        config=site.config,
        now=datetime.now(UTC),
        allow_simulated=True,
    )
    path = input_path(site.folder, given.commitment, sealed=True)
    path.parent.mkdir(parents=True)
    path.write_bytes(sealed)
    assert answer(site, known=False, **LAX) is not None
    assert not input_path(site.folder, given.commitment).exists()


def test_what_is_sealed_for_one_request_serves_no_other_of_its_number(site, enclave):
    """A reorganisation gives a number to another request."""
    answers, made = site.watcher()._answers, []
    (served,) = site.config.models.values()
    for raw in site.inputs[:2]:
        given = parse_input(site.bundle, raw)
        question = Question(
            chain_id=site.config.chain_id,
            coordinator=bytes.fromhex(site.coordinator.address[2:]),
            request_id=1,
            model_id=site.model_id,
            commitment=given.commitment,
        )
        lax = {"allowSimulated": True}
        what = (Known(1), lax, served, site.bundle, question, given)
        made.append(answers._sealed(*what))
        assert answers._sealed(*what) == made[-1]
    assert made[0] != made[1]
    answers.forget(1)
    assert not list(site.folder.glob("sealed/*"))


def test_a_simulated_enclave_is_refused_unless_the_request_allows_it(site, enclave):
    vouched(site, enclave)
    assert answer(site, evidence=ATTESTATION) is None
    assert "simulated" in site.notes[1]


def test_an_enclave_that_nobody_vouched_for_waits(site, enclave):
    assert answer(site, **LAX) is None
    assert "privacy chain vouch" in site.notes[1]
    vouched(site, enclave)
    site.chain.mine(2)
    site.run(site.watcher())
    assert site.credit() == FEE


def test_a_revoked_enclave_answers_no_more(site, enclave):
    made = vouched(site, enclave)
    authority = site.chain.sender(PUBLISHER)
    revoke(authority, site.chain.rpc, site.config, made.address)
    assert answer(site, **LAX) is None
    assert "EnclaveIsRevoked" in site.notes[1]


def test_an_enclave_that_is_gone_has_its_input_sealed_anew(site, enclave):
    vouched(site, enclave)
    watcher = site.watcher()
    site.ask(**LAX)
    site.chain.mine(2)
    site.jobs.waits = 1
    watcher.round()  # sealed to the first enclave, which ends now
    site.jobs.enclave = make_enclave(site.bundle)
    vouched(site, site.jobs.enclave)
    site.run(watcher)
    assert site.credit() == FEE


def test_only_the_authority_vouches(site, enclave):
    with pytest.raises(Reverted, match="OwnableUnauthorizedAccount"):
        vouched(site, enclave, who=PROVIDER)
    vouched(site, enclave)
    with pytest.raises(Reverted, match="EnclaveExists"):
        vouched(site, enclave)


def test_evidence_is_verified_before_anyone_vouches(site, enclave):
    given = {"nonce": NONCE, "now": datetime.now(UTC)}
    evidence = enclave.evidence(NONCE)
    with pytest.raises(VerificationError):
        attest_enclave(site.bundle, evidence, **given)  # simulated
    given["allow_simulated"] = True
    attest_enclave(site.bundle, evidence, **given)
    with pytest.raises(VerificationError):
        attest_enclave(site.bundle, evidence, **{**given, "nonce": bytes(32)})
    other = replace(site.bundle, sha256="ab" * 32)
    with pytest.raises(VerificationError):
        attest_enclave(other, evidence, **given)
    with pytest.raises(FormatError):
        attest_enclave(site.bundle, b"{}", **given)


def test_an_enclave_without_a_manifest_is_not_vouched_for(site):
    enclave = make_enclave(site.bundle, knows_manifest=False)
    with pytest.raises(VerificationError) as caught:
        attested(site, enclave)
    assert caught.value.code == "no-chain-key"


def test_a_model_registered_falsely_is_not_vouched_for(site, enclave):
    """A publisher who states another scale would have answers read wrongly."""
    publisher = site.chain.sender(PUBLISHER + 40)
    registry = contract(site.chain.rpc, site.config, "registry")
    honest = registry.view("get", site.model_id)
    false = {**honest, "outputScale": honest["outputScale"] + 1}
    registry.send(publisher, "register", bytes(32), tuple(false.values()))
    model_id = registry.view("modelIdOf", publisher.address, honest["manifestDigest"])
    with pytest.raises(VerificationError, match="outputScale"):
        vouch(
            site.chain.sender(PUBLISHER),
            site.chain.rpc,
            site.config,
            model_id,
            site.bundle,
            attested(site, enclave),
            valid_s=60,
            folder=site.folder,
        )


def test_a_signature_of_nobody_known_is_not_delivered(site):
    question = Question(31337, bytes(20), 1, site.model_id, bytes(32))
    for signature in (bytes([1]) * 64, b"\x7f" + bytes(62) + b"\1"):
        with pytest.raises((NotFoundError, FormatError)):
            recoverable(
                site.chain.rpc,
                site.config,
                question,
                ContractAnswer((1, 2), signature),
                proven=False,
            )
