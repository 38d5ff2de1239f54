"""Sealing a model for publishing: its weights leave the publisher encrypted only.

    deposits, policy = Deposits(home, Unlock(passphrase)), parse_key_policy(toml)
    seal = Seal("https://…", lambda bundle, key: deposits.add(bundle, key, policy))
    publish(model, X, name="…", store=store, seal=seal)

`Deposits` and `parse_key_policy` are of `privacy.broker`.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from privacy.bundle import Bundle, ModePart
from privacy.encoding import sha256_hex
from privacy.errors import BackendError, FormatError
from privacy.files import write_atomic
from privacy.modes import Mode
from privacy.tee.sealed_model import (
    SEALED_MODEL,
    Sealing,
    check_broker,
    seal_model,
)
from privacy.tee.wire import MODEL

_WEIGHTS = {
    Mode.FHE: "the compiled circuit has the weights in its tables",
    Mode.ZKML: "the compiled circuit and the model file for audits hold the weights",
}


@dataclass(frozen=True, slots=True)
class Seal:
    """How to seal a model.

    Attributes:
        broker: Address of the key broker; the manifest names it.
        keep: Told the bundle and its content key; deposits the key with the broker. If
            it raises, the bundle is removed again.
    """

    broker: str
    keep: Callable[[Bundle, bytes], None]


def modes_to_publish(modes: Sequence[Mode] | None, seal: Seal | None) -> Sequence[Mode]:
    """Return which modes to try: with a seal, those that show weights on demand only.

    Raises:
        FormatError: A sealed model is asked for, but not its mode; or the broker's
            address is none.
    """
    if seal is None:
        return tuple(Mode) if modes is None else modes
    check_broker(seal.broker)
    if modes is None:
        return (Mode.TEE,)
    if Mode.TEE not in modes:
        msg = "only mode tee can serve a sealed model: leave the modes out, or name tee"
        raise FormatError(msg, code="usage")
    return modes


def shown_by(modes: Sequence[str]) -> dict[str, str]:
    """Return which of the modes show the weights to the node operator, and how."""
    return {m: why for m, why in _WEIGHTS.items() if m in modes}


def seal_part(root: Path, part: ModePart, seal: Seal) -> tuple[ModePart, bytes]:
    """Replace the model file in a bundle's folder; return its part and its key.

    Raises:
        BackendError: The mode does not serve the model, so there is nothing to seal.
    """
    if not part.available:
        msg = f"the model cannot be sealed, mode tee does not serve it: {part.reason}"
        raise BackendError(msg, code="no-mode-serves")
    path = root / Mode.TEE / MODEL
    model = path.read_bytes()
    content_key, sealed = seal_model(model)
    write_atomic(path.with_name(SEALED_MODEL), sealed)
    path.unlink()
    sealing = Sealing(check_broker(seal.broker), sha256_hex(model))
    params = {**part.params, "sealed": sealing.as_dict()}
    return replace(part, params=params), content_key


@contextmanager
def beside(root: Path, folder: Path) -> Iterator[Path]:
    """Give a copy of a bundle's folder that can be renamed into `folder`."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".publishing-") as scratch:
        copy = Path(scratch) / "bundle"
        shutil.copytree(root, copy)
        yield copy


def deposit(bundle: Bundle, content_key: bytes, seal: Seal) -> None:
    """Deposit the key of a published bundle, or take the bundle back."""
    try:
        seal.keep(bundle, content_key)
    except BaseException:
        shutil.rmtree(bundle.root)  # nobody could ever open it
        raise
