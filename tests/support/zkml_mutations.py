"""Thousands of forgeries of one job's proofs, in a child that holds the engine.

Every one goes through `verify_proofs` as a client calls it, except that the engine is
called in this process instead of in a new one each time.
"""

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from privacy.bundle import open_bundle
from privacy.encoding import canonical_json
from privacy.errors import PrivacyError
from privacy.zkml import verify
from privacy.zkml.field import MODULUS

FILES = ("settings.json", "vk.key", "verifier.srs")


def handler():
    checked = verify.handler()

    def direct(_, root, _timeout_s):
        return checked({"root": str(root)}, lambda _: None)["about"]

    verify.Verifier._ask = direct
    return campaign


def campaign(request, progress):
    """Return how many mutations were refused with which code, and which were not."""
    work = Path(request["work"])
    shutil.copytree(request["bundle"], work, symlinks=True)
    bundle = replace(
        open_bundle(work, check_files=False), sha256=request["model_sha256"]
    )
    good, rows = Path(request["evidence"]).read_bytes(), np.load(request["rows"])
    rng, refused, accepted = random.Random(request["seed"]), Counter(), []
    ways = {"bytes": _bytes, "claim": _claim, "files": _files(work / "zkml")}
    for i in range(request["count"]):
        name = rng.choice(list(ways))
        evidence, what, restore = ways[name](good, rng)
        try:
            if evidence == good and name != "files":
                continue  # nothing was changed
            verify.verify_proofs(bundle, evidence, rows=rows, allow_insecure_srs=True)
            accepted.append(f"{i}: {name}: {what}")
        except PrivacyError as exc:
            refused[exc.code] += 1
        finally:
            restore()
        if i % 500 == 0:
            progress({"stage": "mutate", "done": i, "total": request["count"]})
    return {"refused": dict(refused), "accepted": accepted}


def _nothing():
    return None


def _bytes(good, rng):
    """Change, drop or add bytes of the blob."""
    raw = bytearray(good)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at, way = rng.randrange(len(raw)), rng.randrange(4)
        if way == 0:
            raw[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            del raw[at]
        elif way == 2:
            raw.insert(at, rng.randrange(256))
        else:  # another digit keeps the blob well-formed
            raw[at] = rng.choice(b"0123456789abcdef")
    return bytes(raw), "bytes", _nothing


def _claim(good, rng):
    """Change what is claimed, and encode it well."""
    claim = json.loads(good)
    proofs = claim["proofs"]
    way = rng.choice(("instance", "proof", "swap", "mix", "repeat", "label"))
    pick = rng.randrange(len(proofs))
    if way == "instance":
        felts = proofs[pick]["instances"]
        at = rng.randrange(len(felts))
        felts[at] = _other_felt(felts[at], rng)
    elif way == "proof":
        raw = bytearray.fromhex(proofs[pick]["proof"])
        start = rng.randrange(len(raw))
        for i in range(start, min(len(raw), start + rng.choice((1, 1, 32, 64)))):
            raw[i] = rng.randrange(256)
        proofs[pick]["proof"] = raw.hex()
    elif way == "swap":
        proofs.reverse()
    elif way == "mix":
        proofs[0]["proof"] = proofs[1]["proof"]
    elif way == "repeat":
        proofs[pick] = proofs[1 - pick]
    else:
        name = rng.choice(("insecure_srs", "model_sha256"))
        odd = {"insecure_srs": False, "model_sha256": f"{rng.getrandbits(256):064x}"}
        claim[name] = odd[name]
    return canonical_json(claim), way, _nothing


def _other_felt(text, rng):
    value = int(text, 16)
    other = rng.choice(
        (
            value + 1,
            value - 1,
            value + MODULUS,
            MODULUS - value,
            0,
            rng.randrange(MODULUS),
            value ^ (1 << rng.randrange(254)),
            value + (1 << rng.randrange(24)),
        )
    )
    return f"{other % (1 << 256):064x}"


def _files(folder) -> Callable:
    """Change a file that is pinned."""

    def change(good, rng):
        path = folder / rng.choice(FILES)
        kept = path.read_bytes()
        raw = bytearray(kept)
        way = rng.randrange(3)
        if way == 0:
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        elif way == 1:
            raw = raw[: rng.randrange(len(raw))]
        else:
            raw += bytes([rng.randrange(256)])
        path.write_bytes(raw)
        return good, path.name, lambda: path.write_bytes(kept)

    return change
