"""A publisher's policy for the key of a sealed model: which enclaves get it. Pure.

The enclave itself must be the one that the manifest measures, before it has its model:
the same code, sandbox and packages, and zeros for the model. A file may say more, of
the platform below it: a policy as in `privacy.tee.policy`, without `report_data`, which
the broker works out. For hardware, which measures a whole machine, there must be one.

    [measurements."snp-v3"]
    measurement = ["…"]
"""

from dataclasses import dataclass, replace
from typing import Any

from privacy.encoding import Json
from privacy.errors import FormatError
from privacy.tee.parse import REGISTER_BYTES, Measurements
from privacy.tee.policy import EvidencePolicy, parse_toml, policy_of

_OURS = {
    "report_data": "the broker works it out",
    "allow_any_report_data": "the evidence must be of the enclave that asks",
    "nonce": "the broker chooses it",
    "reference_value_signers": "give the measurements themselves",
}


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """Which enclaves get a model's key.

    Attributes:
        said: What the file says of the platform; empty if there is none.
        allow_simulated: Evidence that proves nothing is accepted.
    """

    said: Json
    allow_simulated: bool = False

    def __post_init__(self) -> None:
        """Refuse what no evidence could meet, and what is not for such a policy."""
        for name, why in _OURS.items():
            if name in self.said:
                msg = f"{name} is not for a key's policy: {why}"
                raise FormatError(msg, code="bad-policy")
        if not (self.said or self.allow_simulated):
            msg = (
                "nobody could get the key: give a policy with reference values of the "
                "hardware, or allow simulated enclaves"
            )
            raise FormatError(msg, code="bad-policy")
        _ = self.platform

    @property
    def platform(self) -> EvidencePolicy | None:
        """What the platform must show; None if only simulated ones are accepted."""
        if not self.said:
            return None
        return policy_of({**self.said, "allow_any_report_data": True})

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


def parse_key_policy(raw: bytes, *, allow_simulated: bool = False) -> KeyPolicy:
    """Return the policy in a TOML file, which may be empty.

    Args:
        raw: The file.
        allow_simulated: Accept evidence that proves nothing, whatever the file says.

    Raises:
        FormatError: Not TOML, or not such a policy.
    """
    said = parse_toml(raw, what="the policy")
    return KeyPolicy.of(
        {**said, **({"allow_simulated": True} if allow_simulated else {})}
    )


def before_its_model(published: Any) -> Measurements:
    """Return what an enclave measures before it has the model of a manifest.

    Args:
        published: `measurements` in the manifest's params of the mode.

    Raises:
        FormatError: Not such measurements.
    """
    return replace(Measurements.from_dict(published), rtmr2=bytes(REGISTER_BYTES))
