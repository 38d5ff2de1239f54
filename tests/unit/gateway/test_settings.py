"""Settings that are not valid are refused, by name; whose word is taken is no guess."""

import pytest

from gateway.__main__ import main
from gateway.settings import Settings, load_settings
from privacy.errors import FormatError


def test_addresses_and_networks_can_be_trusted():
    proxies = ("192.0.2.1", "10.0.0.0/8", "2001:db8::/32")
    assert Settings(trusted_proxies=proxies).trusted_proxies == proxies


@pytest.mark.parametrize("proxy", ["*", "proxy.example", "10.0.0.1/8", ""])
def test_what_would_trust_all_or_nobody_is_refused(proxy: str):
    with pytest.raises(FormatError, match="no address and no network"):
        load_settings(trusted_proxies=[proxy])


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "canary"), ("TRUSTED_PROXIES", "canary")]
)
def test_a_setting_that_is_not_valid_stops_the_start_and_is_named(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
):
    monkeypatch.setenv(f"PRIVACY_GATEWAY_{name}", value)
    assert main() == FormatError("").exit_code
    said = capsys.readouterr().err
    assert name.lower() in said.lower()
    assert "canary" not in said
