"""ModelRegistry and ProofVerifier: real proofs pass, everything else is refused."""

import pytest

from privacy.chain.abi import Abi
from privacy.zkml.blobs import Proof
from privacy.zkml.field import MODULUS
from tests.unit.chain.conftest import NAME, ZERO, hash_proof


def _verify(proven, proof, vka=()):
    world = proven.world
    arguments = (proven.model_id, proof.proof, list(proof.instances), list(vka))
    return world.proofs.view("verify", *arguments)


def _flip(raw, at):
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


def test_real_proofs_hold_behind_the_plain_verifier(plain):
    for proof in plain.circuit.proofs:
        _verify(plain, proof)


def test_real_proofs_hold_behind_the_reusable_verifier(reusable):
    for proof in reusable.circuit.proofs:
        _verify(reusable, proof, reusable.circuit.vka)


@pytest.mark.parametrize("kind", ["plain", "reusable"])
def test_a_changed_proof_is_invalid(kind, request, refuses):
    proven = request.getfixturevalue(kind)
    vka = proven.circuit.vka if kind == "reusable" else ()
    first, second = proven.circuit.proofs
    (hashed, output), size = first.instances, len(first.proof)
    bad = [Proof(first.instances, _flip(first.proof, at)) for at in range(0, size, 181)]
    bad += [
        Proof((hashed, output + 1), first.proof),
        Proof((hashed, (output - 1) % MODULUS), first.proof),
        Proof(second.instances, first.proof),
        Proof((output, hashed), first.proof),
        Proof(first.instances, bytes(size)),
    ]
    for proof in bad:
        with refuses("ProofInvalid"):
            _verify(proven, proof, vka)


def test_instances_have_one_spelling(plain, refuses):
    proof = plain.circuit.proofs[0]
    hashed, output = proof.instances
    for values in ((hashed, output + MODULUS), (hashed + MODULUS, output)):
        with refuses("InstanceOutOfField"):
            _verify(plain, Proof(values, proof.proof))


def test_a_proof_has_its_exact_length(plain, refuses):
    proof = plain.circuit.proofs[0]
    for raw in (proof.proof[:-1], proof.proof + b"\0", b""):
        with refuses("WrongProofLength"):
            _verify(plain, Proof(proof.instances, raw))


def test_a_proof_has_its_exact_number_of_instances(plain, refuses):
    proof = plain.circuit.proofs[0]
    for values in ((), proof.instances[:1], (*proof.instances, 0)):
        with refuses("WrongInstanceCount"):
            _verify(plain, Proof(values, proof.proof))


def test_another_models_artifact_is_refused(reusable, refuses):
    proof, vka = reusable.circuit.proofs[0], reusable.circuit.vka
    others = [[], vka[:-1], [*vka, bytes(32)], [_flip(vka[0], 0), *vka[1:]]]
    for other in others:
        with refuses("VkaDigestMismatch"):
            _verify(reusable, proof, other)


def test_a_plain_verifier_takes_no_artifact(plain, refuses):
    with refuses("VkaDigestMismatch"):
        _verify(plain, plain.circuit.proofs[0], plain.circuit.vka)


def test_an_artifact_that_was_not_registered_does_not_verify(world, circuit, refuses):
    verifier = world.chain.deploy_code(circuit.reusable, Abi([]))
    proof = circuit.proofs[0]
    model_id = world.register(
        verifier.address,
        proofBytes=len(proof.proof),
        vkaDigest=bytes.fromhex(circuit.facts.vka_digest),
    )
    with refuses("ProofInvalid"):
        world.proofs.view(
            "verify", model_id, proof.proof, list(proof.instances), circuit.vka
        )


@pytest.mark.parametrize(
    ("helper", "arguments", "error"),
    [
        ("ReturnsWords", (b"",), "BadReturnData"),
        ("ReturnsWords", (bytes(32),), "BadReturnData"),
        ("ReturnsWords", (bytes(31) + b"\2",), "BadReturnData"),
        ("ReturnsWords", (b"\1" + bytes(31),), "BadReturnData"),
        ("ReturnsWords", (bytes(31) + b"\1" + bytes(1),), "BadReturnData"),
        ("ReturnsWords", (bytes(31) + b"\1" + bytes(32),), "BadReturnData"),
        ("ReturnsBomb", (), "BadReturnData"),
        ("WritesState", (), "ProofInvalid"),
    ],
)
def test_a_plain_verifier_that_misbehaves_proves_nothing(
    world, refuses, helper, arguments, error
):
    verifier = world.helper(helper, *arguments)
    model_id = world.register(verifier.address)
    with refuses(error):
        world.proofs.view("verify", model_id, bytes(32), [1, 2], [])


@pytest.mark.parametrize("words", [[1], [1, 5], [0, 7, 0], [1, 5, 0], [2, 7, 0]])
def test_a_reusable_verifier_that_misbehaves_proves_nothing(world, refuses, words):
    """Word 0 must be 1 and word 1 the artifact's digest, whatever follows."""
    from privacy.zkml.evm.calldata import keccak

    said = b"".join(w.to_bytes(32, "big") for w in words)
    verifier = world.helper("ReturnsWords", said)
    vka = [b"\7" * 32]
    model_id = world.register(verifier.address, vkaDigest=keccak(vka[0]))
    with refuses("BadReturnData"):
        world.proofs.view("verify", model_id, bytes(32), [1, 2], vka)


def test_a_verifier_that_burns_gas_cannot_make_the_check_pass(world, refuses):
    verifier = world.helper("BurnsGas")
    model_id = world.register(verifier.address)
    data = world.proofs.abi.call("verify", model_id, bytes(32), [1, 2], [])
    with refuses("ProofInvalid"):
        world.chain.send("", world.proofs.address, data, gas=1_000_000)


def test_a_model_without_circuit_has_no_proofs(world, refuses):
    model_id = world.register(ZERO)
    with refuses("NoCircuit"):
        world.proofs.view("verify", model_id, bytes(32), [1, 2], [])


def test_a_model_is_found_by_publisher_and_manifest(world):
    verifier = world.helper("HashVerifier")
    first = world.register(verifier.address)
    assert world.chain.logged("Registered")[0]["version"] == 1
    second = world.register(verifier.address, manifestDigest=b"\4" * 32)
    publisher = world.accounts[0]
    assert first == world.registry.view("modelIdOf", publisher, b"\1" * 32)
    assert world.registry.view("versionsOf", publisher, NAME) == [first, second]
    model = world.registry.view("get", first)
    assert model["publisher"] == publisher
    assert model["active"] is True


def test_a_model_never_changes(world, refuses):
    verifier = world.helper("HashVerifier")
    world.register(verifier.address)
    with refuses("ModelExists"):
        world.register(verifier.address, outputScale=9)


def test_nobody_takes_anothers_model_id(world):
    verifier = world.helper("HashVerifier")
    mine = world.register(verifier.address)
    theirs = world.registry.view("modelIdOf", world.accounts[1], b"\1" * 32)
    assert mine != theirs


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"inputs": 0}, "BadShape"),
        ({"outputs": 0}, "BadShape"),
        ({"inputs": 2}, "BadShape"),  # a hash is one instance
        ({"inputKind": 1, "inputs": 4096}, "BadShape"),
        ({"verifierCodeHash": b"\1" * 32}, "VerifierCodeMismatch"),
        ({"verifierCodeHash": bytes(32)}, "VerifierCodeMismatch"),
        ({"verifier": "0x" + "77" * 20}, "VerifierCodeMismatch"),
        ({"verifier": ZERO}, "VerifierCodeMismatch"),
        (
            {"verifier": ZERO, "verifierCodeHash": bytes(32), "vkaDigest": b"\1" * 32},
            "VerifierCodeMismatch",
        ),
    ],
)
def test_register_refuses_what_cannot_work(world, refuses, changes, error):
    verifier = world.helper("HashVerifier")
    with refuses(error):
        world.register(verifier.address, **changes)


def test_only_the_publisher_deprecates_and_only_once(world, refuses):
    verifier = world.helper("HashVerifier")
    model_id = world.register(verifier.address)
    instances = [5, 6]
    arguments = (model_id, hash_proof(instances), instances, [])
    world.proofs.view("verify", *arguments)
    with refuses("NotPublisher"):
        world.registry.call("deprecate", model_id, sender=world.accounts[1])
    world.registry.call("deprecate", model_id)
    with refuses("ModelInactive"):
        world.registry.call("deprecate", model_id)
    with refuses("ModelInactive"):
        world.registry.view("get", model_id)
    with refuses("ModelInactive"):
        world.proofs.view("verify", *arguments)
    assert world.registry.view("find", model_id)["active"] is False


def test_an_unknown_model_is_named(world, refuses):
    for function in ("get", "find", "circuit"):
        with refuses("UnknownModel"):
            world.registry.view(function, b"\5" * 32)
    with refuses("UnknownModel"):
        world.registry.call("deprecate", b"\5" * 32)
    with refuses("UnknownModel"):
        world.proofs.view("verify", b"\5" * 32, b"", [], [])
