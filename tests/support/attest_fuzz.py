"""Genuine simulated evidence of every format, and ways to change it."""

import copy
import itertools
import json
import random
import resource
import struct
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography.utils import CryptographyDeprecationWarning
from dcap_quotes import make_quote

from privacy.encoding import b64url, b64url_decode, canonical_json
from privacy.errors import PrivacyError
from privacy.tee import cbor
from privacy.tee.attest import attest
from privacy.tee.checks import Checklist
from privacy.tee.collateral import Collateral
from privacy.tee.composite import FORMAT, Composite, Device, bound_report_data
from privacy.tee.parse import REGISTERS, Measurements, parse_quote
from privacy.tee.policy import Relaxations
from privacy.tee.simulated_collateral import Defects, simulated_collateral, tcb_info
from privacy.tee.simulated_vendors import (
    SimulatedAmd,
    SimulatedAws,
    SimulatedNvidia,
    _cbor,
)
from privacy.tee.simulator import SimulatedTdxAttester
from privacy.tee.trust import (
    SIMULATED_SGX_QE_MRSIGNER,
    TrustStore,
    simulated_trust_store,
)

FORMATS = ("sgx-v3", "tdx-v4", "tdx-v5-1.5", "snp", "nitro", "nvidia", "composite")
MAX_SECONDS, MAX_BYTES = 1.0, 64 << 20
_REGISTERS = Measurements(*(bytes([i + 1]) * 48 for i in range(len(REGISTERS))))
_DATA = bytes(range(64))


@dataclass(frozen=True)
class Target:
    """Evidence that is accepted as it is.

    Attributes:
        other: Evidence of the same form by another signer.
        split: Takes evidence apart; `join` puts it together, lengths made right.
        plain: Evidence without what may be there or not: zeros behind it and so on.
    """

    raw: bytes
    other: bytes
    store: TrustStore
    collateral: Collateral
    now: datetime
    split: Callable[[bytes], list]
    join: Callable[[list], bytes]
    plain: Callable[[bytes], bytes]

    def check(self, raw, collateral=None):
        """Return the verdict or raise the refusal."""
        return attest(
            raw,
            trust_store=self.store,
            collateral=collateral or self.collateral,
            now=self.now,
            checks=Checklist(),
            policy=Relaxations(allow_unchecked_collateral=True),
        )


def make_target(form: str, now: datetime) -> Target:
    """Return a target of one of `FORMATS`."""
    if form == "snp":
        vendor = SimulatedAmd()
        other = copy.copy(vendor)
        other.leaf = vendor.make_leaf()
        given = Collateral(certificates=(vendor.leaf.der,))
        raws, store = (vendor.report(_DATA), other.report(_DATA)), vendor.trust_store
        return Target(*raws, store, given, now, _fixed, b"".join, _no_zeros)
    if form == "nitro":
        vendor, other = SimulatedAws(now=now), SimulatedAws(now=now)
        raws, store = (vendor.document(), other.document()), vendor.trust_store
        return Target(
            *raws, store, Collateral(), now, _nitro, _join_nitro, _without_tag
        )
    if form == "nvidia":
        vendor, other = SimulatedNvidia(), SimulatedNvidia()
        raws = vendor.report(_DATA[:32]), other.report(_DATA[:32])
        given, store = vendor.collateral(now), vendor.trust_store
        return Target(*raws, store, given, now, _nvidia, _join_nvidia, _without_end)
    if form == "composite":
        return make_composite(now, chips=("GH100", "GB100"))
    return make_dcap_target(form, SimulatedTdxAttester(), now)


def make_composite(now, *, chips):
    """Return a target of a trust domain with GPUs, all collateral given."""
    cpu = SimulatedTdxAttester()
    gpus = [SimulatedNvidia(chip=chip, shipped=True) for chip in chips]

    def compose(cpu):
        devices = tuple(Device(g.report(_DATA[:32]), g.chain) for g in gpus)
        data = bound_report_data(_DATA, [d.report for d in devices])
        return Composite(cpu.quote(data, _REGISTERS), devices, _DATA).to_bytes()

    beside = [replace(g.collateral(now), certificates=()) for g in gpus]
    given = sum(beside, simulated_collateral(cpu.ca, now=now))
    raws, store = (
        (compose(cpu), compose(SimulatedTdxAttester())),
        simulated_trust_store(),
    )
    return Target(*raws, store, given, now, _composite, _join_composite, bytes.strip)


def _composite(raw):
    """A composite: CPU, devices, what is bound."""
    value = json.loads(raw)
    devices = [
        [b64(d["report"]), [b64(c) for c in d["certificates"]]]
        for d in value["devices"]
    ]
    return [b64(value["cpu"]), devices, b64(value["bound"])]


def _join_composite(parts):
    cpu, devices, bound = [*parts, b"", b"", b""][:3]
    listed = [
        {"report": _text(d[0]), "certificates": [_text(c) for c in _list(d[1])]}
        if len(_list(d)) == 2
        else _text(d)
        for d in _list(devices)
    ]
    value = {"format": FORMAT, "cpu": _text(cpu), "devices": listed}
    return canonical_json(value | {"bound": _text(bound)})


def b64(text):
    return b64url_decode(text, what="text")


def _text(part):
    return b64url(_flat(part))


def _list(part):
    return part if isinstance(part, list) else []


def make_dcap_target(form: str, attester: SimulatedTdxAttester, now: datetime):
    """Return a target of one of the DCAP forms, by that platform."""
    raws = [
        make_quote(a, form, _DATA, _REGISTERS)
        for a in (attester, SimulatedTdxAttester())
    ]
    given = simulated_collateral(attester.ca, now=now, defects=_defects(form))
    store = simulated_trust_store()
    return Target(*raws, store, given, now, _dcap, _join_dcap, _plain_quote)


def _defects(form):
    if not form.startswith("sgx"):
        return Defects()
    return Defects(
        tcb_info={"id": "SGX", "tcbLevels": tcb_info()["tcbLevels"]},
        qe_identity={
            "id": "QE",
            "mrsigner": SIMULATED_SGX_QE_MRSIGNER.hex().upper(),
            "isvprodid": 1,
        },
    )


def _no_zeros(raw):
    return raw.rstrip(b"\0")


def _plain_quote(raw):
    return replace(parse_quote(raw), pem_end=b"\n").to_bytes()


def _without_tag(raw):
    return raw.removeprefix(b"\xd2")


def _without_end(raw):
    return raw[:-1] if raw[-1:] in {b"\0", b"\n"} else raw


# Taking apart: a list whose parts are bytes or lists like it.


def _fixed(raw):
    """An SNP report by its fields."""
    edges = [0, 4, 8, 16, 0x20, 0x30, 0x34, 0x38, 0x40, 0x48, 0x50, 0x90, 0xC0, 0xE0]
    edges += [0x110, 0x140, 0x160, 0x180, 0x188, 0x1A0, 0x1E0, 0x1F0, 0x1F8, 0x208]
    edges += [0x2A0, 0x2D0, 0x2E8, 0x318, 0x330, len(raw)]
    return [raw[a:b] for a, b in itertools.pairwise(edges)]


def _dcap(raw):
    """A quote: header, body, signature data; certificates one by one."""
    body = {3: 384, 4: 584, 5: 6 + 648}[raw[0]]
    at = 48 + body + 4
    head = [raw[i : i + 4] for i in range(0, 48, 4)]
    head += [raw[i : min(i + 16, at - 4)] for i in range(48, at - 4, 16)]
    data = [raw[at : at + 64], raw[at + 64 : at + 128]]
    at += 128 + (6 if raw[0] > 3 else 0)
    qe = [raw[at + i : at + i + 16] for i in range(0, 384, 16)]
    qe.append(raw[at + 384 : at + 448])
    (auth,) = struct.unpack_from("<H", raw, at + 448)
    qe.append(raw[at + 450 : at + 450 + auth])
    at += 450 + auth
    kind, size = struct.unpack_from("<HI", raw, at)
    pem = raw[at + 6 : at + 6 + size]
    certificates = [b"-----BEGIN" + part for part in pem.split(b"-----BEGIN")[1:]]
    return [head, data, qe, [struct.pack("<H", kind)], certificates]


def _flat(parts):
    if isinstance(parts, list):
        return b"".join(map(_flat, parts))
    return parts if isinstance(parts, bytes) else str(parts).encode()


def _join_dcap(parts):
    head, data, qe, kind, chain = (
        p if isinstance(p, list) else [p] for p in [*parts, [], [], [], []][:5]
    )
    *report, auth = qe or [b""]
    pem, auth = _flat(chain), _flat([auth])
    inner = _flat(report) + struct.pack("<H", len(auth) & 0xFFFF) + auth
    inner += _flat(kind) + struct.pack("<I", len(pem)) + pem
    start = _flat(head)
    if start[:1] != b"\3":
        inner = struct.pack("<HI", 6, len(inner)) + inner
    inner = _flat(data) + inner
    return start + struct.pack("<I", len(inner)) + inner


def _nitro(raw):
    """A document: protected, unprotected, payload by members, signature."""
    protected, unprotected, payload, signature = cbor.decode(raw, what="document")
    members = [[k, v] for k, v in cbor.decode(payload, what="payload").items()]
    return [protected, unprotected, members, signature]


def _join_nitro(parts):
    out = []
    for part in parts:
        if isinstance(part, list):
            pairs = [p for p in part if isinstance(p, list) and len(p) == 2]
            body = b"".join(_cbor(k) + _cbor(v) for k, v in pairs)
            part = cbor.encode_head(5, len(pairs)) + body  # noqa: PLW2901
        out.append(_cbor(part))
    return cbor.encode_head(4, len(out)) + b"".join(out)


def _nvidia(raw):
    """A report: request, response, measurements, opaque fields, signature."""
    at = 37 + 2 + 2
    count, size = raw[at], int.from_bytes(raw[at + 1 : at + 4], "little")
    record = raw[at + 4 : at + 4 + size]
    step = size // count
    blocks = [record[i : i + step] for i in range(0, size, step)]
    at += 4 + size
    nonce, (length,) = raw[at : at + 32], struct.unpack_from("<H", raw, at + 32)
    opaque, fields = raw[at + 34 : at + 34 + length], []
    while opaque:
        (inner,) = struct.unpack_from("<H", opaque, 2)
        fields.append(opaque[: 4 + inner])
        opaque = opaque[4 + inner :]
    signature = raw[at + 34 + length :]
    return [[raw[:4], raw[4:36], raw[36:41]], blocks, [nonce], fields, [signature]]


def _join_nvidia(parts):
    head, blocks, nonce, fields, signature = (
        p if isinstance(p, list) else [p] for p in [*parts, [], [], [], []][:5]
    )
    record, opaque = _flat(blocks), _flat(fields)
    return (
        _flat(head)
        + bytes([len(blocks) & 0xFF])
        + (len(record) & 0xFFFFFF).to_bytes(3, "little")
        + record
        + _flat(nonce)
        + struct.pack("<H", len(opaque) & 0xFFFF)
        + opaque
        + _flat(signature)
    )


# Changing.


def change_bytes(raw: bytes, source: random.Random) -> bytes:
    """Return the bytes with one to three places changed."""
    out = bytearray(raw)
    for _ in range(source.choice((1, 1, 1, 2, 3))):
        at, size = source.randrange(len(out) or 1), source.randrange(1, 9)
        start = source.randrange(len(out) or 1)
        choices = (
            (slice(at, at + size), b""),
            (slice(at, at), source.randbytes(size)),
            (slice(at, at + size), source.choice((b"\0", b"\xff")) * size),
            (slice(at, at + 32), bytes(out[start : start + 32])),
            (slice(at, None), b""),
            (slice(len(out), None), source.randbytes(size)),
            *[(slice(at, at + 1), source.randbytes(1))] * 6,
        )
        where, value = source.choice(choices)
        out[where] = value
    return bytes(out)


def change_structure(target: Target, source: random.Random) -> bytes:
    """Return the evidence with one to three parts changed, lengths made right."""
    parts, other = target.split(target.raw), target.split(target.other)
    for _ in range(source.choice((1, 1, 2, 3))):
        _change_part(parts, other, source)
    return target.join(parts)


def _change_part(parts, other, source):
    if not parts:
        return
    lists = [i for i, part in enumerate(parts) if isinstance(part, list)]
    deeper = lists and source.random() < 0.7  # most parts are down there
    at = source.choice(lists) if deeper else source.randrange(len(parts))
    theirs = other[at] if isinstance(other, list) and at < len(other) else b""
    if isinstance(parts[at], list) and source.random() < 0.85:
        _change_part(parts[at], theirs, source)
        return
    match source.randrange(7):
        case 0:
            del parts[at]
        case 1:
            parts.insert(at, parts[at])
        case 2:
            to = source.randrange(len(parts))
            parts[at], parts[to] = parts[to], parts[at]
        case 3:
            parts[at] = theirs
        case _:
            parts[at] = _other_value(parts[at], source)


def _other_value(value, source):
    if isinstance(value, bytes) and value:
        options = (
            source.randbytes(len(value)),
            bytes(len(value)),
            value[:-1],
            value + source.randbytes(1),
            value[::-1],
            change_bytes(value, source),
            value * 2,
            b"",
        )
        return source.choice(options)
    options = (source.randbytes(8), source.randrange(1 << 40), "text", [], {}, {0: b""})
    return source.choice(options)


@dataclass
class Outcome:
    """What changed evidence led to."""

    codes: Counter
    accepted: list
    slowest_s: float
    grown_bytes: int

    def check(self):
        """Fail if any was accepted, slow or large."""
        assert not self.accepted, f"accepted: {self.accepted[:3]}"
        assert self.slowest_s < MAX_SECONDS
        assert self.grown_bytes < MAX_BYTES


def hammer(target: Target, change, count: int, *, seed: int) -> Outcome:
    """Return what `count` changes lead to; what stays the same is left out.

    An error that is not of this project's ends the test: that is its first purpose.
    """
    source, codes, accepted = random.Random(seed), Counter(), []
    slowest, plain = 0.0, target.plain(target.raw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        target.check(target.raw)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        while codes.total() < count:
            raw, collateral = change(target, source)
            if raw in {target.raw, target.other} and collateral is target.collateral:
                continue  # `other` is genuine, where its signer is trusted, too
            start = time.thread_time()
            try:
                target.check(raw, collateral)
                if collateral is target.collateral and target.plain(raw) == plain:
                    continue
                accepted.append(raw.hex())
                codes["ACCEPTED"] += 1
            except PrivacyError as exc:
                codes[exc.code] += 1
            slowest = max(slowest, time.thread_time() - start)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Outcome(codes, accepted, slowest, (after - before) * 1024)


def by_bytes(target, source):
    """Change bytes of the evidence, at times of a certificate beside it."""
    beside = target.collateral.certificates
    if beside and not target.collateral.tcb_infos and source.random() < 0.1:
        at = source.randrange(len(beside))
        changed = change_bytes(beside[at], source)
        if changed != beside[at]:
            certificates = (*beside[:at], changed, *beside[at + 1 :])
            return target.raw, replace(target.collateral, certificates=certificates)
    return change_bytes(target.raw, source), target.collateral


def by_structure(target, source):
    """Change parts of the evidence."""
    return change_structure(target, source), target.collateral
