"""CPU and devices as one: bound to one another, in every point that can be wrong."""

import json
from dataclasses import replace

import pytest

from privacy.encoding import canonical_json
from privacy.errors import FormatError, PrivacyError
from privacy.tee.attest import attest, show
from privacy.tee.checks import Checklist
from privacy.tee.collateral import Collateral
from privacy.tee.composite import Composite, Device, bound_report_data
from privacy.tee.policy import Relaxations, parse_policy
from privacy.tee.simulated_amd import SimulatedAmd
from privacy.tee.simulated_collateral import simulated_collateral
from privacy.tee.simulated_nvidia import SimulatedNvidia
from privacy.tee.simulated_vendors import SimulatedAws
from privacy.tee.simulator import SimulatedTdxAttester
from privacy.tee.trust import hardware_trust_store, simulated_trust_store

NONCE, BOUND = bytes(range(32)), bytes(range(64))


@pytest.fixture(scope="module")
def cpu():
    return SimulatedTdxAttester()


@pytest.fixture(scope="module")
def gpus():
    return SimulatedNvidia(shipped=True), SimulatedNvidia(chip="GB100", shipped=True)


@pytest.fixture
def collateral(cpu, gpus, now):
    beside = [replace(g.collateral(now), certificates=()) for g in gpus]
    return sum(beside, simulated_collateral(cpu.ca, now=now))


@pytest.fixture
def compose(cpu, gpus, measurements):
    """Evidence of a CPU that vouches for the devices it is composed with, or others."""

    def make(*, nonces=(NONCE, NONCE), vouched=None, bound=BOUND, certificates=True):
        devices = tuple(
            Device(gpu.report(nonce), gpu.chain if certificates else (gpu.root.der,))
            for gpu, nonce in zip(gpus, nonces, strict=True)
        )
        reports = [d.report for d in devices] if vouched is None else vouched
        quote = cpu.quote(bound_report_data(bound, reports), measurements)
        return Composite(quote, devices, bound)

    return make


def check(composite, collateral, now, policy=None, store=None):
    return attest(
        composite if isinstance(composite, bytes) else composite.to_bytes(),
        trust_store=store or simulated_trust_store(),
        collateral=collateral,
        now=now,
        checks=Checklist(),
        policy=policy or Relaxations(),
    )


def refused(*arguments, **options):
    with pytest.raises(PrivacyError) as caught:
        check(*arguments, **options)
    return caught.value.code


def test_a_cpu_and_its_devices_are_accepted_together(compose, collateral, now):
    verdict = check(compose(), collateral, now)
    assert [c.format for c in verdict.claims] == ["tdx-v4", *["nvidia-spdm-1.1"] * 2]
    assert verdict.claims[0].report_data == BOUND.hex()
    assert {c.product for c in verdict.claims[1:]} == {"GH100", "GB100"}
    lines = {c.name for c in verdict.checks}
    assert {"device-binding", "device-nonce", "reference-measurements"} <= lines
    with_newline = compose().to_bytes() + b"\n"
    assert len(show(with_newline)) == 3


def test_a_policy_compares_what_the_workload_bound(compose, collateral, now):
    registers = {f"rtmr{i}": bytes([i + 2]) * 48 for i in range(4)}
    wanted = {"mrtd": b"\1" * 48, **registers}
    text = (
        'require_gpu = true\nreport_data = "{}"\nnonce = "{}"\n[measurements.tdx-v4]\n'
    )
    table = "".join(f'{name} = "{value.hex()}"\n' for name, value in wanted.items())
    for bound, nonce, code in (
        (BOUND, NONCE, ""),
        (bytes(64), NONCE, "report-data-mismatch"),
        (BOUND, bytes(32), "nonce-mismatch"),
    ):
        policy = parse_policy((text.format(bound.hex(), nonce.hex()) + table).encode())
        if code:
            assert refused(compose(), collateral, now, policy) == code
        else:
            assert check(compose(), collateral, now, policy)


def test_devices_are_refused_where_the_policy_asks_for_none(compose, collateral, now):
    text = 'allow_any_report_data = true\n[measurements.tdx-v4]\nmrtd = "{}"\n'
    policy = parse_policy(text.format("01" * 48).encode())
    assert refused(compose(), collateral, now, policy) == "format-refused"


def test_a_cpu_alone_is_refused_where_a_gpu_is_required(
    cpu, collateral, measurements, now
):
    text = (
        "allow_any_report_data = true\nrequire_gpu = true\n"
        '[measurements.tdx-v4]\nmrtd = "{}"\n'
    )
    policy = parse_policy(text.format("01" * 48).encode())
    quote = cpu.quote(BOUND, measurements)
    assert refused(quote, collateral, now, policy) == "gpu-missing"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda c: replace(c, devices=c.devices[:1]), id="left out"),
        pytest.param(lambda c: replace(c, devices=c.devices[::-1]), id="other order"),
        pytest.param(
            lambda c: replace(c, devices=(*c.devices, c.devices[0])), id="twice"
        ),
        pytest.param(lambda c: replace(c, bound=bytes(64)), id="other bound"),
    ],
)
def test_other_devices_than_the_cpu_vouches_for_are_refused(
    compose, collateral, now, change
):
    assert refused(change(compose()), collateral, now) == "device-binding"


def test_a_device_exchanged_for_a_genuine_other_one_is_refused(
    compose, gpus, collateral, now
):
    honest = compose()
    other = Device(gpus[0].report(NONCE), gpus[0].chain)
    exchanged = replace(honest, devices=(other, honest.devices[1]))
    assert refused(exchanged, collateral, now) == "device-binding"


def test_a_cpu_that_vouches_for_no_device_is_refused(compose, collateral, now):
    assert refused(compose(vouched=[]), collateral, now) == "device-binding"


def test_devices_that_answer_different_nonces_are_refused(compose, collateral, now):
    different = compose(nonces=(NONCE, bytes(32)))
    assert refused(different, collateral, now) == "device-nonce"


def test_a_device_without_its_chain_is_refused(compose, collateral, now):
    found = refused(compose(certificates=False), collateral, now)
    assert found == "certificate-missing"


def test_hardware_stores_refuse_simulated_composites(compose, collateral, now):
    found = refused(compose(), collateral, now, store=hardware_trust_store())
    assert found == "simulated-evidence"


def test_every_vendors_cpu_can_vouch_for_devices(gpus, collateral, now):
    gpu = gpus[0]
    device = Device(gpu.report(NONCE), gpu.chain)
    data = bound_report_data(BOUND, [device.report])
    aws = SimulatedAws(now=now, shipped=True)
    document = aws.document(members={"user_data": data})
    assert check(Composite(document, (device,), BOUND), collateral, now)
    amd = SimulatedAmd(shipped=True)
    composite = Composite(amd.report(data), (device,), BOUND)
    given = collateral + amd.collateral(now)
    assert check(composite, given, now).claims[0].vendor == "amd"


def members(composite, **changes):
    return canonical_json(json.loads(composite.to_bytes()) | changes)


def test_malformed_composites_are_refused(compose, now):
    honest = compose()
    device = json.loads(honest.to_bytes())["devices"][0]
    for changes in (
        {"format": "privacy-composite-2"},
        {"more": 1},
        {"cpu": 7},
        {"cpu": "A"},
        {"cpu": device["report"]},
        {"bound": "AAAA"},
        {"devices": []},
        {"devices": 7},
        {"devices": [device] * 17},
        {"devices": [7]},
        {"devices": [{**device, "more": 1}]},
        {"devices": [{**device, "certificates": []}]},
        {"devices": [{**device, "certificates": [7]}]},
        {"devices": [{**device, "certificates": ["AAAA"] * 9}]},
        {"devices": [{**device, "report": json.loads(honest.to_bytes())["cpu"]}]},
    ):
        with pytest.raises(FormatError):
            check(members(honest, **changes), Collateral(), now)
    with pytest.raises(FormatError):
        check(honest.to_bytes().replace(b":", b": ", 1), Collateral(), now)
    with pytest.raises(FormatError):
        bound_report_data(bytes(63), [])


def test_shipped_simulated_roots_can_be_made_again(gpus, now):
    store = simulated_trust_store()
    assert gpus[0].root.der == store.nvidia
    assert gpus[0].rim_root.der == store.nvidia_rim
    assert SimulatedAws(now=now, shipped=True).root.der == store.aws
    amd = SimulatedAmd(shipped=True)
    found = [(p.ask, p.ark, p.asvk) for p in store.amd]
    assert found == [(amd.ask.der, amd.ark.der, amd.asvk.der)]


def test_no_simulated_root_is_in_the_hardware_store():
    simulated, hardware = (
        {root for product in store.amd for root in (product.ask, product.ark)}
        | {product.asvk for product in store.amd}
        | {store.intel, store.aws, store.nvidia, store.nvidia_rim}
        for store in (simulated_trust_store(), hardware_trust_store())
    )
    assert len(simulated) == 7
    assert not simulated & hardware
