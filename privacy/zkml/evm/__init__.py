"""Proofs checked by smart contracts.

A publisher makes the contracts on their own machine, and anyone encodes a proof:

    from privacy.zkml.evm import build_verifier, plain_calldata, read_facts

    facts = build_verifier(bundle, Path("verifier"), progress=print)
    calldata = plain_calldata(proof)

Needs the extra `chain`, and for making contracts the extra `zkml` and a Solidity
compiler; see `make contracts-tools`.
"""

from privacy.zkml.evm.build import build_verifier
from privacy.zkml.evm.calldata import (
    parse_vka,
    plain_calldata,
    register_calldata,
    reusable_calldata,
    vka_digest,
)
from privacy.zkml.evm.facts import EvmFacts, VerifierFacts, read_facts

__all__ = [
    "EvmFacts",
    "VerifierFacts",
    "build_verifier",
    "parse_vka",
    "plain_calldata",
    "read_facts",
    "register_calldata",
    "reusable_calldata",
    "vka_digest",
]
