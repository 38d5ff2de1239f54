"""The compiled contracts that ship are those of the sources."""

import json

import pytest

from privacy.chain.abi import Abi, artifact
from privacy.errors import FormatError
from tests.unit.chain.conftest import load_script

build = load_script("contracts_build")


def _shipped():
    return json.loads(build.OUT.read_bytes())


def test_the_shipped_contracts_are_of_these_sources():
    assert _shipped()["sources_sha256"] == build.sources_sha256(), "make contracts"


@pytest.mark.slow
def test_compiling_again_gives_the_same_bytes():
    assert build.OUT.read_bytes() == build.build()


def test_every_contract_can_be_deployed():
    for name in build.SHIPPED:
        assert len(artifact(name).init_code) < 24_576


def test_arguments_that_do_not_fit_are_refused():
    registry = artifact("ModelRegistry").abi
    for bad in (b"\0" * 33, "0x12", 5, None):
        with pytest.raises(FormatError, match="do not fit"):
            registry.call("get", bad)


def test_answers_that_are_none_are_refused():
    registry = artifact("ModelRegistry").abi
    for raw in (b"", bytes(31), b"\xff" * 64):
        with pytest.raises(FormatError, match="are not what its ABI says"):
            registry.answer("get", raw)


def test_an_error_of_no_contract_has_no_name():
    assert Abi([]).error(b"\1\2\3\4").error == ""
    assert artifact("ModelRegistry").abi.error(b"").error == ""
