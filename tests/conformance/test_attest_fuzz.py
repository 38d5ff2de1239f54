"""No changed evidence is ever accepted; each answer is a typed refusal, soon and small.

Every format, with certificates and collateral as its verification needs them.
"Accepted" counts all but what is the same evidence in one of its few spellings: zeros
behind a quote or report, the end of a PEM chain, COSE's tag.
"""

import base64
import resource
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from attest_fuzz import (
    FORMATS,
    MAX_BYTES,
    MAX_SECONDS,
    by_bytes,
    by_structure,
    hammer,
    make_target,
)

from privacy.errors import FormatError, PrivacyError
from privacy.tee import cbor, der
from privacy.tee.attest import show
from privacy.tee.collateral import parse_collateral


@pytest.fixture(scope="module", params=FORMATS)
def target(request):
    return make_target(request.param, datetime.now(UTC))


def test_evidence_put_together_again_is_the_same(target):
    assert target.join(target.split(target.raw)) == target.raw
    target.check(target.raw)


def test_a_sample_of_changed_evidence_is_refused(target):
    hammer(target, by_bytes, 290, seed=1).check()
    hammer(target, by_structure, 60, seed=2).check()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_changed_bytes_are_accepted(target):
    outcome = hammer(target, by_bytes, 100_000, seed=3)
    print(outcome.codes, f"slowest {outcome.slowest_s:.3f} s")  # noqa: T201
    outcome.check()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_changed_structure_is_accepted(target):
    outcome = hammer(target, by_structure, 5_000, seed=4)
    print(outcome.codes, f"slowest {outcome.slowest_s:.3f} s")  # noqa: T201
    outcome.check()


def test_every_truncation_is_refused_as_malformed(target):
    end = len(target.raw.rstrip(b"\0"))
    sizes = [*range(400), *range(400, end, 29), *range(end - 100, end)]
    _all_malformed(target, sizes)


@pytest.mark.slow
def test_every_truncation_of_any_length_is_refused_as_malformed(target):
    _all_malformed(target, range(len(target.raw.rstrip(b"\0"))))


def _all_malformed(target, sizes):
    for size in sizes:
        with pytest.raises(FormatError):
            target.check(target.raw[:size])


NESTED = {
    "json": b"[" * (1 << 20),
    "json object": b'{"a":' * 200_000,
    "json in a text": b'["' + b"[" * 1_000_000 + b'"]',
    "cbor arrays": bytes.fromhex("8444a1013822") + b"\x81" * 30_000,
    "cbor maps": bytes.fromhex("8444a1013822") + b"\xa1\x01" * 15_000,
    "cbor tags": b"\xd2" * 30_000,
    "cbor without end": bytes.fromhex("8444a1013822") + b"\x9f" * 30_000,
    "cbor of many": bytes.fromhex("8444a1013822") + b"\x9b" + b"\xff" * 8,
    "cbor long text": bytes.fromhex("8444a1013822") + b"\x7b" + b"\x7f" + b"\xff" * 7,
    "hex": b"00" * (1 << 19),
    "base64": base64.b64encode(b"\4\0\2\0\x81\0\0\0" + bytes(700_000)),
    "devices": b"[" + b'{"evidence":"","certificate":""},' * 30_000 + b"{}]",
    "zeros": bytes(1 << 20),
    "too large": bytes((1 << 20) + 1),
    "pem": b"-----BEGIN CERTIFICATE-----" * 38_000,
    "pem crl": b"-----BEGIN X509 CRL-----" * 40_000,
    "json escapes": b'["' + rb"\"[" * 300_000 + b'"]',
    "spdm lengths": bytes.fromhex("11e001ff") + b"\xff" * 65_000,
    "quote lengths": bytes.fromhex("0400020081000000") + b"\xff" * 65_000,
}


@pytest.mark.parametrize("raw", NESTED.values(), ids=NESTED)
def test_huge_and_deep_evidence_is_refused_soon_and_small(raw):
    before, start = _peak(), time.thread_time()
    with pytest.raises(FormatError):
        show(raw)
    with pytest.raises(PrivacyError):
        parse_collateral(raw, what="collateral")
    assert time.thread_time() - start < MAX_SECONDS
    assert _peak() - before < MAX_BYTES


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_deep_der_and_cbor_are_refused():
    deep = b""
    for _ in range(2000):
        deep = b"\x30\x83" + len(deep).to_bytes(3, "big") + deep
    with pytest.raises(FormatError):
        der.oid_values(deep, what="extension")
    with pytest.raises(FormatError):
        cbor.decode(b"\x81" * 9 + b"\0", what="document")
