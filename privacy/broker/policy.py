"""A publisher's policy for the key of a sealed model: which enclaves get it. Pure.

    allow_simulated = true               # else evidence of hardware only
    products = ["…"]                     # and all else of a policy for evidence

The file is one of `privacy.tee.policy` without `report_data`, which the broker works
out itself. Without measurements it takes those of this installation's enclave before it
has a model: RTMR2 is zeros, and RTMR3, which follows the enclave's keys, is left open.
"""

from dataclasses import dataclass

from privacy.encoding import Json
from privacy.errors import FormatError
from privacy.tee.parse import REGISTER_BYTES, Measurements
from privacy.tee.policy import EvidencePolicy, parse_toml, policy_of

_FORMAT = "tdx-v4"
_NO_MODEL = bytes(REGISTER_BYTES).hex()
_OURS = {
    "report_data": "the broker works it out",
    "allow_any_report_data": "the evidence must be of the enclave that asks",
    "nonce": "the broker chooses it",
    "reference_value_signers": "give the measurements themselves",
    "require_gpu": "a key goes to a CPU's evidence alone",
}
_LENGTH = 64


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """Which enclaves get a model's key.

    Attributes:
        said: What the policy's file says, measurements and all.
        allow_simulated: Evidence that proves nothing is accepted.
    """

    said: Json
    allow_simulated: bool = False

    def __post_init__(self) -> None:
        """Refuse what no evidence could be held against."""
        for name, why in _OURS.items():
            if name in self.said:
                msg = f"{name} is not for a key's policy: {why}"
                raise FormatError(msg, code="bad-policy")
        self.for_report(bytes(_LENGTH))

    def for_report(self, report_data: bytes) -> EvidencePolicy:
        """Return the policy for evidence that must vouch for these 64 bytes."""
        return policy_of({**self.said, "report_data": report_data.hex()})

    def as_dict(self) -> Json:
        """Return the policy JSON-ready; `of` reads it again."""
        return {**self.said, "allow_simulated": self.allow_simulated}

    @classmethod
    def of(cls, value: Json) -> "KeyPolicy":
        """Return the policy that a file or `as_dict` says.

        Raises:
            FormatError: It says something that is unknown, or nothing to compare.
        """
        said = dict(value)
        allow_simulated = said.pop("allow_simulated", False)
        if not isinstance(allow_simulated, bool):
            msg = "allow_simulated in the policy is neither true nor false"
            raise FormatError(msg, code="bad-policy")
        return cls(said, allow_simulated)


def parse_key_policy(
    raw: bytes, measured: Measurements, *, allow_simulated: bool = False
) -> KeyPolicy:
    """Return the policy in a TOML file, which may be empty.

    Args:
        raw: The file.
        measured: Of the publisher's own enclave, if the file has no measurements.
        allow_simulated: Accept evidence that proves nothing, whatever the file says.

    Raises:
        FormatError: Not TOML, or not such a policy.
    """
    said = parse_toml(raw, what="the policy")
    if "measurements" not in said:
        own = measured.as_dict()
        kept = {name: own[name] for name in ("mrtd", "rtmr0", "rtmr1")}
        said["measurements"] = {_FORMAT: {**kept, "rtmr2": _NO_MODEL}}
    if allow_simulated:
        said["allow_simulated"] = True
    return KeyPolicy.of(said)
