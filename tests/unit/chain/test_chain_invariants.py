"""Whatever anyone does, in any order: no fee is lost, paid twice or stuck."""

import random

import pytest

from privacy.chain.abi import Reverted
from tests.unit.chain.conftest import hash_proof

GAS = 60_000


class Walk:
    """Random deeds of several accounts, and a model of what they should lead to."""

    def __init__(self, hashed, seed):
        self.hashed, self.world, self.random = hashed, hashed.world, random.Random(seed)
        self.consumers = [
            self.world.consumer(name)
            for name in ("Recorder", "Reverter", "Reenterer", "GasBurner")
        ]
        self.open, self.ended, self.credit = {}, {}, {}
        self.allowed = self.refused = 0

    def step(self):
        deeds = (self.ask, self.deliver, self.deliver, self.refund)
        deed = self.random.choice((*deeds, self.cancel, self.withdraw, self.wait))
        deed()
        self.check()

    def someone(self):
        return self.random.choice(self.world.accounts[1:5])

    def any_request(self):
        known = [*self.open, *list(self.ended)[-5:], 0, 10**9]
        return self.random.choice(known)

    def attempt(self, contract, function, *arguments, should_pass, **how):
        try:
            made = contract.call(function, *arguments, **how)
        except Reverted:
            self.refused += 1
            assert not should_pass, (function, arguments)
            return None
        self.allowed += 1
        assert should_pass, (function, arguments)
        return made

    def ask(self):
        fee, owner = self.random.randrange(1, 10**6), self.someone()
        deadline = self.world.chain.now + self.random.choice((60, 1000, 5000))
        commitment = self.random.randrange(1, 50)
        changes = {"deadline": deadline, "owner": owner}
        if self.random.random() < 0.5:
            consumer = self.random.choice(self.consumers)
            order = self.hashed.order(commitment, callbackGas=GAS, **changes)
            made = self.attempt(consumer, "ask", order, [], value=fee, should_pass=True)
        else:
            order = self.hashed.order(commitment, **changes)
            coordinator = self.world.coordinator
            made = self.attempt(
                coordinator,
                "request",
                order,
                [],
                value=fee,
                sender=owner,
                should_pass=True,
            )
        assert made not in self.open
        assert made not in self.ended
        self.open[made] = (owner, fee, deadline, commitment)

    def deliver(self):
        request_id, provider = self.any_request(), self.someone()
        found = self.open.get(request_id)
        commitment = found[3] if found else 1
        honest = self.random.random() < 0.7
        instances = [commitment, self.random.randrange(100)]
        proof = hash_proof(instances if honest else [commitment, 10**9])
        answer = (proof, instances, [], b"")
        fine = bool(found) and honest and self.world.chain.now <= found[2]
        self.attempt(
            self.world.coordinator,
            "deliver",
            request_id,
            answer,
            sender=provider,
            should_pass=fine,
        )
        if fine:
            self.end(request_id, provider)

    def refund(self):
        request_id = self.any_request()
        found = self.open.get(request_id)
        fine = bool(found) and self.world.chain.now > found[2]
        self.attempt(
            self.world.coordinator, "refundExpired", request_id, should_pass=fine
        )
        if fine:
            self.end(request_id, found[0])

    def end(self, request_id, who):
        _, fee, _, _ = self.open.pop(request_id)
        self.ended[request_id] = who
        self.credit[who] = self.credit.get(who, 0) + fee

    def cancel(self):
        request_id, who = self.any_request(), self.someone()
        found = self.open.get(request_id)
        fine = bool(found) and found[0] == who
        self.attempt(
            self.world.coordinator, "cancel", request_id, sender=who, should_pass=fine
        )
        if fine:
            owner, fee, deadline, commitment = found
            deadline = min(deadline, self.world.chain.now + 600)
            self.open[request_id] = (owner, fee, deadline, commitment)

    def withdraw(self):
        who = self.someone()
        fine = self.credit.get(who, 0) > 0
        self.attempt(
            self.world.coordinator, "withdraw", who, sender=who, should_pass=fine
        )
        self.credit[who] = 0

    def wait(self):
        self.world.chain.pass_time(self.random.choice((1, 30, 300)))

    def check(self):
        """Escrow equals the open requests' fees; the rest is what accounts may take."""
        held = self.world.chain.balance(self.world.coordinator.address)
        escrow = sum(fee for _, fee, _, _ in self.open.values())
        assert held == escrow + sum(self.credit.values())

    def check_credit(self):
        for account, amount in self.credit.items():
            assert self.world.credit(account) == amount
        assert self.world.coordinator.view("nextRequestId") == 1 + len(self.open) + len(
            self.ended
        )


def _walk(hashed, *, steps, seed):
    walk = Walk(hashed, seed)
    for i in range(steps):
        walk.step()
        if i % 50 == 0:
            walk.check_credit()
    walk.check_credit()
    assert min(walk.allowed, walk.refused, len(walk.ended)) > steps // 20


@pytest.mark.parametrize("seed", range(15))
def test_no_fee_is_lost_or_paid_twice_in_ten_thousand_deeds(hashed, seed):
    _walk(hashed, steps=700, seed=seed)
