"""Malformed bundles beside a live gateway: none may be served, none may be loaded."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.malformed_inputs import Honest, flipped
from benchmarks.malformed_tally import DEATHS, Tally
from privacy.bundle import MANIFEST, SIGNATURE, Manifest, write_manifest
from privacy.encoding import canonical_json, pack, sha256_hex
from privacy.publisher import sign_bundle

CIRCUIT = "fhe/circuit/sharedlib.so"
Damage = Callable[[Path, Manifest, Ed25519PrivateKey, random.Random], None]


def bundles(
    api: httpx.Client,
    one: Honest,
    store: Path,
    private_key: Ed25519PrivateKey,
    count: int,
    *,
    seed: int,
) -> Tally:
    """Put damaged copies of a bundle into a store, ask for each, take them away.

    Args:
        api: The gateway of that store, which trusts `private_key`.
        one: The model that is copied.
        store: The gateway's folder of models.
        private_key: A publisher's; some damage is done by one who has it.
        count: How many copies.
        seed: To repeat it.
    """
    tally, rng = Tally(), random.Random(seed)  # noqa: S311 - to repeat it
    made = []
    try:
        for i in range(count):
            kind, damage = list(_DAMAGES.items())[i % len(_DAMAGES)]
            root = store / f"bad-{i}" / "1"
            shutil.copytree(one.bundle.root, root)
            made.append((kind, root.parent))
            manifest = replace(one.bundle.manifest, name=root.parent.name, version="1")
            write_manifest(root, manifest)
            sign_bundle(root, private_key)
            damage(root, manifest, private_key, rng)
        blob = pack([one.ciphertext])
        digest = sha256_hex(blob)
        api.put(f"/v1/blobs/{digest}", content=blob).raise_for_status()
        for kind, folder in made:
            _ask(api, kind, folder.name, digest, tally)
    finally:
        for _, folder in made:
            shutil.rmtree(folder)
    return tally


def _ask(api: httpx.Client, kind: str, name: str, digest: str, tally: Tally) -> None:
    body = {"model": name, "mode": "fhe", "input": digest}
    reply = api.post("/v1/jobs", json=body, headers={"Prefer": "wait=60"})
    problem = reply.json() if reply.is_error else reply.json()["problem"]
    if not problem:
        tally.wrong.append(f"a bundle with {kind} answered")
        tally.add(kind, "answered")
        return
    outcome = "not served" if reply.is_client_error else "refused by the worker"
    tally.check_typed(kind, problem)
    tally.worker_deaths += problem["code"] in DEATHS
    tally.add(kind, outcome, problem["code"])


def _flip(name: str) -> Damage:
    def damage(
        root: Path, _m: Manifest, _k: Ed25519PrivateKey, rng: random.Random
    ) -> None:
        raw = (root / name).read_bytes()
        (root / name).write_bytes(flipped(raw, rng.randrange(len(raw)), rng))

    return damage


def _cut(name: str) -> Damage:
    def damage(
        root: Path, _m: Manifest, _k: Ed25519PrivateKey, rng: random.Random
    ) -> None:
        raw = (root / name).read_bytes()
        (root / name).write_bytes(raw[: rng.randrange(len(raw))])

    return damage


def _unsigned(root: Path, *_: Any) -> None:
    (root / SIGNATURE).unlink()


def _strangers(root: Path, *_: Any) -> None:
    sign_bundle(root, Ed25519PrivateKey.generate())


def _resigned(change: Callable[[Any], None]) -> Damage:
    """Change the manifest as one who can sign might."""

    def damage(
        root: Path, manifest: Manifest, key: Ed25519PrivateKey, _r: random.Random
    ) -> None:
        value = json.loads(manifest.to_bytes())
        change(value)
        (root / MANIFEST).write_bytes(canonical_json(value))
        sign_bundle(root, key)

    return damage


def _path(path: str) -> Damage:
    def change(value: Any) -> None:
        value["files"][path] = {"sha256": "0" * 64, "bytes": 1, "public": True}

    return _resigned(change)


def _params(**params: Any) -> Damage:
    return _resigned(lambda value: value["modes"]["fhe"]["params"].update(params))


def _digest(value: Any) -> None:
    value["files"][CIRCUIT]["sha256"] = "0" * 64


def _another_circuit(
    root: Path, manifest: Manifest, key: Ed25519PrivateKey, rng: random.Random
) -> None:
    """Sign a circuit that is no library."""
    (root / CIRCUIT).write_bytes(rng.randbytes(4096))
    files = dict(manifest.files)
    entry = files[CIRCUIT]
    found = sha256_hex((root / CIRCUIT).read_bytes())
    files[CIRCUIT] = replace(entry, sha256=found, bytes=4096)
    write_manifest(root, replace(manifest, files=files))
    sign_bundle(root, key)


_DAMAGES: dict[str, Damage] = {
    "a flipped manifest": _flip(MANIFEST),
    "a flipped signature": _flip(SIGNATURE),
    "a flipped circuit": _flip(CIRCUIT),
    "a flipped client file": _flip("fhe/client.json"),
    "a cut manifest": _cut(MANIFEST),
    "a cut signature": _cut(SIGNATURE),
    "a cut circuit": _cut(CIRCUIT),
    "no signature": _unsigned,
    "a stranger's signature": _strangers,
    "a wrong digest": _resigned(_digest),
    "a path above": _path("../../../escape"),
    "an absolute path": _path("/etc/hostname"),
    "a path with a dot": _path("fhe/./client.json"),
    "another name": _resigned(lambda value: value.update(name="breast-cancer")),
    "an unknown member": _resigned(lambda value: value.update(surprise=1)),
    "another architecture": _params(machine="riscv64"),
    "a missing CPU feature": _params(cpu_features=["avx4096"]),
    "another engine": _params(versions={"concrete-python": "1.0.0"}),
    "no library for a circuit": _another_circuit,
}
