"""A chain as this operator uses it: node, contracts, and the models served there."""

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from privacy.encoding import Json, canonical_json, parse_object
from privacy.errors import FormatError
from privacy.files import write_atomic

FORMAT = "privacy-compute/chain/1"
CONTRACTS = {
    "registry": "ModelRegistry",
    "proofs": "ProofVerifier",
    "attestations": "AttestationVerifier",
    "coordinator": "InferenceCoordinator",
    "subscriptions": "SubscriptionManager",
}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A registered model, and where this operator has it.

    Attributes:
        model: Its name at the gateway.
        version: Its version there.
        model_sha256: Digest of its manifest.
        verifier: Address of its verifier contract.
        vka: What a reusable verifier is given, in hex; empty for a plain one.
    """

    model: str
    version: str
    model_sha256: str
    verifier: str
    vka: str


@dataclass(frozen=True, slots=True)
class ChainConfig:
    """One chain; a file of mode 0600, since the node's address may hold a key.

    Attributes:
        rpc: Address of the chain's node.
        chain_id: What that node must answer.
        confirmations: How many blocks must follow before a block is believed.
        contracts: Addresses, by the names in `CONTRACTS`.
        models: By model id, in hex.
    """

    rpc: str
    chain_id: int
    confirmations: int
    contracts: dict[str, str]
    models: dict[str, ServedModel] = field(default_factory=dict)

    def with_model(self, model_id: bytes, model: ServedModel) -> "ChainConfig":
        """Return the configuration with one more model."""
        return replace(self, models={**self.models, model_id.hex(): model})


def write_config(path: Path, config: ChainConfig) -> None:
    """Write a chain's file."""
    value = {"format": FORMAT, **asdict(config)}
    write_atomic(path, canonical_json(value), private=True)


def read_config(path: Path) -> ChainConfig:
    """Return a chain's file.

    Raises:
        FormatError: There is none, or it is not one.
    """
    try:
        raw = path.read_bytes()
    except OSError as exc:
        msg = f"{path} is not there: make it with `privacy chain deploy`"
        raise FormatError(msg, code="no-chain") from exc
    value = parse_object(raw, what="the chain's file", limit=1 << 24)
    if value.pop("format", None) != FORMAT:
        raise FormatError(f"the format of {path} is not {FORMAT}")
    try:
        models = {k: _record(ServedModel, v) for k, v in value["models"].items()}
        config: ChainConfig = _record(ChainConfig, {**value, "models": models})
        whole = set(config.contracts) == set(CONTRACTS) and config.confirmations >= 0
    except (KeyError, TypeError, AttributeError) as exc:
        raise FormatError(f"{path} lacks, adds or mistypes a member") from exc
    if not whole:
        raise FormatError(f"{path} does not name exactly our contracts")
    return config


def _record(kind: Any, value: Json) -> Any:
    for entry in fields(kind):
        expected = entry.type
        if expected in (str, int) and type(value[entry.name]) is not expected:
            raise TypeError(entry.name)
    return kind(**value)
