"""A bundle of mode tee without publishing: a tiny real model, really measured."""

from pathlib import Path

from privacy.bundle import (
    Bundle,
    Column,
    Manifest,
    ModePart,
    list_files,
    write_manifest,
)
from privacy.encoding import Json
from privacy.publisher import load_trust, open_trusted, publisher_key, sign_bundle
from privacy.tee.measure import measure_loaded
from tests.support.tee_models import linear_model


def write_tee_bundle(store: Path, home: Path, *, name: str = "demo") -> Bundle:
    """Write `store/NAME/1`, signed by the publisher of `home`."""
    root, model = store / name / "1", linear_model()
    (root / "tee").mkdir(parents=True)
    (root / "tee" / "model.onnx").write_bytes(model)
    params = {"measurements": measure_loaded(model).as_dict()}
    return write_rest(root, home, name=name, params=params)


def write_rest(root: Path, home: Path, *, name: str, params: Json) -> Bundle:
    """Write the manifest of a linear model whose tee part is there, and sign it."""
    manifest = Manifest(
        name=name,
        version="1",
        task="regression",
        columns=tuple(Column(name, -9.0, 9.0) for name in "abc"),
        outputs=2,
        activation="none",
        classes=(),
        clear_accuracy={},
        modes={"tee": ModePart(available=True, params=params)},
        files=list_files(root, frozenset()),
        published_at="2026-01-01T00:00:00.000Z",
        tool="hand",
    )
    write_manifest(root, manifest)
    sign_bundle(root, publisher_key(home))
    return open_trusted(root, load_trust(home))
