"""InferenceCoordinator: verified before paid, paid once, ended once."""

import pytest

from privacy.zkml.field import MODULUS
from tests.unit.chain.conftest import FEE, ZERO, hash_proof

GAS = 200_000


def _signed(values):
    return [v if v <= MODULUS // 2 else v - MODULUS for v in values]


@pytest.mark.parametrize("kind", ["plain", "reusable"])
def test_a_real_proof_is_verified_paid_and_called_back(kind, request):
    proven = request.getfixturevalue(kind)
    world, proof = proven.world, proven.circuit.proofs[0]
    vka = proven.circuit.vka if kind == "reusable" else []
    requester, provider = world.accounts[1:3]
    consumer = world.consumer()
    order = proven.order(proof, callbackGas=GAS)
    request_id = consumer.call("ask", order, [], sender=requester, value=FEE)
    world.coordinator.call(
        "deliver", request_id, proven.answer(proof, vka=vka), sender=provider
    )
    (fulfilled,) = world.chain.logged("Fulfilled")
    assert fulfilled["outputs"] == _signed(proof.instances[1:])
    assert not world.chain.logged("CallbackFailed")
    assert consumer.view("calls") == 1
    assert consumer.view("outputs", 0) == fulfilled["outputs"][0]
    assert consumer.view("lastRequest") == request_id
    assert world.credit(provider) == FEE
    before = world.chain.balance(provider)
    world.coordinator.call("withdraw", provider, sender=provider)
    assert world.chain.balance(provider) == before + FEE
    assert world.chain.balance(world.coordinator.address) == 0


def test_a_forged_answer_is_neither_paid_nor_called_back(plain, refuses):
    world, (first, second) = plain.world, plain.circuit.proofs
    consumer = world.consumer()
    order = plain.order(first, callbackGas=GAS)
    request_id = consumer.call("ask", order, [], value=FEE)
    better = (first.instances[0], first.instances[1] + 1)
    forged = {
        "ProofInvalid": plain.answer(first, instances=list(better)),
        "WrongInput": plain.answer(second),
        "InstanceOutOfField": plain.answer(
            first, instances=[first.instances[0], first.instances[1] + MODULUS]
        ),
        "WrongProofLength": plain.answer(first, proof=first.proof + b"\0"),
        "WrongInstanceCount": plain.answer(first, instances=[first.instances[0]]),
    }
    for error, answer in forged.items():
        with refuses(error):
            world.coordinator.call("deliver", request_id, answer)
    assert consumer.view("calls") == 0
    assert world.credit(world.accounts[0]) == 0
    world.coordinator.call("deliver", request_id, plain.answer(first))
    assert consumer.view("calls") == 1


def test_a_proof_of_another_model_is_refused(plain, refuses):
    world, proof = plain.world, plain.circuit.proofs[0]
    other = world.helper("HashVerifier")
    model_id = world.register(
        other.address, manifestDigest=b"\6" * 32, proofBytes=len(proof.proof)
    )
    request_id = world.ask(world.order(model_id, proof.instances[0]))
    with refuses("ProofInvalid"):
        world.coordinator.call("deliver", request_id, plain.answer(proof))


def test_a_request_ends_once(hashed, refuses):
    world = hashed.world
    request_id = world.ask(hashed.order(7))
    hashed.deliver(request_id, hashed.answer(7, 1))
    with refuses("RequestEnded"):
        hashed.deliver(request_id, hashed.answer(7, 1))
    world.chain.pass_time(7200)
    for function in ("refundExpired", "cancel", "getRequest"):
        with refuses("RequestEnded"):
            world.coordinator.call(function, request_id)
    assert world.credit(world.accounts[0]) == FEE


def test_an_answer_to_one_request_does_not_end_another(hashed, refuses):
    first = hashed.world.ask(hashed.order(7))
    second = hashed.world.ask(hashed.order(8))
    hashed.deliver(first, hashed.answer(7, 1))
    with refuses("WrongInput"):
        hashed.deliver(second, hashed.answer(7, 1))


def test_of_two_gateways_only_the_first_is_paid(hashed, refuses):
    world = hashed.world
    one, two = world.accounts[2:4]
    request_id = world.ask(hashed.order(7))
    hashed.deliver(request_id, hashed.answer(7, 1), sender=one)
    with refuses("RequestEnded"):
        hashed.deliver(request_id, hashed.answer(7, 1), sender=two)
    assert (world.credit(one), world.credit(two)) == (FEE, 0)


def test_a_named_provider_alone_delivers(hashed, refuses):
    world = hashed.world
    chosen, other = world.accounts[2:4]
    request_id = world.ask(hashed.order(7, provider=chosen))
    with refuses("NotProvider"):
        hashed.deliver(request_id, hashed.answer(7, 1), sender=other)
    hashed.deliver(request_id, hashed.answer(7, 1), sender=chosen)
    assert world.credit(chosen) == FEE


@pytest.mark.parametrize("request_id", [0, 1, 2, 2**256 - 1])
def test_an_unknown_request_is_refused(hashed, refuses, request_id):
    with refuses("UnknownRequest"):
        hashed.deliver(request_id, hashed.answer(7, 1))
    for function in ("cancel", "refundExpired", "getRequest"):
        with refuses("UnknownRequest"):
            hashed.world.coordinator.call(function, request_id)


def test_an_expired_request_is_refunded_and_not_answered(hashed, refuses):
    world = hashed.world
    owner, anyone = world.accounts[1], world.accounts[5]
    request_id = world.ask(hashed.order(7), sender=owner)
    with refuses("NotExpired"):
        world.coordinator.call("refundExpired", request_id)
    world.chain.pass_time(3600)  # the last second counts
    with refuses("NotExpired"):
        world.coordinator.call("refundExpired", request_id)
    world.chain.pass_time(1)
    with refuses("RequestExpired"):
        hashed.deliver(request_id, hashed.answer(7, 1))
    world.coordinator.call("refundExpired", request_id, sender=anyone)
    assert world.chain.logged("Refunded")[0]["owner"] == owner
    assert (world.credit(owner), world.credit(anyone)) == (FEE, 0)
    with refuses("RequestEnded"):
        world.coordinator.call("refundExpired", request_id)


def test_a_cancelled_request_can_still_be_answered_for_a_while(hashed, refuses):
    world = hashed.world
    owner, provider = world.accounts[1:3]
    request_id = world.ask(hashed.order(7), sender=owner)
    with refuses("NotOwner"):
        world.coordinator.call("cancel", request_id, sender=provider)
    world.coordinator.call("cancel", request_id, sender=owner)
    world.chain.pass_time(600)
    hashed.deliver(request_id, hashed.answer(7, 1), sender=provider)
    assert world.credit(provider) == FEE


def test_a_cancelled_request_is_refunded_after_the_notice(hashed):
    world = hashed.world
    owner = world.accounts[1]
    request_id = world.ask(hashed.order(7), sender=owner)
    world.coordinator.call("cancel", request_id, sender=owner)
    world.chain.pass_time(601)
    world.coordinator.call("refundExpired", request_id)
    assert world.credit(owner) == FEE


def test_cancelling_again_does_not_put_the_deadline_off(hashed):
    world = hashed.world
    request_id = world.ask(hashed.order(7))
    for _ in range(2):
        world.coordinator.call("cancel", request_id)
        deadline = world.coordinator.view("getRequest", request_id)["deadline"]
        assert deadline <= world.chain.now + 600
        world.chain.pass_time(300)
    world.chain.pass_time(1)
    world.coordinator.call("refundExpired", request_id)


def test_the_owner_may_be_another_than_who_asks(hashed, refuses):
    world = hashed.world
    owner = world.accounts[4]
    request_id = world.ask(hashed.order(7, owner=owner))
    with refuses("NotOwner"):
        world.coordinator.call("cancel", request_id)
    world.coordinator.call("cancel", request_id, sender=owner)
    world.chain.pass_time(601)
    world.coordinator.call("refundExpired", request_id)
    assert world.credit(owner) == FEE


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"deadline": 1}, "DeadlinePassed"),
        ({"callback": ZERO, "callbackGas": 1}, "CallbackGasOutOfRange"),
        ({"callback": "0x" + "99" * 20, "callbackGas": 0}, "CallbackGasOutOfRange"),
        ({"callbackGas": 5_000_001}, "CallbackGasOutOfRange"),
        ({"callback": "0x" + "99" * 20, "callbackGas": 9}, "CallbackNotAllowed"),
        ({"modelId": b"\5" * 32}, "UnknownModel"),
        ({"inputCommitment": bytes(32)}, "BadInput"),
    ],
)
def test_request_refuses_what_cannot_be_answered(hashed, refuses, changes, error):
    world = hashed.world
    with refuses(error):
        world.ask(hashed.order(7, **changes))
    assert world.chain.balance(world.coordinator.address) == 0


def test_request_refuses_an_inactive_model(hashed, refuses):
    hashed.world.registry.call("deprecate", hashed.model_id)
    with refuses("ModelInactive"):
        hashed.world.ask(hashed.order(7))


def test_open_requests_of_a_deprecated_model_are_refunded(hashed, refuses):
    world = hashed.world
    request_id = world.ask(hashed.order(7))
    world.registry.call("deprecate", hashed.model_id)
    with refuses("ModelInactive"):
        hashed.deliver(request_id, hashed.answer(7, 1))
    world.chain.pass_time(3601)
    world.coordinator.call("refundExpired", request_id)
    assert world.credit(world.accounts[0]) == FEE


def test_a_forgeable_model_needs_the_requesters_consent(plain, refuses):
    proof = plain.circuit.proofs[0]
    with refuses("InsecureSrs"):
        plain.world.ask(plain.order(proof, allowInsecureSrs=False))
    plain.world.ask(plain.order(proof, allowInsecureSrs=True))


def test_a_fee_too_large_to_keep_is_refused(hashed, refuses):
    world = hashed.world
    world.chain.evm.set_balance(world.accounts[1], 2**100)
    with refuses("FeeTooLarge"):
        world.ask(hashed.order(7), fee=2**96, sender=world.accounts[1])


def test_a_public_input_is_bound_to_the_answer(world, refuses):
    verifier = world.helper("HashVerifier")
    model_id = world.register(verifier.address, inputKind=1, inputs=3, outputs=2)
    order, row = world.order(model_id, 0), [1, MODULUS - 2, 3]
    for bad in ([1, 2], [1, 2, 3, 4], [1, 2, MODULUS], []):
        with refuses("BadInput"):
            world.ask(order, inputs=bad)
    with refuses("BadInput"):
        world.ask(world.order(model_id, 5), inputs=row)
    request_id = world.ask(order, inputs=row)
    (asked,) = world.chain.logged("Requested")
    assert asked["input"] == row

    def deliver(*instances):
        answer = (hash_proof(list(instances)), list(instances), [], b"")
        world.coordinator.call("deliver", request_id, answer)

    with refuses("WrongInput"):
        deliver(1, MODULUS - 1, 3, 10, 11)
    with refuses("WrongInstanceCount"):
        deliver(*row, 10)
    deliver(*row, MODULUS - 5, 7)
    assert world.chain.logged("Fulfilled")[0]["outputs"] == [-5, 7]


@pytest.mark.parametrize(
    ("element", "number"),
    [
        (0, 0),
        (1, 1),
        (MODULUS - 1, -1),
        (MODULUS // 2, MODULUS // 2),
        (MODULUS // 2 + 1, -(MODULUS // 2)),
    ],
)
def test_outputs_are_signed_numbers(hashed, element, number):
    request_id = hashed.world.ask(hashed.order(7))
    hashed.deliver(request_id, hashed.answer(7, element))
    assert hashed.world.chain.logged("Fulfilled")[0]["outputs"] == [number]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Reverter", ()),
        ("GasBurner", ()),
        ("ReturnBomb", (True,)),
        ("ReturnBomb", (False,)),
    ],
)
def test_a_hostile_callback_loses_neither_payment_nor_answer(hashed, name, arguments):
    world = hashed.world
    provider = world.accounts[2]
    consumer = world.consumer(name, *arguments)
    order = hashed.order(7, callbackGas=GAS)
    request_id = consumer.call("ask", order, [], value=FEE)
    hashed.deliver(request_id, hashed.answer(7, 3), sender=provider)
    assert world.chain.logged("Fulfilled")[0]["outputs"] == [3]
    assert len(world.chain.logged("CallbackFailed")) == 1
    assert world.credit(provider) == FEE
    assert world.chain.gas < 400_000  # no more than what the order gave the callback


def test_a_callback_that_reenters_gains_nothing(hashed):
    world = hashed.world
    consumer = world.consumer("Reenterer")
    answer = hashed.answer(7, 3)
    consumer.call("arm", answer)
    request_id = consumer.call(
        "ask", hashed.order(7, callbackGas=1_000_000), [], value=FEE
    )
    hashed.deliver(request_id, answer, sender=world.accounts[2])
    assert not world.chain.logged("CallbackFailed")
    assert consumer.view("refused") == 4
    assert consumer.view("calls") == 1
    assert world.credit(world.accounts[2]) == FEE
    assert world.chain.balance(world.coordinator.address) == FEE


def test_a_withdrawal_that_reenters_is_paid_once(hashed, refuses):
    world = hashed.world
    consumer = world.consumer("Reenterer")
    mine = consumer.call("ask", hashed.order(7, callbackGas=GAS), [], value=FEE)
    world.ask(hashed.order(8))  # another's fee lies there too
    world.chain.pass_time(3601)
    world.coordinator.call("refundExpired", mine)
    consumer.call("takeOut")
    assert world.chain.balance(consumer.address) == FEE
    assert consumer.view("refused") == 1
    assert world.chain.balance(world.coordinator.address) == FEE
    with refuses("NothingToWithdraw"):
        consumer.call("takeOut")


def test_who_cannot_be_paid_blocks_nobody_else(hashed, refuses):
    world = hashed.world
    consumer = world.consumer("Unpayable")
    request_id = consumer.call("ask", hashed.order(7, callbackGas=GAS), [], value=FEE)
    world.chain.pass_time(3601)
    world.coordinator.call("refundExpired", request_id)
    with refuses("WithdrawalFailed"):
        consumer.call("takeOut")
    assert world.credit(consumer.address) == FEE  # nothing is lost by the attempt


def test_a_provider_cannot_starve_the_callback(hashed, refuses):
    """With too little gas the delivery reverts; it never "fails" the callback."""
    world = hashed.world
    consumer = world.consumer()
    order = hashed.order(7, callbackGas=400_000)
    request_id = consumer.call("ask", order, [], value=FEE)
    starved = 0
    for gas in range(100_000, 620_000, 20_000):
        try:
            hashed.deliver(request_id, hashed.answer(7, 3), gas=gas)
        except Exception as exc:  # noqa: BLE001
            starved += getattr(exc, "error", "") in {"TooLittleGas", ""}
            continue
        assert not world.chain.logged("CallbackFailed")
        break
    assert starved > 10
    assert consumer.view("calls") == 1


def test_a_consumer_is_called_only_for_those_it_allowed(hashed, refuses):
    world = hashed.world
    consumer, other = world.consumer(), world.accounts[3]
    order = hashed.order(7, callback=consumer.address, callbackGas=GAS)
    with refuses("CallbackNotAllowed"):
        world.ask(order, sender=other)
    consumer.call("allow", other)
    request_id = world.ask(order, sender=other)
    hashed.deliver(request_id, hashed.answer(7, 3))
    assert consumer.view("calls") == 1


def test_nobody_withdraws_what_is_not_theirs(hashed, refuses):
    world = hashed.world
    world.ask(hashed.order(7))
    for account in world.accounts[:3]:
        with refuses("NothingToWithdraw"):
            world.coordinator.call("withdraw", account, sender=account)


def test_credit_cannot_be_sent_to_nobody(hashed, refuses):
    world = hashed.world
    provider = world.accounts[2]
    request_id = world.ask(hashed.order(7))
    hashed.deliver(request_id, hashed.answer(7, 1), sender=provider)
    with refuses("WithdrawalFailed"):
        world.coordinator.call("withdraw", ZERO, sender=provider)
    assert world.credit(provider) == FEE


def test_the_coordinator_takes_no_money_without_a_request(world):
    from privacy.chain.abi import Reverted

    with pytest.raises(Reverted):
        world.chain.send("", world.coordinator.address, b"", value=1)
