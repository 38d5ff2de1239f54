"""Named ways to go wrong with proofs: what is done, and the code that must come of it.

Every case runs the real engine, where it gets that far. Nothing may verify, hang or
raise what is not a `PrivacyError`.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from privacy.bundle import Bundle, list_files, write_manifest
from privacy.child import Child
from privacy.encoding import b64url, canonical_json
from privacy.zkml import Verifier
from privacy.zkml.field import MODULUS, to_hex
from privacy.zkml.tune.options import parse_choices

BASE_FIELD = 0x30644E72E131A029B85045B68181585D97816A916871CA8D3C208C16D87CFD47
DEADLINE_S = 60.0
MALFORMED, INVALID = "evidence-malformed", "proof-invalid"
CHANGED, FAILED = "bundle-changed", "verify-failed"
DEGENERATE = "srs-degenerate"
ELSEWHERE, RANGE = "proof-not-about-input", "out-of-range"
Claim = dict[str, Any]


@dataclass
class Lab:
    """Published models, finished jobs, a node and a verifier, all real."""

    bundle: Bundle
    other: Bundle
    salted: Bundle
    job: Any
    other_job: Any
    salted_rows: Any
    salted_evidence: bytes
    salt: bytes
    node: Any
    verifier: Verifier
    folder: Path

    def verify(
        self, evidence: bytes, bundle: Bundle | None = None, **given: Any
    ) -> Any:
        return self.verifier.verify(
            bundle or self.bundle,
            evidence,
            **{"rows": self.job.rows, **given},
            allow_insecure_srs=True,
            timeout_s=DEADLINE_S,
        )

    def verify_claim(self, change: Callable[[Claim], object]) -> Any:
        claim = json.loads(self.job.evidence)
        change(claim)
        return self.verify(canonical_json(claim))

    def verify_proof(self, change: Callable[[bytearray], object]) -> Any:
        def forge(claim: Claim) -> None:
            raw = bytearray.fromhex(claim["proofs"][0]["proof"])
            change(raw)
            claim["proofs"][0]["proof"] = raw.hex()

        return self.verify_claim(forge)

    def files(self, name: str, raw: bytes | None) -> Bundle:
        """Return the bundle with a file replaced, or removed, behind its manifest."""
        root = self.folder / "files"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self.bundle.root, root)
        path = root / "zkml" / name
        path.unlink() if raw is None else path.write_bytes(raw)
        return replace(self.bundle, root=root)

    def verify_pinned(self, name: str, raw: bytes) -> Any:
        """Verify with a file that a publisher swapped, and pinned."""
        bundle = self.pinned(name, raw)
        claim = {**json.loads(self.job.evidence), "model_sha256": bundle.sha256}
        return self.verify(canonical_json(claim), bundle)

    def prove_pinned(self, name: str, raw: bytes) -> Any:
        """Prove with such a file, in a worker of its own: some make the engine hang."""
        bundle = self.pinned(name, raw)
        with Child("gateway.executors.worker:handler") as child:
            node = type(self.node)(child, bundle, self.folder)
            node.timeout_s = DEADLINE_S
            return node.run(self.job.rows[:1])

    def pinned(self, name: str, raw: bytes) -> Bundle:
        root = self.files(name, raw).root
        public = frozenset(n for n, e in self.bundle.manifest.files.items() if e.public)
        files = list_files(root, public)
        return write_manifest(root, replace(self.bundle.manifest, files=files))

    def read(self, name: str) -> bytes:
        return (self.bundle.root / "zkml" / name).read_bytes()

    def read_other(self, name: str) -> bytes:
        return (self.other.root / "zkml" / name).read_bytes()

    def ask(self, **members: Any) -> Any:
        rows = [[0.0] * 30]
        message = {"rows": rows, "salt": b64url(bytes(32)), **members}
        return self.node.run_blob(json.dumps(message, separators=(",", ":")).encode())

    def ask_value(self, value: float) -> Any:
        return self.node.run_blob(
            canonical_json({"rows": [[value] * 30], "salt": b64url(bytes(32))})
        )


@dataclass(frozen=True)
class Case:
    """One way, and what must come of it: one of the codes, separated by spaces."""

    name: str
    codes: str
    run: Callable[[Lab], Any]
    slow: bool = False


def _set(index: int, value: Any) -> Callable[[Claim], None]:
    def change(claim: Claim) -> None:
        felts = claim["proofs"][0]["instances"]
        felts[index] = value(felts[index]) if callable(value) else value

    return change


def _plus(amount: int) -> Callable[[str], str]:
    return lambda text: f"{(int(text, 16) + amount) % (1 << 256):064x}"


def _proof(**members: Any) -> Callable[[Claim], None]:
    return lambda claim: claim["proofs"][0].update(members)


def _text(change: Callable[[str], str]) -> Callable[[Claim], None]:
    def apply(claim: Claim) -> None:
        claim["proofs"][0]["proof"] = change(claim["proofs"][0]["proof"])

    return apply


def _put(at: int, raw: bytes) -> Callable[[bytearray], None]:
    def change(proof: bytearray) -> None:
        proof[at : at + len(raw)] = raw

    return change


def _point(x: int, y: int) -> bytes:
    return x.to_bytes(32, "big") + y.to_bytes(32, "big")


def _second_spelling(at: int, modulus: int) -> Callable[[bytearray], None]:
    def change(proof: bytearray) -> None:
        value = int.from_bytes(proof[at : at + 32], "big")
        proof[at : at + 32] = (value + modulus).to_bytes(32, "big")

    return change


def _fill(byte: int) -> Callable[[bytearray], None]:
    def change(proof: bytearray) -> None:
        proof[:] = bytes([byte]) * len(proof)

    return change


def _flip(at: int) -> Callable[[bytearray], None]:
    def change(proof: bytearray) -> None:
        proof[at] ^= 1

    return change


def _exchange(claim: Claim) -> None:
    first, second = claim["proofs"]
    first["proof"], second["proof"] = second["proof"], first["proof"]


def _of_proof(name: str, change: Callable[[bytearray], object]) -> Case:
    return Case(f"proof: {name}", INVALID, lambda lab: lab.verify_proof(change))


def _of_claim(name: str, codes: str, change: Callable[[Claim], object]) -> Case:
    return Case(name, codes, lambda lab: lab.verify_claim(change))


PROOFS = [
    _of_proof("first byte flipped", _flip(0)),
    _of_proof("last byte flipped", _flip(-1)),
    _of_proof("all zeros", _fill(0)),
    _of_proof("all ones", _fill(255)),
    _of_proof("a point off the curve", _put(0, _point(1, 1))),
    _of_proof("the point at infinity", _put(0, bytes(64))),
    _of_proof("the generator", _put(0, _point(1, 2))),
    _of_proof("a coordinate plus its modulus", _second_spelling(0, BASE_FIELD)),
    _of_proof(
        "the other coordinate plus its modulus", _second_spelling(32, BASE_FIELD)
    ),
    _of_claim("proof: a byte short", MALFORMED, _text(lambda t: t[:-2])),
    _of_claim("proof: a byte more", MALFORMED, _text(lambda t: t + "00")),
    _of_claim("proof: empty", MALFORMED, _proof(proof="")),
    _of_claim("proof: upper case", MALFORMED, _text(str.upper)),
    _of_claim("proof: half a byte", MALFORMED, _text(lambda t: t[:-1])),
    _of_claim("proof: no hex", MALFORMED, _text(lambda t: "zz" + t[2:])),
    _of_claim("proof: a list of bytes", MALFORMED, _proof(proof=[1, 2])),
    _of_claim("proof: null", MALFORMED, _proof(proof=None)),
    _of_claim("proof: bytes of two rows exchanged", INVALID, _exchange),
]

INSTANCES = [
    _of_claim("instance: output plus 1", INVALID, _set(1, _plus(1))),
    _of_claim("instance: output less 1", INVALID, _set(1, _plus(-1))),
    _of_claim("instance: output plus modulus", MALFORMED, _set(1, _plus(MODULUS))),
    _of_claim("instance: output zero", INVALID, _set(1, to_hex(0))),
    _of_claim(
        "instance: output negated", INVALID, _set(1, lambda t: to_hex(-int(t, 16)))
    ),
    _of_claim("instance: output huge", INVALID, _set(1, to_hex(MODULUS - 1))),
    _of_claim("instance: hash plus 1", INVALID, _set(0, _plus(1))),
    _of_claim("instance: hash plus modulus", MALFORMED, _set(0, _plus(MODULUS))),
    _of_claim("instance: hash of nothing", INVALID, _set(0, to_hex(0))),
    _of_claim("instance: short", MALFORMED, _set(1, "0")),
    _of_claim("instance: with 0x", MALFORMED, _set(1, lambda t: "0x" + t[2:])),
    _of_claim("instance: upper case", MALFORMED, _set(0, str.upper)),
    _of_claim("instance: a number", MALFORMED, _set(1, 7)),
    _of_claim("instance: null", MALFORMED, _set(1, None)),
    _of_claim("instance: a list", MALFORMED, _set(1, [])),
    _of_claim(
        "instances: in another order",
        INVALID,
        lambda claim: claim["proofs"][0]["instances"].reverse(),
    ),
    _of_claim(
        "instances: one more",
        MALFORMED,
        lambda claim: claim["proofs"][0]["instances"].append(to_hex(0)),
    ),
    _of_claim(
        "instances: one less",
        MALFORMED,
        lambda claim: claim["proofs"][0]["instances"].pop(),
    ),
    _of_claim("instances: none", MALFORMED, _proof(instances=[])),
    _of_claim("instances: an object", MALFORMED, _proof(instances={})),
]

_PRETTY = {"rescaled_outputs": [["9.0"]]}
CLAIMS = [
    _of_claim("forged pretty fields", MALFORMED, _proof(pretty_public_inputs=_PRETTY)),
    _of_claim("forged hex_proof", MALFORMED, _proof(hex_proof="0x00")),
    _of_claim("forged scales", MALFORMED, lambda c: c.update(output_scale_bits=1)),
    _of_claim("forged outputs", MALFORMED, lambda c: c.update(outputs=[[1.0]])),
    _of_claim("no proofs", MALFORMED, lambda c: c.update(proofs=[])),
    _of_claim("proofs are an object", MALFORMED, lambda c: c.update(proofs={})),
    _of_claim(
        "257 proofs", MALFORMED, lambda c: c.update(proofs=c["proofs"][:1] * 257)
    ),
    _of_claim("a proof left out", "wrong-proof-count", lambda c: c["proofs"].pop()),
    _of_claim(
        "a proof twice",
        "wrong-proof-count",
        lambda c: c["proofs"].append(c["proofs"][0]),
    ),
    _of_claim("proofs of swapped rows", ELSEWHERE, lambda c: c["proofs"].reverse()),
    _of_claim(
        "the label of another model",
        "wrong-model",
        lambda c: c.update(model_sha256="0" * 64),
    ),
    _of_claim("a label that is none", MALFORMED, lambda c: c.update(model_sha256="x")),
    _of_claim(
        "an insecure SRS called public",
        "srs-mislabelled",
        lambda c: c.update(insecure_srs=False),
    ),
    _of_claim("insecure_srs is 1", MALFORMED, lambda c: c.update(insecure_srs=1)),
]


def _of_bytes(name: str, change: Callable[[bytes], bytes]) -> Case:
    return Case(
        f"evidence: {name}", MALFORMED, lambda lab: lab.verify(change(lab.job.evidence))
    )


EVIDENCE = [
    _of_bytes("empty", lambda _: b""),
    _of_bytes("no JSON", lambda _: b"\x80\x04\x95"),
    _of_bytes("a list", lambda _: b"[]"),
    _of_bytes("a byte short", lambda raw: raw[:-1]),
    _of_bytes("half", lambda raw: raw[: len(raw) // 2]),
    _of_bytes("bytes behind it", lambda raw: raw + b"\n\n"),
    _of_bytes("a space before it", lambda raw: b" " + raw),
    _of_bytes("indented", lambda raw: json.dumps(json.loads(raw), indent=1).encode()),
    _of_bytes(
        "a member twice", lambda raw: b'{"insecure_srs":true,' + raw.removeprefix(b"{")
    ),
    _of_bytes("not UTF-8", lambda raw: raw.replace(b"a", b"\xff", 1)),
    _of_bytes("NaN", lambda raw: raw.replace(b"true", b"NaN", 1)),
    _of_bytes("nested without end", lambda _: b"[" * 100_000),
    _of_bytes("65 MiB", lambda _: b'"' + b"a" * (65 << 20) + b'"'),
]

REPLAYS = [
    Case(
        "replay: proofs of another model, relabelled",
        INVALID,
        lambda lab: lab.verify(
            canonical_json(
                {
                    **json.loads(lab.other_job.evidence),
                    "model_sha256": lab.bundle.sha256,
                }
            )
        ),
    ),
    Case(
        "replay: proofs of another model",
        "wrong-model",
        lambda lab: lab.verify(lab.other_job.evidence),
    ),
    Case(
        "replay: proofs about other rows",
        ELSEWHERE,
        lambda lab: lab.verify(lab.job.evidence, rows=lab.job.rows + 1),
    ),
    Case(
        "replay: of a row one unit apart",
        ELSEWHERE,
        lambda lab: lab.verify(lab.job.evidence, rows=_near(lab)),
    ),
    Case(
        "replay: salted proofs for another job about the same rows",
        ELSEWHERE,
        lambda lab: lab.verify(
            lab.salted_evidence, lab.salted, rows=lab.salted_rows, salt=b"x" * 32
        ),
    ),
    Case(
        "replay: salted proofs for another row of the same job",
        ELSEWHERE,
        lambda lab: lab.verify(
            canonical_json(_reversed(lab.salted_evidence)),
            lab.salted,
            rows=lab.salted_rows,
            salt=lab.salt,
        ),
    ),
    Case(
        "replay: salted proofs without the salt",
        "salt-missing",
        lambda lab: lab.verify(lab.salted_evidence, lab.salted, rows=lab.salted_rows),
    ),
]


def _near(lab: Lab) -> Any:
    rows = lab.job.rows.astype(np.float64)
    bits = lab.bundle.manifest.modes["zkml"].params["input_scale_bits"]
    rows[1, 7] += 2.0**-bits
    return rows


def _reversed(evidence: bytes) -> Claim:
    claim: Claim = json.loads(evidence)
    claim["proofs"].reverse()
    return claim


def _of_rows(name: str, codes: str, rows: Callable[[Any], Any]) -> Case:
    return Case(
        f"rows to compare: {name}",
        codes,
        lambda lab: lab.verify(lab.job.evidence, rows=rows(lab.job.rows)),
    )


ROWS = [
    _of_rows("NaN", RANGE, lambda r: r * np.nan),
    _of_rows("infinite", RANGE, lambda r: r + np.inf),
    _of_rows("1e308", RANGE, lambda r: np.full(r.shape, 1e308)),
    _of_rows("too narrow", "wrong-feature-count", lambda r: r[:, :5]),
    _of_rows("too wide", "wrong-feature-count", lambda r: np.hstack([r, r])),
    _of_rows("one-dimensional", "wrong-feature-count", lambda r: r[0]),
    _of_rows("ragged", "wrong-feature-count", lambda r: [list(r[0]), [1.0]]),
    _of_rows("words", "wrong-feature-count", lambda _: [["a"] * 30]),
    _of_rows("one row less", "wrong-proof-count", lambda r: r[:1]),
]

_KEPT = ("settings.json", "vk.key", "verifier.srs")


def _of_file(what: str, name: str, codes: str, change: Callable[[Lab], Any]) -> Case:
    return Case(
        f"{name}: {what}",
        codes,
        lambda lab: lab.verify(lab.job.evidence, lab.files(name, change(lab))),
    )


def _damaged(name: str) -> list[Case]:
    def flipped(lab: Lab) -> bytes:
        raw = bytearray(lab.read(name))
        raw[len(raw) // 2] ^= 1
        return bytes(raw)

    return [
        _of_file("a byte flipped", name, CHANGED, flipped),
        _of_file("truncated", name, CHANGED, lambda lab: lab.read(name)[:-1]),
        _of_file("empty", name, CHANGED, lambda _: b""),
        _of_file("missing", name, "verifier-file-missing", lambda _: None),
    ]


FILES = [case for name in _KEPT for case in _damaged(name)]


def _settings(**args: Any) -> Callable[[Lab], bytes]:
    def change(lab: Lab) -> bytes:
        settings = json.loads(lab.read("settings.json"))
        settings["run_args"].update(args)
        return json.dumps(settings).encode()

    return change


def forged_scales(lab: Lab) -> bytes:
    """Return settings that say another scale of the outputs."""
    settings = json.loads(lab.read("settings.json"))
    assert settings["model_output_scales"] != [1]
    return json.dumps({**settings, "model_output_scales": [1]}).encode()


UNBOUND = {
    "scales": forged_scales,
    "base 0": _settings(decomp_base=0),
    "a million legs": _settings(decomp_legs=10**6),
}
"""Settings that the engine does not look at when it verifies."""


def _of_publisher(
    what: str,
    name: str,
    codes: str,
    change: Callable[[Lab], bytes],
    *,
    slow: bool = True,
) -> Case:
    return Case(
        f"{name}, pinned: {what}",
        codes,
        lambda lab: lab.verify_pinned(name, change(lab)),
        slow=slow,
    )


def _of_srs(what: str, codes: str, change: Callable[[bytes], bytes]) -> Case:
    name = "verifier.srs"
    return Case(
        f"{name}, pinned: {what}",
        codes,
        lambda lab: lab.verify_pinned(name, change(lab.read(name))),
    )


_EITHER = f"{FAILED} verify-died {INVALID}"
PINNED = [
    _of_publisher(
        "another model's",
        "vk.key",
        INVALID,
        lambda lab: lab.read_other("vk.key"),
        slow=False,
    ),
    _of_publisher("no key", "vk.key", FAILED, lambda _: b"no key", slow=False),
    _of_publisher("empty", "vk.key", FAILED, lambda _: b"", slow=False),
    _of_publisher("half", "vk.key", _EITHER, lambda lab: lab.read("vk.key")[:500]),
    _of_publisher("zeros", "vk.key", _EITHER, lambda lab: bytes(5000)),
    _of_publisher("no JSON", "settings.json", FAILED, lambda _: b"{", slow=False),
    _of_publisher("no members", "settings.json", FAILED, lambda _: b"{}", slow=False),
    _of_publisher("logrows 63", "settings.json", _EITHER, _settings(logrows=63)),
    _of_publisher("logrows 0", "settings.json", _EITHER, _settings(logrows=0)),
    _of_publisher("logrows -1", "settings.json", _EITHER, _settings(logrows=-1)),
    _of_publisher(
        "a million columns", "settings.json", _EITHER, _settings(num_inner_cols=10**6)
    ),
    _of_srs("empty", DEGENERATE, lambda _: b""),
    _of_srs("zeros", DEGENERATE, lambda _: bytes(388)),
    _of_srs("of secret 0", DEGENERATE, lambda raw: raw[:260] + bytes(128)),
    _of_srs("of secret 1", DEGENERATE, lambda raw: raw[:260] + raw[132:260]),
    _of_srs("with another generator", DEGENERATE, lambda raw: b"\1" + raw[1:]),
    _of_srs("with a byte behind it", DEGENERATE, lambda raw: raw + b"\0"),
    _of_srs("truncated", DEGENERATE, lambda raw: raw[:200]),
    _of_srs("of a secret off the curve", _EITHER, lambda raw: raw[:260] + b"\1" * 128),
]


def _of_input(name: str, codes: str, **members: Any) -> Case:
    return Case(f"input: {name}", codes, lambda lab: lab.ask(**members))


def _of_value(name: str, value: float) -> Case:
    return Case(f"input: {name}", RANGE, lambda lab: lab.ask_value(value))


INPUTS = [
    Case("input: empty", "not-json", lambda lab: lab.node.run_blob(b"")),
    Case("input: a list", "malformed", lambda lab: lab.node.run_blob(b"[]")),
    Case("input: a pickle", "not-json", lambda lab: lab.node.run_blob(b"\x80\x04\x95")),
    Case(
        "input: trailing bytes",
        "not-json",
        lambda lab: lab.node.run_blob(b'{"rows":[[0]],"salt":"x"}x'),
    ),
    _of_input("NaN", "not-json", rows=[[float("nan")] * 30]),
    _of_input("infinite", "not-json", rows=[[float("inf")] * 30]),
    _of_input("words", "not-a-number", rows=[["0"] * 30]),
    _of_input("null", "not-a-number", rows=[[None] * 30]),
    _of_input("true", "not-a-number", rows=[[True] * 30]),
    _of_input("no rows", "no-rows", rows=[]),
    _of_input("too narrow", "wrong-feature-count", rows=[[0] * 29]),
    _of_input("too wide", "wrong-feature-count", rows=[[0] * 31]),
    _of_input("257 rows", "too-many-rows", rows=[[0] * 30] * 257),
    _of_input("a short salt", "bad-salt", rows=[[0] * 30], salt="AA"),
    _of_input("a salt of another type", "bad-salt", rows=[[0] * 30], salt=7),
    _of_input("a member more", "unknown-member not-canonical", job="job_1"),
    _of_value("1e308", 1e308),
    _of_value("-1e308", -1e308),
    _of_value("2**40", 2.0**40),
    _of_value("beyond the range", 1e4),
]


def _of_prover(
    what: str, name: str, codes: str, change: Callable[[Lab], bytes]
) -> Case:
    return Case(
        f"prover's {name}: {what}",
        codes,
        lambda lab: lab.prove_pinned(name, change(lab)),
        slow=True,
    )


_BAD_KEY = "bad-proving-key"
_NO_PROOF = "backend-failed engine-panicked proof-inconsistent worker-died out-of-range"
PROVER = [
    _of_prover(
        "another model's", "pk.key", _BAD_KEY, lambda lab: lab.read_other("pk.key")
    ),
    _of_prover("no key", "pk.key", _BAD_KEY, lambda _: b"no key"),
    _of_prover("half", "pk.key", _BAD_KEY, lambda lab: lab.read("pk.key")[: 1 << 18]),
    _of_prover("no circuit", "network.ezkl", _NO_PROOF, lambda _: b"no circuit"),
    _of_prover(
        "another model's",
        "network.ezkl",
        _NO_PROOF,
        lambda lab: lab.read_other("network.ezkl"),
    ),
    _of_prover(
        "half", "network.ezkl", _NO_PROOF, lambda lab: lab.read("network.ezkl")[:999]
    ),
    _of_prover("no SRS", "kzg.srs", _NO_PROOF, lambda _: b"\x0b\0\0\0"),
    _of_prover(
        "half", "kzg.srs", _NO_PROOF, lambda lab: lab.read("kzg.srs")[: 1 << 15]
    ),
    _of_prover("too small", "kzg.srs", _NO_PROOF, lambda lab: lab.read("verifier.srs")),
    _of_prover("no JSON", "settings.json", _NO_PROOF, lambda _: b"{"),
    _of_prover("logrows 63", "settings.json", _NO_PROOF, _settings(logrows=63)),
    _of_prover(
        "another model's", "vk.key", _BAD_KEY, lambda lab: lab.read_other("vk.key")
    ),
]

_SANE = {
    "scale_bits": 9,
    "decomp_base": 512,
    "decomp_legs": 3,
    "num_inner_cols": 1,
    "scale_rebase_multiplier": 1,
    "logrows": 12,
}


def _of_settings(name: str, settings: Any) -> Case:
    return Case(
        f"settings asked for: {name}", "bad-option", lambda _: parse_choices(settings)
    )


SETTINGS = [
    _of_settings(f"{name} {value!r}", [{**_SANE, name: value}])
    for name, value in (
        ("scale_bits", 0),
        ("scale_bits", 99),
        ("decomp_base", 0),
        ("decomp_base", 1),
        ("decomp_base", -512),
        ("decomp_legs", 0),
        ("decomp_legs", 10**9),
        ("num_inner_cols", 0),
        ("num_inner_cols", 1.5),
        ("scale_rebase_multiplier", 0),
        ("logrows", 63),
        ("logrows", "12"),
        ("logrows", True),
        ("disable_freivalds", "yes"),
    )
] + [
    _of_settings("a word", "fast"),
    _of_settings("a list of words", ["fast"]),
    _of_settings("a member too few", [{"logrows": 12}]),
    _of_settings("a member too many", [{**_SANE, "check_mode": "unsafe"}]),
]

CASES = [
    *PROOFS,
    *INSTANCES,
    *CLAIMS,
    *EVIDENCE,
    *REPLAYS,
    *ROWS,
    *FILES,
    *PINNED,
    *INPUTS,
    *PROVER,
    *SETTINGS,
]
