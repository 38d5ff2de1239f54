"""Any bytes given as RIM, OCSP response or composite end in a verdict or a typed error.

Each answer within a second, and none accepted that was changed in what counts.
"""

import random
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from privacy.encoding import canonical_json
from privacy.errors import PrivacyError
from privacy.tee.attest import attest
from privacy.tee.checks import Checklist
from privacy.tee.collateral import parse_collateral
from privacy.tee.composite import Composite, Device, bound_report_data
from privacy.tee.inventory import inventory
from privacy.tee.parse import REGISTERS, Measurements
from privacy.tee.policy import Relaxations
from privacy.tee.simulated_collateral import simulated_collateral
from privacy.tee.simulated_nvidia import SimulatedNvidia
from privacy.tee.simulator import SimulatedTdxAttester
from privacy.tee.trust import simulated_trust_store

NOW = datetime.now(UTC).replace(microsecond=0)
NONCE, BOUND = bytes(range(32)), bytes(64)
LITTLE_S = 10
"""Of CPU. Hostile input takes 0.1 to 1.2; what grows with its square takes minutes."""
KINDS = ("rim", "ocsp", "composite")


@pytest.fixture(scope="module")
def world():
    cpu, gpu = SimulatedTdxAttester(), SimulatedNvidia(shipped=True)
    registers = Measurements(*(bytes([i]) * 48 for i in range(len(REGISTERS))))
    device = Device(gpu.report(NONCE), gpu.chain)
    quote = cpu.quote(bound_report_data(BOUND, [device.report]), registers)
    beside = replace(gpu.collateral(NOW), certificates=())
    given = simulated_collateral(cpu.ca, now=NOW) + beside
    return Composite(quote, (device,), BOUND).to_bytes(), given


def check(evidence, collateral):
    return attest(
        evidence,
        trust_store=simulated_trust_store(),
        collateral=collateral,
        now=NOW,
        checks=Checklist(),
        policy=Relaxations(),
    )


def of(kind, world):
    evidence, given = world
    return {"rim": given.rims[0], "ocsp": given.ocsp[0], "composite": evidence}[kind]


def run(kind, raw, world):
    """Verify with the changed bytes in place of the honest ones; None if refused."""
    evidence, given = world
    try:
        if kind == "composite":
            return check(raw, given)
        found = parse_collateral(raw, what="file")
        inventory(found)
        name = "rims" if kind == "rim" else "ocsp"
        kept = tuple(one for one in getattr(given, name) if one != of(kind, world))
        value = (*getattr(found, name), *kept)
        return check(evidence, replace(given, **{name: value}))
    except PrivacyError:
        return None


def changed(raw, source):
    """Return `raw` with a byte, a piece or a number of it changed."""
    out, at = bytearray(raw), source.randrange(len(raw))
    match source.randrange(6):
        case 0:
            out[at] ^= source.randrange(1, 256)
        case 1:
            del out[at : at + source.randrange(1, 40)]
        case 2:
            out[at:at] = source.randbytes(source.randrange(1, 9))
        case 3:
            other = source.randrange(len(raw))
            out[at:at] = raw[other : other + source.randrange(1, 400)]
        case 4:
            del out[at:]
        case _:
            out[at : at + 1] = source.choice([b"\xff", b"\0", b"<", b'"', b"&", b"="])
    return bytes(out)


def says(verdict):
    return [(c.format, c.measurements, c.report_data, c.nonce) for c in verdict.claims]


def hammer(kind, world, count):
    honest = says(run(kind, of(kind, world), world))
    source = random.Random(f"{kind} 20261121")
    accepted = 0
    for _ in range(count):
        raw = changed(of(kind, world), source)
        begin = time.process_time()
        verdict = run(kind, raw, world)
        assert time.process_time() - begin < LITTLE_S
        if verdict is None or raw == of(kind, world):
            continue
        # White space in a signature, a comment: the document is the same.
        accepted += 1
        assert says(verdict) == honest
        assert kind == "rim"
    return accepted


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_of_changed_collateral_and_composites_is_refused(world, kind):
    assert hammer(kind, world, 400) < 10


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_changed_collateral_and_composites_are_refused_at_length(world, kind):
    assert hammer(kind, world, 20_000) < 500


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"<a>" * 300_000, id="deep"),
        pytest.param(b"<a>" + b"<b/>" * 250_000 + b"</a>", id="wide"),
        pytest.param(
            b"<a %s>%s</a>"
            % (
                b" ".join(b"xmlns:n%d='u'" % i for i in range(30)),
                b"<b/>" * 19_990,
            ),
            id="namespaces everywhere",
        ),
        pytest.param(
            b"<a %s/>" % b" ".join(b"a%d='1'" % i for i in range(90_000)),
            id="attributes",
        ),
        pytest.param(b"<a b='" + b"&lt;" * 250_000 + b"'/>", id="references"),
        pytest.param(b"<" * 1_000_000, id="brackets"),
        pytest.param(b"<!--" + b"-" * 1_000_000, id="comment"),
        pytest.param(b"0\x84\xff\xff\xff\xff" * 100_000, id="DER lengths"),
        pytest.param(b"0\x80" * 100_000, id="DER depth"),
        pytest.param(canonical_json({"rim": "AAAA" * 250_000}), id="base64"),
    ],
)
def test_hostile_collateral_costs_little(raw):
    begin = time.process_time()
    with pytest.raises(PrivacyError):
        parse_collateral(raw, what="file")
    assert time.process_time() - begin < LITTLE_S
