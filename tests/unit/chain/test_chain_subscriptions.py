"""SubscriptionManager, and the example loan."""

import pytest

from tests.unit.chain.conftest import FEE

GAS = 200_000
DAY = 86_400


@pytest.fixture
def manager(world):
    return world.chain.deploy("SubscriptionManager", world.coordinator.address)


def _subscribe(hashed, manager, consumer, *, balance=3 * FEE, sender="", **how):
    order = hashed.order(0, callback=consumer.address, callbackGas=GAS)
    fee, interval = how.get("fee", FEE), how.get("interval", DAY)
    window = how.get("window", 3600)
    arguments = (order, how.get("source", consumer.address), fee, interval, window)
    return manager.call("subscribe", *arguments, value=balance, sender=sender)


@pytest.fixture
def consumer(world, manager):
    made = world.consumer()
    made.call("allow", manager.address)
    return made


def test_each_round_asks_for_its_own_input(hashed, manager, consumer, refuses):
    world = hashed.world
    subscription = _subscribe(hashed, manager, consumer)
    for round_ in (1, 2, 3):
        request_id = manager.call("trigger", subscription, sender=world.accounts[5])
        assert world.chain.logged("Requested")[0]["fee"] == FEE
        hashed.deliver(request_id, hashed.answer(round_, 100 + round_))
        assert consumer.view("outputs", 0) == 100 + round_
        with refuses("NotDue"):
            manager.call("trigger", subscription)
        world.chain.pass_time(DAY)
    with refuses("BalanceTooLow"):
        manager.call("trigger", subscription)
    manager.call("fund", subscription, value=FEE)
    manager.call("trigger", subscription)


def test_missed_rounds_do_not_pile_up(hashed, manager, consumer, refuses):
    subscription = _subscribe(hashed, manager, consumer)
    manager.call("trigger", subscription)
    hashed.world.chain.pass_time(10 * DAY)
    manager.call("trigger", subscription)
    with refuses("NotDue"):
        manager.call("trigger", subscription)


def test_a_round_that_expires_is_refunded_to_the_subscriber(hashed, manager, consumer):
    world = hashed.world
    owner = world.accounts[3]
    subscription = _subscribe(hashed, manager, consumer, sender=owner)
    request_id = manager.call("trigger", subscription)
    world.chain.pass_time(3601)
    world.coordinator.call("refundExpired", request_id)
    assert world.credit(owner) == FEE


def test_the_rest_of_the_balance_goes_back(hashed, manager, consumer, refuses):
    world = hashed.world
    owner = world.accounts[3]
    subscription = _subscribe(hashed, manager, consumer, sender=owner)
    manager.call("trigger", subscription)
    with refuses("NotOwner"):
        manager.call("unsubscribe", subscription)
    manager.call("unsubscribe", subscription, sender=owner)
    for function in ("trigger", "unsubscribe", "getSubscription", "fund"):
        with refuses("UnknownSubscription"):
            manager.call(function, subscription, sender=owner)
    before = world.chain.balance(owner)
    manager.call("withdraw", owner, sender=owner)
    assert world.chain.balance(owner) == before + 2 * FEE
    assert world.chain.balance(manager.address) == 0
    with refuses("NothingToWithdraw"):
        manager.call("withdraw", owner, sender=owner)


def test_a_consumer_that_did_not_allow_the_manager_is_not_called(
    hashed, manager, refuses
):
    consumer = hashed.world.consumer()
    subscription = _subscribe(hashed, manager, consumer)
    with refuses("CallbackNotAllowed"):
        manager.call("trigger", subscription)
    assert manager.view("getSubscription", subscription)["balance"] == 3 * FEE


@pytest.mark.parametrize(("interval", "window"), [(0, 1), (1, 0), (10, 11)])
def test_a_subscription_needs_a_sound_rhythm(
    hashed, manager, consumer, refuses, interval, window
):
    with refuses("BadInterval"):
        _subscribe(hashed, manager, consumer, interval=interval, window=window)


def test_a_public_input_comes_from_the_source(world, manager):
    verifier = world.helper("HashVerifier")
    model_id = world.register(verifier.address, inputKind=1, inputs=2)
    source = world.consumer("PublicSource")
    source.call("allow", manager.address)
    order = world.order(model_id, 0, callback=source.address, callbackGas=GAS)
    arguments = (order, source.address, FEE, DAY, 3600)
    subscription = manager.call("subscribe", *arguments, value=FEE)
    manager.call("trigger", subscription)
    assert world.chain.logged("Requested")[0]["input"] == [1, 2]


@pytest.fixture
def loan(plain):
    """A loan for the first proof's score or better; account 4 is the bureau."""
    world = plain.world
    score = plain.circuit.proofs[0].instances[1]
    coordinator, bureau = world.coordinator.address, world.accounts[4]
    arguments = (coordinator, plain.model_id, bureau, score, 5000, True)
    return world.chain.deploy("ProvenLoan", *arguments)


def test_a_proven_score_opens_the_loan(plain, loan):
    world, proof = plain.world, plain.circuit.proofs[0]
    borrower, bureau = world.accounts[1], world.accounts[4]
    commitment = proof.instances[0].to_bytes(32, "big")
    loan.call("vouch", commitment, borrower, sender=bureau)
    request_id = loan.call("apply_", commitment, sender=borrower, value=FEE)
    assert loan.view("loan", borrower) == 0
    world.coordinator.call("deliver", request_id, plain.answer(proof))
    assert world.chain.logged("Decided")[0]["open"] is True
    assert loan.view("loan", borrower) == 5000


def test_a_forged_score_opens_no_loan(plain, loan, refuses):
    world, proof = plain.world, plain.circuit.proofs[0]
    borrower, bureau = world.accounts[1], world.accounts[4]
    commitment = proof.instances[0].to_bytes(32, "big")
    loan.call("vouch", commitment, borrower, sender=bureau)
    request_id = loan.call("apply_", commitment, sender=borrower, value=FEE)
    richer = [proof.instances[0], proof.instances[1] + 1]
    with refuses("ProofInvalid"):
        world.coordinator.call(
            "deliver", request_id, plain.answer(proof, instances=richer)
        )
    for sender in (borrower, world.accounts[0]):
        with refuses("NotCoordinator"):
            loan.call("onInference", request_id, plain.model_id, [10**9], sender=sender)
    assert loan.view("loan", borrower) == 0


def test_data_that_nobody_vouched_for_opens_no_loan(plain, loan, refuses):
    world, proof = plain.world, plain.circuit.proofs[0]
    commitment = proof.instances[0].to_bytes(32, "big")
    with refuses("NotBureau"):
        loan.call("vouch", commitment, world.accounts[1], sender=world.accounts[1])
    loan.call("vouch", commitment, world.accounts[1], sender=world.accounts[4])
    with refuses("NotVouchedFor"):
        loan.call("apply_", commitment, sender=world.accounts[2], value=FEE)
