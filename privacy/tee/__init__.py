"""Run a model in an attested enclave, and check the attestation before trusting it.

The stages of a check, each taking the type that only the stage before makes:

    >>> from privacy.tee.parse import parse_tdx_quote
    >>> from privacy.tee.verify import verify_quote
    >>> from privacy.tee.appraise import appraise

Clients use `privacy.tee.client`, nodes `privacy.tee.host`. This file imports nothing:
the enclave measures every module it loads, so it loads few.
"""
