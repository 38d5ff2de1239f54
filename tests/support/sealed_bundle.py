"""A sealed bundle without publishing: a tiny real model, really sealed."""

import functools
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from privacy.bundle import (
    Bundle,
    Column,
    Manifest,
    ModePart,
    list_files,
    write_manifest,
)
from privacy.encoding import sha256_hex
from privacy.publisher import load_trust, open_trusted, publisher_key, sign_bundle
from privacy.tee.measure import measure_unloaded
from privacy.tee.sealed_model import SEALED_MODEL, Sealing, seal_model
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
    tee = ModePart(
        available=True,
        params={
            "measurements": replace(
                unloaded(), rtmr2=hashlib.sha384(model).digest()
            ).as_dict(),
            "sealed": Sealing(broker, sha256_hex(model)).as_dict(),
        },
    )
    manifest = Manifest(
        name="demo",
        version="1",
        task="regression",
        columns=tuple(Column(name, -9.0, 9.0) for name in "abc"),
        outputs=2,
        activation="none",
        classes=(),
        clear_accuracy={},
        modes={"tee": tee},
        files=list_files(root, frozenset()),
        published_at="2026-01-01T00:00:00.000Z",
        tool="hand",
    )
    write_manifest(root, manifest)
    sign_bundle(root, publisher_key(home))
    return Made(open_trusted(root, load_trust(home)), content_key, model)
