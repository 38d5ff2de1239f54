"""A bundle without engines: the right shape, with files that mean nothing."""

from importlib import metadata
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
from privacy.fhe.machine import PACKAGE
from privacy.files import default_home
from privacy.publisher import load_trust, open_trusted, publisher_key, sign_bundle


def write_bundle(
    models_dir: Path,
    *,
    name: str = "demo",
    version: str = "1",
    needs_keys: bool = True,
    published_at: str = "2026-01-01T00:00:00.000Z",
    fhe_reason: str = "",
    fhe_params: Json | None = None,
) -> Bundle:
    root = models_dir / name / version
    files = {
        "fhe/client.json": b'{"public": true}',
        "fhe/server.zip": b"not for clients",
        "zkml/vk.key": b"verifying key",
        "tee/model.onnx": b"weights",
    }
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    manifest = Manifest(
        name=name,
        version=version,
        task="classification",
        columns=(Column("age", 0.0, 100.0), Column("dose", 0.0, 1.0)),
        outputs=1,
        activation="sigmoid",
        classes=("no", "yes"),
        clear_accuracy={},
        modes={
            "fhe": ModePart(
                available=not fhe_reason,
                reason=fhe_reason,
                params={
                    "needs_keys": needs_keys,
                    "versions": {PACKAGE: metadata.version(PACKAGE)},
                    **(fhe_params or {}),
                },
            ),
            "zkml": ModePart(available=True),
            "tee": ModePart(available=True),
        },
        files=list_files(root, frozenset({"fhe/client.json", "zkml/vk.key"})),
        published_at=published_at,
        tool="hand",
    )
    write_manifest(root, manifest)
    sign_bundle(root, publisher_key(default_home()))
    return open_trusted(root, load_trust(default_home()))
