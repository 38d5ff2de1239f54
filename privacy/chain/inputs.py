"""One row as a contract's request names it, and as it reaches who answers."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from privacy.bundle import Bundle
from privacy.chain.config import ChainConfig
from privacy.encoding import b64url_decode, finite_rows, parse_canonical
from privacy.errors import FormatError
from privacy.fixed_point import signed
from privacy.modes import Mode
from privacy.onchain import SHOWN, Terms, input_blob, terms_of
from privacy.tee.client import check_evidence, new_job
from privacy.tee.contract import SALT_BYTES, seal_for_contract
from privacy.tee.evidence import parse_evidence
from privacy.tee.kem import choose
from privacy.tee.seal import Purpose
from privacy.zkml.params import parse_params


@dataclass(frozen=True, slots=True)
class Input:
    """One row, committed to.

    Attributes:
        row: Standardised features.
        salt: 32 bytes.
        described: The instances about it, first in every answer.
        commitment: What requests name it by, 32 bytes.
        is_public: It goes on chain as it is.
    """

    row: tuple[float, ...]
    salt: bytes
    described: tuple[int, ...]
    commitment: bytes
    is_public: bool

    @property
    def blob(self) -> bytes:
        """The input in the clear, as a job proves from it."""
        return input_blob([list(self.row)], self.salt)


def make_input(bundle: Bundle, row: Sequence[float], *, salt: bytes = b"") -> Input:
    """Return a row, committed to.

    Args:
        bundle: The model; its manifest suffices.
        row: Standardised features.
        salt: 32 bytes; fresh ones by default.

    Raises:
        FormatError: The row is not one, or the model's circuit cannot take it.
    """
    terms = terms_of(bundle.manifest)
    part = bundle.manifest.modes.get(Mode.ZKML)
    if part and part.available:
        parse_params(part.params).check_range([list(row)])
    return _committed(terms, row, salt or os.urandom(SALT_BYTES))


def parse_input(bundle: Bundle, blob: bytes) -> Input:
    """Return the input in a blob; nothing says yet that a request names it.

    Raises:
        FormatError: It is not one row and a salt, to the byte.
    """
    value = parse_canonical(blob, what="input")
    if set(value) != {"rows", "salt"}:
        raise FormatError("the input lacks or adds members")
    rows = finite_rows(value["rows"], columns=len(bundle.manifest.columns), max_rows=1)
    salt = b64url_decode(str(value["salt"]), what="salt")
    if len(salt) != SALT_BYTES or len(rows) != 1:
        raise FormatError(f"the input is not one row and {SALT_BYTES} bytes of salt")
    return _committed(terms_of(bundle.manifest), rows[0], salt)


def check_input(bundle: Bundle, blob: bytes, commitment: bytes) -> Input:
    """Return the input in a blob if it is the one of a commitment.

    Raises:
        FormatError: It is no input, or another ("wrong-input").
    """
    found = parse_input(bundle, blob)
    if found.commitment != commitment:
        msg = (
            f"the input's commitment is {found.commitment.hex()[:16]}…, expected "
            f"{commitment.hex()[:16]}…: it is another row, or of another model"
        )
        raise FormatError(msg, code="wrong-input")
    return found


def input_on_chain(bundle: Bundle, published: Sequence[int]) -> Input:
    """Return the input that a request published as field elements.

    Raises:
        FormatError: It is none of this model.
    """
    terms = terms_of(bundle.manifest)
    if terms.kind != SHOWN or len(published) != terms.columns:
        raise FormatError("the published input is not one of this model")
    parts = zip(published, terms.offset, terms.scale, strict=True)
    unit = 2.0**-terms.input_bits
    row = [signed(v) * unit * scale + offset for v, offset, scale in parts]
    return _committed(terms, row, bytes(SALT_BYTES))


def seal_to_enclave(
    bundle: Bundle,
    given: Input,
    evidence: bytes,
    *,
    nonce: bytes,
    config: ChainConfig,
    now: datetime,
    allow_simulated: bool = False,
) -> bytes:
    """Return an input sealed to an enclave, for a public answer on one chain.

    Args:
        bundle: The model.
        given: The input.
        evidence: The enclave's; it is verified here.
        nonce: What the evidence was asked for with.
        config: The chain.
        now: When certificates must be valid, with a time zone.
        allow_simulated: Accept evidence that proves nothing.

    Raises:
        FormatError: The evidence is malformed.
        VerificationError: It is not genuine, or of something else.
    """
    reference: Any = bundle.manifest.mode(Mode.TEE).params["measurements"]
    check_evidence(
        evidence,
        nonce=nonce,
        reference=reference,
        model_sha256=bundle.sha256,
        now=now,
        allow_simulated=allow_simulated,
    )
    return seal_for_contract(
        given.row,
        salt=given.salt,
        key=choose(parse_evidence(evidence).hpke_public_keys),
        purpose=Purpose(bundle.sha256, nonce, new_job()),
        chain_id=config.chain_id,
        coordinator=bytes.fromhex(config.contracts["coordinator"][2:]),
    )


def _committed(terms: Terms, row: Sequence[float], salt: bytes) -> Input:
    described = terms.describe(row, salt)
    return Input(
        row=tuple(float(x) for x in row),
        salt=salt,
        described=tuple(described),
        commitment=terms.commitment(described),
        is_public=terms.kind == SHOWN,
    )
