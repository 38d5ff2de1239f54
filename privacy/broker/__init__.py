"""The key broker: gives the keys of sealed models to enclaves its policies accept.

    from privacy.broker import Broker, Decisions, Deposits, KeyPolicy
    broker = Broker(Deposits(home, unlock), Decisions(home), verifier_key)
    nonce = broker.challenge(model_sha256, now=now)
    release, token = broker.release(evidence, now=now)   # raises if it refuses

`privacy publish --seal` deposits a key, `privacy broker serve` releases it. It is run
by whom the publisher trusts: whoever has its keys can read the models.
"""

from privacy.broker.broker import Broker
from privacy.broker.decisions import Decision, Decisions
from privacy.broker.deposits import Deposit, Deposits
from privacy.broker.policy import KeyPolicy, parse_key_policy

__all__ = [
    "Broker",
    "Decision",
    "Decisions",
    "Deposit",
    "Deposits",
    "KeyPolicy",
    "parse_key_policy",
]
