"""Which enclaves a publisher lets have a key: strict, and complete without a file."""

import pytest

from privacy.broker import KeyPolicy, parse_key_policy
from privacy.errors import FormatError
from privacy.tee.measure import measure_unloaded


@pytest.fixture(scope="module")
def measured():
    return measure_unloaded()


def test_without_a_file_the_enclave_is_this_installations_on_hardware(measured):
    policy = parse_key_policy(b"", measured)
    assert not policy.allow_simulated
    held = policy.for_report(bytes(64)).measurements["tdx-v4"]
    assert held["mrtd"] == (measured.mrtd.hex(),)
    assert held["rtmr2"] == ("00" * 48,)
    assert "rtmr3" not in held


def test_a_file_may_narrow_it_and_name_other_measurements(measured):
    raw = b'allow_simulated = true\nproducts = ["x"]\n[measurements."snp-v3"]\n'
    raw += b'measurement = "%s"\n' % (b"ab" * 48)
    policy = parse_key_policy(raw, measured)
    assert policy.allow_simulated
    assert policy.for_report(bytes(64)).products == ("x",)
    assert set(policy.for_report(bytes(64)).measurements) == {"snp-v3"}
    assert KeyPolicy.of(policy.as_dict()) == policy


@pytest.mark.parametrize(
    "raw",
    [
        b'report_data = "00"',
        b"allow_any_report_data = true",
        b'nonce = "00"',
        b'reference_value_signers = ["x"]',
        b"require_gpu = true",
        b'allow_simulated = "yes"',
        b"allow_everything = true",
        b"not toml",
        b"[measurements]",
    ],
)
def test_what_a_keys_policy_cannot_say_is_refused(raw, measured):
    with pytest.raises(FormatError):
        parse_key_policy(raw, measured)
