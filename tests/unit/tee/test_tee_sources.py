"""Every source of an enclave's evidence, from the enclave to the data owner's check."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from fake_tsm import IMAGE, FakeTsm
from tee_models import MODEL_SHA256, WEIGHTS, linear_model

from privacy.encoding import sha256_hex
from privacy.errors import (
    AppraisalError,
    BackendError,
    CannotVerifyError,
    FormatError,
    PrivacyError,
    UnavailableError,
    VerificationError,
)
from privacy.tee import quoter as quoter_module
from privacy.tee.client import TeeSession, verify_job_evidence
from privacy.tee.composite import devices_to_bytes, parse_devices
from privacy.tee.configfs_tsm import ConfigfsTsm
from privacy.tee.enclave import Enclave
from privacy.tee.engine import Engine
from privacy.tee.evidence import parse_evidence
from privacy.tee.measure import measure_loaded
from privacy.tee.parse import Measurements
from privacy.tee.platforms import platform_values
from privacy.tee.policy import parse_policy
from privacy.tee.quoter import TsmAttester, serve
from privacy.tee.simulated_attesters import SimulatedGpu
from privacy.tee.sources import KINDS, NO_DEVICES, Devices, EvidenceSource

MODEL = linear_model()
MEASURED = measure_loaded(MODEL)
ROWS = np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, 0.0]])
SIMULATED = [kind for kind in KINDS if kind.startswith("simulated")]


class FakeTsmAttester:
    """What `TsmAttester` is, without the process: the emulator answers here."""

    def __init__(self, fake, *, evidence_format, simulated=True):
        self._tsm = ConfigfsTsm(fake)
        self.format, self.simulated = evidence_format, simulated

    def quote(self, report_data, measurements):
        return self._tsm.report(report_data).evidence


def enclave_of(attester, *, gpus=NO_DEVICES, measured=MEASURED):
    engine = Engine(MODEL)
    return Enclave(engine, attester, measured, model_sha256=MODEL_SHA256, devices=gpus)


def session_of(**options):
    return TeeSession(
        model_sha256=MODEL_SHA256,
        reference=MEASURED.as_dict(),
        columns=3,
        **{"allow_simulated": True, **options},
    )


def check(enclave, session=None, *, change=lambda evidence: evidence, **options):
    session = session or session_of(**options)
    evidence = change(enclave.evidence(session.nonce))
    return session.check_evidence(evidence, now=datetime.now(UTC))


def refused(kind, enclave, **options):
    with pytest.raises(kind) as caught:
        check(enclave, **options)
    return caught.value.code


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("kind", SIMULATED)
def test_a_job_under_every_simulated_source_is_answered_and_verified(kind, gpu):
    source = EvidenceSource(kind, simulated_gpu=gpu)
    gpus = source.open_devices()
    enclave, session = enclave_of(source.open(), gpus=gpus), session_of()
    result = check(enclave, session)
    assert result.simulated
    assert result.measurements.rtmr2 == MEASURED.rtmr2
    sealed = session.seal(ROWS)
    output, evidence = enclave.infer(sealed)
    now = datetime.now(UTC)
    assert np.allclose(session.open(output, evidence, now=now), ROWS @ WEIGHTS)
    vendors = {c.name for c in result.checks}
    assert ("device-binding" in vendors) == gpu
    offline = verify_job_evidence(
        evidence,
        reference=MEASURED.as_dict(),
        model_sha256=MODEL_SHA256,
        input_sha256=sha256_hex(sealed),
        output_sha256=sha256_hex(output),
        now=now,
        allow_simulated=True,
    )
    assert offline.simulated


@pytest.mark.parametrize("kind", SIMULATED)
def test_evidence_of_a_simulated_source_is_refused_unless_allowed(kind):
    enclave = enclave_of(EvidenceSource(kind).open())
    code = refused(VerificationError, enclave, allow_simulated=False)
    assert code == "simulated-evidence"


@pytest.mark.parametrize("register", ["mrtd", "rtmr0", "rtmr1", "rtmr2"])
@pytest.mark.parametrize("kind", SIMULATED)
def test_an_enclave_that_measures_otherwise_is_refused(kind, register):
    other = replace(MEASURED, **{register: b"\7" * 48})
    enclave = enclave_of(EvidenceSource(kind).open(), measured=other)
    assert refused(AppraisalError, enclave) == "measurement-mismatch"


@pytest.mark.parametrize("kind", SIMULATED)
def test_evidence_for_another_nonce_is_refused(kind):
    enclave = enclave_of(EvidenceSource(kind).open())

    def renamed(evidence):
        old = parse_evidence(enclave.evidence(bytes(32)))
        nonce = parse_evidence(evidence).nonce
        return replace(old, nonce=nonce).to_bytes()

    code = refused(AppraisalError, enclave, change=renamed)
    assert code == "report-data-mismatch"


@pytest.mark.parametrize("kind", SIMULATED)
def test_a_log_that_leaves_an_event_out_is_refused(kind):
    enclave = enclave_of(EvidenceSource(kind).open())

    def shortened(evidence):
        shown = parse_evidence(evidence)
        return replace(shown, event_log=shown.event_log[1:]).to_bytes()

    assert refused(AppraisalError, enclave, change=shortened)


def test_a_format_that_names_another_vendor_is_refused():
    enclave = enclave_of(EvidenceSource("simulated-snp").open())

    def renamed(evidence):
        return replace(parse_evidence(evidence), format="tdx-v4").to_bytes()

    assert refused(AppraisalError, enclave, change=renamed) == "format-refused"


def test_a_format_of_no_enclave_is_refused():
    enclave = enclave_of(EvidenceSource("simulated-snp").open())

    def renamed(evidence):
        return replace(parse_evidence(evidence), format="sgx-v3").to_bytes()

    assert refused(FormatError, enclave, change=renamed) == "unsupported-quote"


# Devices


@pytest.fixture(scope="module")
def gpu_enclave():
    source = EvidenceSource("simulated-snp", simulated_gpu=True)
    return enclave_of(source.open(), gpus=source.open_devices())


def test_a_report_that_was_left_out_is_refused(gpu_enclave):
    def without(evidence):
        return replace(parse_evidence(evidence), device_evidence=b"").to_bytes()

    code = refused(AppraisalError, gpu_enclave, change=without)
    assert code == "report-data-mismatch"


def test_a_report_of_another_gpu_is_refused(gpu_enclave):
    def exchanged(evidence):
        shown = parse_evidence(evidence)
        other = devices_to_bytes([SimulatedGpu().device(shown.nonce)])
        return replace(shown, device_evidence=other).to_bytes()

    code = refused(VerificationError, gpu_enclave, change=exchanged)
    assert code == "device-binding"


def test_a_gpu_that_answered_another_nonce_is_refused():
    class Stale(SimulatedGpu):
        def device(self, nonce):
            return super().device(bytes(32))

    attester = EvidenceSource("simulated-tdx").open()
    enclave = enclave_of(attester, gpus=Devices(Stale(), always=True))
    assert refused(VerificationError, enclave) == "nonce-mismatch"


def test_a_gpu_with_other_firmware_is_refused():
    class Changed(SimulatedGpu):
        def device(self, nonce):
            honest = super().device(nonce)
            report = self._device.report(nonce, [b"\xff" * 48] * 4)
            return replace(honest, report=report)

    attester = EvidenceSource("simulated-tdx").open()
    enclave = enclave_of(attester, gpus=Devices(Changed(), always=True))
    assert refused(AppraisalError, enclave) == "reference-mismatch"


def test_a_gpu_in_use_is_vouched_for_unasked():
    source = EvidenceSource("simulated-tdx")
    devices = source.open_devices()
    assert devices.reports(bytes(32), ("CUDAExecutionProvider", "CPUExecutionProvider"))
    assert not devices.reports(bytes(32), ("CPUExecutionProvider",))
    assert not devices.reports(bytes(32), ())
    assert source.may_use_gpu


def test_beside_evidence_of_hardware_a_model_stays_on_the_cpu():
    source = EvidenceSource("configfs-tsm")
    assert not source.may_use_gpu
    assert source.open_devices() == NO_DEVICES


@pytest.fixture
def asked(monkeypatch):
    """What a session is asked to run on, where ONNX Runtime claims to have CUDA."""
    import onnxruntime

    class Asked(list):
        denied = False

    found = Asked()

    class Session(onnxruntime.InferenceSession):
        def __init__(self, *arguments, providers, **options):
            found.append(providers)
            if found.denied and providers[0] != "CPUExecutionProvider":
                raise RuntimeError("no device")
            super().__init__(*arguments, providers=["CPUExecutionProvider"], **options)

    found_by = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: found_by)
    return found


def test_the_engine_picks_cuda_where_it_may(asked):
    Engine(MODEL)
    assert asked == [["CUDAExecutionProvider", "CPUExecutionProvider"]]


def test_the_engine_leaves_gpus_alone_when_told(asked):
    Engine(MODEL, may_use_gpu=False)
    assert asked == [["CPUExecutionProvider"]]


def test_a_gpu_that_cannot_be_opened_leaves_the_model_on_the_cpu(asked):
    asked.denied = True
    engine = Engine(MODEL)
    assert engine.providers == ("CPUExecutionProvider",)
    assert len(asked) == 2
    assert np.allclose(engine.run(ROWS.tolist()), ROWS @ WEIGHTS)


# Choices that make no sense


@pytest.mark.parametrize(
    "choice",
    [{"kind": "sgx"}, {"kind": "configfs-tsm", "simulated_gpu": True}],
)
def test_choices_that_no_verifier_would_accept_are_refused(choice):
    with pytest.raises(FormatError) as caught:
        EvidenceSource(**choice)
    assert caught.value.code == "bad-evidence-source"


def test_a_source_travels_as_json():
    source = EvidenceSource("simulated-nitro", simulated_gpu=True)
    assert EvidenceSource.from_dict(source.as_dict()) == source


# Hardware: a machine image was measured, and the enclave's registers are in the log


IMAGE_POLICIES = {
    "tdx_guest": f"""
allow_any_report_data = true
[measurements."tdx-v4"]
mrtd = "{IMAGE.mrtd.hex()}"
rtmr0 = "{IMAGE.rtmr0.hex()}"
rtmr1 = "{IMAGE.rtmr1.hex()}"
rtmr2 = "{IMAGE.rtmr2.hex()}"
""",
    "sev_guest": f"""
allow_any_report_data = true
[measurements."snp-v3"]
measurement = "{IMAGE.mrtd.hex()}"
vmpl = "00000000"
""",
}
FORMATS = {"tdx_guest": "tdx-v4", "sev_guest": "snp-v3"}


@pytest.fixture(params=["tdx_guest", "sev_guest"])
def guest(request):
    """An enclave in a guest whose image was measured, and the policy on that image."""
    provider = request.param
    attester = FakeTsmAttester(FakeTsm(provider), evidence_format=FORMATS[provider])
    policy = parse_policy(IMAGE_POLICIES[provider].encode())
    return enclave_of(attester), policy, attester


def test_a_guests_image_is_compared_with_the_policy(guest):
    enclave, policy, _ = guest
    result = check(enclave, platform=policy)
    assert result.measurements.mrtd == MEASURED.mrtd


def test_a_guest_with_another_image_is_refused(guest):
    enclave, policy, _ = guest
    other = {
        form: dict.fromkeys(table, ("00" * 48,))
        for form, table in policy.measurements.items()
    }
    changed = policy.with_reference_values(other)
    assert refused(AppraisalError, enclave, platform=changed) == "measurement-mismatch"


def test_a_guest_without_a_policy_on_its_image_is_refused(guest):
    enclave, _, _ = guest
    assert refused(AppraisalError, enclave) == "measurement-mismatch"


def test_a_guests_enclave_that_measures_otherwise_is_refused(guest):
    _, policy, attester = guest
    enclave = enclave_of(attester, measured=replace(MEASURED, rtmr1=bytes(48)))
    code = refused(AppraisalError, enclave, platform=policy)
    assert code == "event-log-mismatch"


def test_a_policy_never_lifts_what_the_evidence_must_vouch_for(guest):
    enclave, policy, _ = guest

    def renamed(evidence):
        old = parse_evidence(enclave.evidence(bytes(32)))
        return replace(old, nonce=parse_evidence(evidence).nonce).to_bytes()

    code = refused(AppraisalError, enclave, platform=policy, change=renamed)
    assert code == "report-data-mismatch"


def test_hardware_evidence_needs_a_policy_on_its_image(monkeypatch):
    # A real quote is over no data of ours; what it lacks is said before that.
    from privacy.tee import client

    enclave = enclave_of(EvidenceSource("simulated-tdx").open())
    monkeypatch.setattr(client, "names_simulated", lambda raw: False)
    monkeypatch.setattr(client, "hardware_trust_store", client.simulated_trust_store)
    code = refused(CannotVerifyError, enclave, collateral=_AllGood())
    assert code == "platform-policy-missing"


class _AllGood:
    def collateral(self, evidence):
        from privacy.tee.simulated_collateral import SimulatedCollateral

        return SimulatedCollateral(datetime.now(UTC)).collateral(evidence)


# The process that asks the kernel


def test_the_process_without_a_kernel_that_reports_says_so(tmp_path):
    with pytest.raises(UnavailableError) as caught:
        TsmAttester(tmp_path / "report")
    assert caught.value.code == "tsm-missing"


class Helper:
    """The helper's loop in a thread, over a fake of the kernel."""

    def __init__(self, monkeypatch, fake):
        import socket
        import threading

        pairs = []

        class Popen:
            def __init__(self, command, *, pass_fds, **options):
                ours = socket.socket(fileno=_dup(pass_fds[0]))
                pairs.append(ours)
                tsm = ConfigfsTsm(fake, attempts=2)

                def run():
                    with ours:
                        serve(ours, tsm)

                self._thread = threading.Thread(target=run)
                self._thread.start()

            def wait(self):
                self._thread.join(10)

        monkeypatch.setattr(quoter_module.subprocess, "Popen", Popen)
        self.sockets = pairs


def _dup(descriptor):
    import os

    return os.dup(descriptor)


def test_the_helper_gives_reports_over_our_data(monkeypatch):
    Helper(monkeypatch, FakeTsm("sev_guest"))
    attester = TsmAttester()
    assert (attester.format, attester.simulated) == ("snp-v3", True)
    assert attester.quote(bytes(64), MEASURED)
    attester.close()


def test_the_kernels_errors_cross_the_helper(monkeypatch):
    fake = FakeTsm("tdx_guest")
    Helper(monkeypatch, fake)
    attester = TsmAttester()
    fake.faults["read outblob"] = [110]  # ETIMEDOUT
    with pytest.raises(UnavailableError) as caught:
        attester.quote(bytes(64), MEASURED)
    assert caught.value.code == "tsm-timeout"
    assert attester.quote(bytes(64), MEASURED)  # it goes on
    attester.close()


def test_a_helper_that_lies_is_found_out(monkeypatch):
    fake = FakeTsm("tdx_guest")
    helper = Helper(monkeypatch, fake)
    attester = TsmAttester()
    real = ConfigfsTsm.report
    monkeypatch.setattr(ConfigfsTsm, "report", lambda self, data: real(self, bytes(64)))
    with pytest.raises(BackendError) as caught:
        attester.quote(b"\1" * 64, MEASURED)
    assert caught.value.code == "tsm-wrong-report"
    assert helper.sockets
    attester.close()


def test_a_helper_that_is_gone_is_named_as_such(monkeypatch):
    helper = Helper(monkeypatch, FakeTsm("tdx_guest"))
    attester = TsmAttester()
    helper.sockets[0].shutdown(2)
    for _ in range(2):
        with pytest.raises(UnavailableError) as caught:
            attester.quote(bytes(64), MEASURED)
        assert caught.value.code == "enclave-gone"
    attester.close()


# Evidence with a byte changed


@pytest.mark.parametrize("kind", ["simulated-snp", "simulated-nitro"])
def test_evidence_with_any_byte_changed_is_refused(kind):
    enclave, session = enclave_of(EvidenceSource(kind).open()), session_of()
    shown = parse_evidence(enclave.evidence(session.nonce))
    now = datetime.now(UTC)
    for at in range(0, len(shown.quote), 11):
        flipped = bytes([shown.quote[at] ^ 1 << at % 8])
        quote = shown.quote[:at] + flipped + shown.quote[at + 1 :]
        with pytest.raises(PrivacyError):
            session.check_evidence(replace(shown, quote=quote).to_bytes(), now=now)


# Processes


def test_an_enclave_process_shows_the_source_it_was_started_with(start_enclave):
    source = EvidenceSource("simulated-snp", simulated_gpu=True)
    enclave = start_enclave(source=source)
    assert enclave.info["format"] == "snp-v3"
    assert enclave.info["gpu"] is True
    session = session_of()
    evidence = enclave.evidence(session.nonce)
    assert session.check_evidence(evidence, now=datetime.now(UTC)).simulated
    assert len(parse_devices(parse_evidence(evidence).device_evidence)) == 1


def test_an_enclave_of_another_source_is_not_attached_to(start_enclave, tmp_path):
    from privacy.tee.host import Enclave as HostedEnclave

    start_enclave(source=EvidenceSource("simulated-nitro"))
    run_dir = tmp_path / "run"
    assert HostedEnclave.attach(run_dir) is None
    source = EvidenceSource("simulated-nitro")
    found = HostedEnclave.attach(run_dir, source=source)
    assert found is not None
    found.detach()


def test_an_enclave_whose_kernel_makes_no_reports_does_not_start(
    start_enclave, tmp_path
):
    source = EvidenceSource("configfs-tsm", tsm_root=tmp_path / "report")
    with pytest.raises(UnavailableError) as caught:
        start_enclave(source=source)
    assert caught.value.code == "tsm-missing"


# Rules


def test_every_register_changes_what_each_platform_shows():
    for form in ("tdx-v4", "snp-v3", "nitro"):
        honest = platform_values(form, MEASURED)
        for name in ("mrtd", "rtmr0", "rtmr1", "rtmr2"):
            other = platform_values(form, replace(MEASURED, **{name: b"\7" * 48}))
            assert sum(other[k] != honest[k] for k in honest) == 1
    events = replace(MEASURED, rtmr3=b"\7" * 48)
    assert platform_values("snp-v3", events) == platform_values("snp-v3", MEASURED)


def test_the_rules_for_snp_are_the_documented_ones():
    import hashlib

    measured = Measurements(*(bytes([i]) * 48 for i in range(5)))
    code = b"privacy-compute/tee/snp/code/1" + bytes(48) + b"\1" * 48 + b"\2" * 48
    model = b"privacy-compute/tee/snp/model/1" + b"\3" * 48
    assert platform_values("snp-v5", measured) == {
        "measurement": hashlib.sha384(code).hexdigest(),
        "host_data": hashlib.sha256(model).hexdigest(),
    }
