"""A GPU is used where it is asked for and can be had, and never by surprise."""

import pytest
from concrete import compiler

from privacy.errors import FormatError, UnavailableError
from privacy.fhe.backends.device import uses_gpu
from privacy.fhe.options import parse_options

HERE = compiler.check_gpu_enabled() and compiler.check_gpu_available()


def test_the_cpu_is_the_default_and_asks_for_nothing():
    assert parse_options({}).device == "cpu"
    assert not uses_gpu("cpu")


def test_auto_takes_a_gpu_where_there_is_one():
    assert uses_gpu("auto") == HERE


@pytest.mark.skipif(HERE, reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused_with_what_to_do():
    with pytest.raises(UnavailableError, match="or choose device cpu") as caught:
        uses_gpu("cuda")
    assert caught.value.code == "fhe-no-gpu"


def test_another_device_is_refused():
    with pytest.raises(FormatError, match="expected cpu or cuda or auto"):
        parse_options({"device": "tpu"})
