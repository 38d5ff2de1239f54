"""The privacy modes, and who sees what in each: the contract with the user.

The same table is served at `/v1/modes`, stored in no receipt but derived from its
mode, printed by the CLI, and explained in `docs/who-sees-what.md`.
"""

from dataclasses import asdict, dataclass
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


def who_sees_what(mode: Mode, *, simulated: bool = False) -> WhoSeesWhat:
    """Return the contract of a mode; `simulated` says the enclave is not hardware."""
    return _TABLE[f"{mode} (simulated)" if simulated else mode]


def modes_table() -> dict[str, dict[str, str]]:
    """Return the whole table, JSON-ready, one row a mode."""
    return {name: row.as_dict() for name, row in _TABLE.items()}
