"""A sealed bundle without publishing: a tiny real model, really sealed."""

import functools
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from privacy.bundle import Bundle
from privacy.encoding import sha256_hex
from privacy.tee.measure import measure_unloaded
from privacy.tee.sealed_model import SEALED_MODEL, Sealing, seal_model
from tests.support.tee_bundle import write_rest
from tests.support.tee_models import linear_model

unloaded = functools.cache(measure_unloaded)
"""An enclave of this installation without its model, measured once."""


@dataclass(frozen=True)
class Made:
    bundle: Bundle
    content_key: bytes
    model: bytes


def write_sealed_bundle(
    store: Path, home: Path, *, broker: str, model: bytes | None = None
) -> Made:
    """Write `store/demo/1`, its tee part sealed for a broker."""
    model = model or linear_model()
    root = store / "demo" / "1"
    content_key, sealed = seal_model(model)
    (root / "tee").mkdir(parents=True)
    (root / "tee" / SEALED_MODEL).write_bytes(sealed)
    measured = replace(unloaded(), rtmr2=hashlib.sha384(model).digest())
    params = {
        "measurements": measured.as_dict(),
        "sealed": Sealing(broker, sha256_hex(model)).as_dict(),
    }
    bundle = write_rest(root, home, name="demo", params=params)
    return Made(bundle, content_key, model)
