"""The watcher triggers rounds of subscriptions that are due, and answers them."""

import pytest

from privacy.chain.abi import Abi
from privacy.chain.contracts import ZERO, OnChain, contract, deploy_code
from privacy.chain.inputs import parse_input
from privacy.chain.models import input_path
from tests.support.chain_site import FEE, PROVIDER, REQUESTER

DAY = 86_400


@pytest.fixture
def source(site):
    """A contract that names the first proof's input in every round."""
    made = site.helpers["FixedSource"]
    abi = Abi(made.abi)
    given = parse_input(site.bundle, site.inputs[0])
    path = input_path(site.folder, given.commitment)
    path.parent.mkdir(parents=True)
    path.write_bytes(site.inputs[0])
    code = made.init_code + abi.construct(given.commitment)
    address = deploy_code(site.chain.sender(REQUESTER), code)
    return OnChain(site.chain.rpc, address, abi)


def subscribe(site, source, *, fee=FEE, provider=ZERO, balance=3 * FEE):
    manager = contract(site.chain.rpc, site.config, "subscriptions")
    order = (
        site.model_id, bytes(32), ZERO, 0, 0, ZERO, provider, 0, True, False,
    )  # fmt: skip
    arguments = (order, source.address, fee, DAY, 3600)
    sender = site.chain.sender(REQUESTER)
    manager.send(sender, "subscribe", *arguments, value=balance)
    site.chain.mine(2)
    return manager


def test_a_round_that_is_due_is_triggered_and_answered(site, source):
    manager = subscribe(site, source)
    watcher = site.watcher(trigger=True)
    site.run(watcher)
    assert site.credit() == FEE
    assert manager.view("getSubscription", 1)["round"] == 1
    site.chain.pass_time(DAY)
    site.run(watcher)
    assert site.credit() == 2 * FEE


def test_rounds_are_left_alone_unless_triggering_was_asked_for(site, source):
    manager = subscribe(site, source)
    site.run(site.watcher(), rounds=2)
    assert manager.view("getSubscription", 1)["round"] == 0


@pytest.mark.parametrize(
    "order", [{"fee": 1}, {"provider": "0x" + "77" * 20}, {"balance": FEE - 1}]
)
def test_a_round_that_does_not_pay_or_is_not_ours_is_left_alone(site, source, order):
    manager = subscribe(site, source, **order)
    site.run(site.watcher(trigger=True), rounds=2)
    assert manager.view("getSubscription", 1)["round"] == 0


def test_two_watchers_trigger_a_round_once(site, source):
    manager = subscribe(site, source)
    one, two = (site.watcher(who=PROVIDER + i, trigger=True) for i in (0, 10))
    one.round()
    two.round()
    assert manager.view("getSubscription", 1)["round"] == 1


def test_a_subscription_that_has_ended_is_forgotten(site, source):
    manager = subscribe(site, source)
    manager.send(site.chain.sender(REQUESTER), "unsubscribe", 1)
    watcher = site.watcher(trigger=True)
    site.run(watcher, rounds=2)
    assert site.coordinator.view("nextRequestId") == 1
