"""The privacy modes, and who sees what in each: the contract with the user.

The same table is served at `/v1/modes`, stored in no receipt but derived from its
mode, printed by the CLI, and explained in `docs/who-sees-what.md`.
"""

from dataclasses import asdict, dataclass, replace
from enum import StrEnum

from privacy.errors import NotFoundError


class Mode(StrEnum):
    """How a job keeps its input private or its answer honest."""

    FHE = "fhe"
    ZKML = "zkml"
    TEE = "tee"
    TEE_ZKML = "tee+zkml"

    @property
    def parts(self) -> tuple["Mode", ...]:
        """The parts of a bundle whose files serve this mode."""
        return (Mode.TEE, Mode.ZKML) if self is Mode.TEE_ZKML else (self,)


@dataclass(frozen=True, slots=True)
class WhoSeesWhat:
    """What the parties of one job learn, in words a data owner can act on."""

    operator_sees_input: str
    operator_sees_output: str
    operator_sees_weights: str
    gateway_sees: str
    others_see: str
    answer_is_proven: str
    checkable_on_chain: str

    def as_dict(self) -> dict[str, str]:
        """Return the row as JSON-ready names and words."""
        return asdict(self)


class Party(StrEnum):
    """Who may learn something of a job, besides whoever owns it."""

    OPERATOR = "operator"
    NODE = "node"
    ENCLAVE = "enclave"
    PUBLIC = "public"


class Assurance(StrEnum):
    """What shows that an answer is the model's."""

    NOTHING = "nothing"
    ATTESTATION = "attestation"
    PROOF = "proof"


@dataclass(frozen=True, slots=True)
class Exposure:
    """`WhoSeesWhat` for programs: who gets to see each thing in the clear.

    Attributes:
        assurance: What shows that the answer is the model's.
        is_on_chain: Whether a contract can check what a job gives.
    """

    input_to: frozenset[Party]
    output_to: frozenset[Party]
    model_to: frozenset[Party]
    assurance: Assurance
    is_on_chain: bool


_SEEN_BY_GATEWAY = "sizes, times, the API key used"

_TABLE: dict[str, WhoSeesWhat] = {
    "fhe": WhoSeesWhat(
        operator_sees_input="no: encrypted under a key that never leaves the client",
        operator_sees_output="no: encrypted under the same key",
        operator_sees_weights="yes",
        gateway_sees=f"ciphertexts, evaluation keys, {_SEEN_BY_GATEWAY}",
        others_see="nothing; the client learns the input quantizer's ranges",
        answer_is_proven="no: nothing shows that the node ran this model",
        checkable_on_chain="no",
    ),
    "zkml": WhoSeesWhat(
        operator_sees_input="yes: the proving node reads the input in the clear",
        operator_sees_output="yes: outputs are public instances of the proof",
        operator_sees_weights="yes",
        gateway_sees=f"the input and the output, {_SEEN_BY_GATEWAY}",
        others_see="holders of the proof: output, Poseidon hash of the input",
        answer_is_proven="yes, as far as the SRS can be trusted",
        checkable_on_chain="yes: by a verifier contract made from the public files",
    ),
    "tee": WhoSeesWhat(
        operator_sees_input="no: sealed to a key that was born in the enclave",
        operator_sees_output="no: sealed to the client's key",
        operator_sees_weights="yes, unless the publisher sealed them (see the model)",
        gateway_sees=f"sealed bytes, {_SEEN_BY_GATEWAY}",
        others_see="nothing",
        answer_is_proven="as far as the attestation is trusted",
        checkable_on_chain="no; an enclave's answers to contracts are, and are public",
    ),
    "tee (simulated)": WhoSeesWhat(
        operator_sees_input="not by design, but root on the node could read it",
        operator_sees_output="not by design, but root on the node could read it",
        operator_sees_weights="yes; if sealed not by design, but root could read them",
        gateway_sees=f"sealed bytes, {_SEEN_BY_GATEWAY}",
        others_see="nothing",
        answer_is_proven="no: anyone can make simulated evidence",
        checkable_on_chain="no; contracts that allow it take its public answers",
    ),
    "tee+zkml": WhoSeesWhat(
        operator_sees_input="no: sealed to a key that was born in the enclave",
        operator_sees_output="no: outputs and proofs are sealed to the client's key",
        operator_sees_weights="yes: the bundle is not sealed",
        gateway_sees=f"sealed bytes, proofs' digest, how many rows, {_SEEN_BY_GATEWAY}",
        others_see="nothing; whoever you give the proofs, what mode zkml shows them",
        answer_is_proven="yes, even if the enclave is broken, as far as the SRS "
        "can be trusted",
        checkable_on_chain="yes, if you give the proofs away: by a verifier contract",
    ),
    "tee+zkml (simulated)": WhoSeesWhat(
        operator_sees_input="not by design, but root on the node could read it",
        operator_sees_output="not by design, but root on the node could read it",
        operator_sees_weights="yes",
        gateway_sees=f"sealed bytes, proofs' digest, how many rows, {_SEEN_BY_GATEWAY}",
        others_see="nothing; whoever you give the proofs, what mode zkml shows them",
        answer_is_proven="yes: the proofs hold whoever made them, as far as the SRS "
        "can be trusted",
        checkable_on_chain="yes, if you give the proofs away: by a verifier contract",
    ),
}

_NOBODY: frozenset[Party] = frozenset()
_HERE = frozenset({Party.OPERATOR, Party.NODE})
_IN_ENCLAVE = frozenset({Party.ENCLAVE})

_EXPOSURE: dict[str, Exposure] = {
    "fhe": Exposure(_NOBODY, _NOBODY, _HERE, Assurance.NOTHING, is_on_chain=False),
    "zkml": Exposure(
        _HERE, _HERE | {Party.PUBLIC}, _HERE, Assurance.PROOF, is_on_chain=True
    ),
    "tee": Exposure(
        _IN_ENCLAVE,
        _IN_ENCLAVE,
        _HERE | _IN_ENCLAVE,
        Assurance.ATTESTATION,
        is_on_chain=False,
    ),
    "tee (simulated)": Exposure(
        _HERE | _IN_ENCLAVE,
        _HERE | _IN_ENCLAVE,
        _HERE | _IN_ENCLAVE,
        Assurance.NOTHING,
        is_on_chain=False,
    ),
    "tee+zkml": Exposure(
        _IN_ENCLAVE,
        _IN_ENCLAVE,
        _HERE | _IN_ENCLAVE,
        Assurance.PROOF,
        is_on_chain=True,
    ),
    "tee+zkml (simulated)": Exposure(
        _HERE | _IN_ENCLAVE,
        _HERE | _IN_ENCLAVE,
        _HERE | _IN_ENCLAVE,
        Assurance.PROOF,
        is_on_chain=True,
    ),
}


def parse_mode(text: str) -> Mode:
    """Return the mode of that name.

    Raises:
        NotFoundError: There is none.
    """
    try:
        return Mode(text)
    except ValueError:
        known = ", ".join(Mode)
        msg = f"there is no mode {text[:40]!r}; choose one of {known}"
        raise NotFoundError(msg, code="unknown-mode") from None


def who_sees_what(
    mode: Mode, *, simulated: bool = False, peer: str = ""
) -> WhoSeesWhat:
    """Return the contract of one job.

    Args:
        mode: Its mode.
        simulated: The enclave is not hardware.
        peer: The other operator's gateway that ran it; "" if none did.
    """
    row = _TABLE[_row(mode, simulated=simulated)]
    if not peer:
        return row
    clear = ": the input in the clear, too" if mode is Mode.ZKML else ""
    seen = f"{peer}, another operator's gateway, what operator and gateway see{clear}"
    return replace(row, others_see=f"{seen}; else {row.others_see}")


def exposure(mode: Mode, *, simulated: bool = False, sealed: bool = False) -> Exposure:
    """Return who sees what in a mode, for programs.

    Args:
        mode: The mode.
        simulated: The enclave is not hardware.
        sealed: The publisher sealed the weights to enclaves.
    """
    found = _EXPOSURE[_row(mode, simulated=simulated)]
    if sealed and mode is Mode.TEE and not simulated:
        return replace(found, model_to=_IN_ENCLAVE)
    return found


def _row(mode: Mode, *, simulated: bool) -> str:
    return f"{mode} (simulated)" if simulated else mode


def modes_table() -> dict[str, dict[str, str]]:
    """Return the whole table, JSON-ready, one row a mode."""
    return {name: row.as_dict() for name, row in _TABLE.items()}
