"""AttestationVerifier: an enclave's signature, and how it joins or replaces a proof."""

import pytest

from privacy.chain.account import eth_account
from privacy.zkml.field import MODULUS
from tests.unit.chain.conftest import FEE, ZERO

KEY = eth_account().from_key(b"\x11" * 32)
OTHER = eth_account().from_key(b"\x22" * 32)
ATTESTATION, BOTH = 1, 2


@pytest.fixture
def attested(world):
    """A model without circuit, and an enclave that serves it."""
    model_id = world.register(ZERO, outputs=2)
    _vouch(world, KEY.address, model_id)
    return model_id


def _vouch(world, key, model_id, *, simulated=False, lives_s=86_400, **how):
    expires = world.chain.now + lives_s
    arguments = (key, model_id, b"\5" * 32, expires, simulated)
    world.attestations.call("register", *arguments, **how)


def _sign(world, request_id, instances, key=KEY):
    digest = world.coordinator.view("answerDigest", request_id, instances)
    return bytes(key.unsafe_sign_hash(digest).signature)


def _answer(instances, signature, proof=b""):
    return (proof, instances, [], signature)


def test_an_attested_answer_needs_no_proof(world, attested):
    provider = world.accounts[2]
    consumer = world.consumer()
    order = world.order(attested, 7, evidence=ATTESTATION, callbackGas=300_000)
    request_id = consumer.call("ask", order, [], value=FEE)
    instances = [7, 1, MODULUS - 2]
    answer = _answer(instances, _sign(world, request_id, instances))
    world.coordinator.call("deliver", request_id, answer, sender=provider)
    assert world.chain.logged("Fulfilled")[0]["outputs"] == [1, -2]
    assert consumer.view("calls") == 1
    assert world.credit(provider) == FEE


def _sign_by_wallet(world, request_id, attested, *, proven):
    """Sign as any wallet that knows EIP-712 does."""
    from eth_account.messages import encode_typed_data
    from eth_utils import keccak

    packed = b"".join(v.to_bytes(32, "big") for v in (7, 1, 2))
    message = encode_typed_data(
        {
            "name": "PrivacyCompute",
            "version": "1",
            "chainId": 1,
            "verifyingContract": world.coordinator.address,
        },
        {
            "Answer": [
                {"name": "requestId", "type": "uint256"},
                {"name": "modelId", "type": "bytes32"},
                {"name": "inputCommitment", "type": "bytes32"},
                {"name": "instancesHash", "type": "bytes32"},
                {"name": "proven", "type": "bool"},
            ]
        },
        {
            "requestId": request_id,
            "modelId": attested,
            "inputCommitment": (7).to_bytes(32, "big"),
            "instancesHash": keccak(packed),
            "proven": proven,
        },
    )
    signed = KEY.sign_message(message)
    return _answer([7, 1, 2], bytes(signed.signature))


def test_the_digest_is_the_one_of_eip_712(world, attested, refuses):
    request_id = world.ask(world.order(attested, 7, evidence=ATTESTATION))
    beside_a_proof = _sign_by_wallet(world, request_id, attested, proven=True)
    with refuses("UnknownEnclave"):  # near the enclave's own, which is asked for here
        world.coordinator.call("deliver", request_id, beside_a_proof)
    own = _sign_by_wallet(world, request_id, attested, proven=False)
    world.coordinator.call("deliver", request_id, own)


def test_a_signature_is_for_one_request_only(world, attested, refuses):
    order = world.order(attested, 7, evidence=ATTESTATION)
    first, second = world.ask(order), world.ask(order)
    answer = _answer([7, 1, 2], _sign(world, first, [7, 1, 2]))
    with refuses("UnknownEnclave"):  # recovers to nobody's key
        world.coordinator.call("deliver", second, answer)
    world.coordinator.call("deliver", first, answer)


def test_a_signature_is_for_one_chain_and_one_coordinator(world, attested, refuses):
    chain = world.chain
    parts = [c.address for c in (world.registry, world.proofs, world.attestations)]
    twin = chain.deploy("InferenceCoordinator", *parts)
    order = world.order(attested, 7, evidence=ATTESTATION)
    here, there = world.ask(order), twin.call("request", order, [], value=FEE)
    assert here == there
    answer = _answer([7, 1, 2], _sign(world, here, [7, 1, 2]))
    with refuses("UnknownEnclave"):
        twin.call("deliver", there, answer)


def test_a_signature_covers_the_whole_answer(world, attested, refuses):
    request_id = world.ask(world.order(attested, 7, evidence=ATTESTATION))
    signature = _sign(world, request_id, [7, 1, 2])
    for changed in ([7, 1, 3], [7, 2, 2]):
        with refuses("UnknownEnclave"):
            world.coordinator.call("deliver", request_id, _answer(changed, signature))


def test_malformed_signatures_are_refused(world, attested, refuses):
    request_id = world.ask(world.order(attested, 7, evidence=ATTESTATION))
    good = _sign(world, request_id, [7, 1, 2])
    order_n = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    high_s = order_n - int.from_bytes(good[32:64], "big")
    twin = good[:32] + high_s.to_bytes(32, "big") + bytes([55 - good[64]])
    for bad in (b"", good[:64], good + b"\0", bytes(65), twin):
        with refuses("BadSignature"):
            world.coordinator.call("deliver", request_id, _answer([7, 1, 2], bad))


def test_only_vouched_for_enclaves_answer(world, attested, refuses):
    request_id = world.ask(world.order(attested, 7, evidence=ATTESTATION))
    answer = _answer([7, 1, 2], _sign(world, request_id, [7, 1, 2], key=OTHER))
    with refuses("UnknownEnclave"):
        world.coordinator.call("deliver", request_id, answer)


def test_a_revoked_enclave_stays_revoked(world, attested, refuses):
    request_id = world.ask(world.order(attested, 7, evidence=ATTESTATION))
    world.attestations.call("revoke", KEY.address)
    answer = _answer([7, 1, 2], _sign(world, request_id, [7, 1, 2]))
    with refuses("EnclaveIsRevoked"):
        world.coordinator.call("deliver", request_id, answer)
    with refuses("EnclaveExists"):
        _vouch(world, KEY.address, attested)


def test_an_enclaves_key_expires(world, attested, refuses):
    order = world.order(
        attested, 7, evidence=ATTESTATION, deadline=world.chain.now + 10**6
    )
    request_id = world.ask(order)
    answer = _answer([7, 1, 2], _sign(world, request_id, [7, 1, 2]))
    world.chain.pass_time(86_401)
    with refuses("EnclaveExpired"):
        world.coordinator.call("deliver", request_id, answer)


def test_an_enclave_serves_one_model(world, attested, refuses):
    other = world.register(ZERO, outputs=2, manifestDigest=b"\6" * 32)
    request_id = world.ask(world.order(other, 7, evidence=ATTESTATION))
    answer = _answer([7, 1, 2], _sign(world, request_id, [7, 1, 2]))
    with refuses("EnclaveServesAnother"):
        world.coordinator.call("deliver", request_id, answer)


def test_a_simulated_enclave_needs_the_requesters_consent(world, refuses):
    model_id = world.register(ZERO, outputs=2)
    _vouch(world, OTHER.address, model_id, simulated=True)
    strict = world.ask(world.order(model_id, 7, evidence=ATTESTATION))
    lax = world.ask(world.order(model_id, 7, evidence=ATTESTATION, allowSimulated=True))
    answers = {
        i: _answer([7, 1, 2], _sign(world, i, [7, 1, 2], key=OTHER))
        for i in (strict, lax)
    }
    with refuses("SimulatedEnclave"):
        world.coordinator.call("deliver", strict, answers[strict])
    world.coordinator.call("deliver", lax, answers[lax])


def test_outputs_outside_the_field_are_refused(world, attested, refuses):
    request_id = world.ask(world.order(attested, 7, evidence=ATTESTATION))
    instances = [7, 1, MODULUS]
    answer = _answer(instances, _sign(world, request_id, instances))
    with refuses("OutputOutOfField"):
        world.coordinator.call("deliver", request_id, answer)


def test_proof_and_attestation_are_both_needed(plain, refuses):
    world, (proof, second) = plain.world, plain.circuit.proofs
    _vouch(world, KEY.address, plain.model_id)
    request_id = world.ask(plain.order(proof, evidence=BOTH))
    instances = list(proof.instances)
    signature = _sign(world, request_id, instances)
    refused = {
        "BadSignature": plain.answer(proof),
        "UnknownEnclave": plain.answer(
            proof, signature=_sign(world, request_id, instances, key=OTHER)
        ),
        "ProofInvalid": plain.answer(proof, proof=second.proof, signature=signature),
    }
    for error, answer in refused.items():
        with refuses(error):
            world.coordinator.call("deliver", request_id, answer)
    answer = plain.answer(proof, signature=signature)
    world.coordinator.call("deliver", request_id, answer)
    assert world.credit(world.accounts[0]) == FEE


def test_an_attestation_does_not_stand_in_for_a_proof(plain, refuses):
    world, proof = plain.world, plain.circuit.proofs[0]
    _vouch(world, KEY.address, plain.model_id)
    request_id = world.ask(plain.order(proof))
    signature = _sign(world, request_id, list(proof.instances))
    with refuses("WrongProofLength"):
        world.coordinator.call(
            "deliver", request_id, plain.answer(proof, proof=b"", signature=signature)
        )


def test_a_model_without_circuit_takes_no_requests_for_proofs(world, attested, refuses):
    for evidence in (0, BOTH):
        with refuses("NoCircuit"):
            world.ask(world.order(attested, 7, evidence=evidence))


def test_only_the_authority_vouches_and_revokes(world, attested, refuses):
    stranger = world.accounts[3]
    with refuses("OwnableUnauthorizedAccount"):
        _vouch(world, OTHER.address, attested, sender=stranger)
    with refuses("OwnableUnauthorizedAccount"):
        world.attestations.call("revoke", KEY.address, sender=stranger)


def test_vouching_is_checked(world, attested, refuses):
    with refuses("EnclaveExists"):
        _vouch(world, KEY.address, attested)
    with refuses("EnclaveExpired"):
        _vouch(world, OTHER.address, attested, lives_s=0)
    with refuses("UnknownEnclave"):
        _vouch(world, ZERO, attested)
    with refuses("UnknownEnclave"):
        world.attestations.call("revoke", OTHER.address)
