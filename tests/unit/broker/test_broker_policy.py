"""Which enclaves a publisher lets have a key: strict, and never nobody or everybody."""

import pytest

from privacy.broker import KeyPolicy, parse_key_policy
from privacy.errors import FormatError

HARDWARE = b'products = ["Milan"]\n[measurements."snp-v3"]\nmeasurement = "%s"\n'


def test_a_file_says_what_the_platform_must_show():
    policy = parse_key_policy(HARDWARE % (b"ab" * 48))
    assert not policy.allow_simulated
    assert policy.platform.products == ("Milan",)
    assert policy.platform.measurements == {"snp-v3": {"measurement": ("ab" * 48,)}}
    assert KeyPolicy.of(policy.as_dict()) == policy


def test_simulated_enclaves_are_accepted_on_purpose_only():
    policy = parse_key_policy(b"", allow_simulated=True)
    assert policy == parse_key_policy(b"allow_simulated = true")
    assert policy.platform is None
    assert not parse_key_policy(HARDWARE % (b"ab" * 48)).allow_simulated


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b'report_data = "00"',
        b"allow_any_report_data = true",
        b'nonce = "00"',
        b'reference_value_signers = ["x"]',
        b'products = ["x"]',
        b'allow_simulated = "yes"',
        b"allow_everything = true",
        b"not toml",
        b"[measurements]",
    ],
)
def test_what_a_keys_policy_cannot_say_is_refused(raw):
    with pytest.raises(FormatError):
        parse_key_policy(raw)
