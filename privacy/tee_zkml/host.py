"""The node's side of an enclave that proves."""

from typing import ClassVar

from privacy.tee.host import Enclave
from privacy.tee.measure import Program
from privacy.tee_zkml.program import PROGRAM


class ProvingEnclave(Enclave):
    """A running enclave of mode tee+zkml."""

    program: ClassVar[Program] = PROGRAM
    evidence_kind: ClassVar[str] = "attestation+proof"
    start_s: ClassVar[float] = 600.0  # its prover proves a row first
