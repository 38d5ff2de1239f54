"""What `evm.json` says of a model's verifier contracts: sizes, gas and digests."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from privacy.encoding import Json, canonical_json, parse_canonical
from privacy.errors import FormatError
from privacy.files import write_atomic

FORMAT = "privacy-compute/evm/1"
FACTS = "evm.json"
MAX_RUNTIME_BYTES = 24_576
"""EIP-170: a longer contract cannot be deployed."""


@dataclass(frozen=True, slots=True)
class VerifierFacts:
    """One verifier contract.

    Attributes:
        source_sha256: Of the Solidity text EZKL wrote.
        init_code_sha256: Of what deploys it.
        code_hash: keccak-256 of what then lies on chain, which contracts can compare.
        runtime_bytes: Its length.
        deploy_gas: Of the deploying transaction; 0 if it is too long to deploy.
        verify_gas: Of a transaction that checks one proof; 0 if none was at hand.
    """

    source_sha256: str
    init_code_sha256: str
    code_hash: str
    runtime_bytes: int
    deploy_gas: int
    verify_gas: int


@dataclass(frozen=True, slots=True)
class EvmFacts:
    """Both ways to check a model's proofs on chain, and the one chosen.

    Attributes:
        model_sha256: Digest of the bundle's manifest.
        compiler: The Solidity compiler's version.
        chosen: `plain`, one contract a model, cheapest to use; or `reusable`, one for
            all models, where the plain one is too long to deploy or was not wanted.
        vka_digest: keccak-256 that names the model's artifact to the reusable one.
        vka_words: Its length in words of 32 bytes.
        register_gas: Of making it known to the reusable verifier.
        insecure_srs: The SRS is not of a public ceremony: its maker can forge proofs
            that the contracts accept.
    """

    model_sha256: str
    compiler: str
    chosen: str
    plain: VerifierFacts
    reusable: VerifierFacts
    vka_digest: str
    vka_words: int
    register_gas: int
    insecure_srs: bool

    def to_json(self) -> Json:
        """Return the facts, JSON-ready."""
        return {"format": FORMAT, **asdict(self)}


def write_facts(folder: Path, facts: EvmFacts) -> None:
    """Write `evm.json`."""
    write_atomic(folder / FACTS, canonical_json(facts.to_json()))


def read_facts(folder: Path) -> EvmFacts:
    """Return what `evm.json` in a folder says.

    Raises:
        FormatError: There is none, or it is not one.
    """
    try:
        raw = (folder / FACTS).read_bytes()
    except OSError as exc:
        msg = f"{folder} has no {FACTS}: run `privacy zk solidity` first"
        raise FormatError(msg, code="no-verifier") from exc
    value = parse_canonical(raw, what=FACTS, limit=1 << 16)
    if value.pop("format", None) != FORMAT:
        raise FormatError(f"the format of {FACTS} is not {FORMAT}: build it again")
    parts = {
        name: _record(VerifierFacts, value.pop(name, None))
        for name in ("plain", "reusable")
    }
    facts: EvmFacts = _record(EvmFacts, {**value, **parts})
    if facts.chosen not in parts:
        raise FormatError(f"{FACTS} chooses {facts.chosen[:20]!r}: build it again")
    return facts


def _record(kind: Any, value: object) -> Any:
    declared = {f.name: f.type for f in fields(kind)}
    if not isinstance(value, dict) or set(value) != set(declared):
        raise FormatError(f"{FACTS} lacks or adds members: build it again")
    if any(type(v) is not declared[name] for name, v in value.items()):
        raise FormatError(f"{FACTS} has a member of the wrong type: build it again")
    return kind(**value)
