"""A proving key that the engine might wait on for ever is seen by its form."""

from pathlib import Path
from typing import Any

import pytest

from privacy.errors import BackendError
from privacy.zkml.backends.ezkl_keys import check_proving_key
from privacy.zkml.field import MODULUS
from privacy.zkml.system import CircuitFiles

LOGROWS, ROWS, EXTENDED = 3, 8, 64
VERIFYING_KEY = b"a verifying key"
LARGEST = (MODULUS - 1).to_bytes(32, "little")
TOO_LARGE = MODULUS.to_bytes(32, "little")


def _word(number: int) -> bytes:
    return number.to_bytes(4, "big")


def _polynomial(length: int) -> bytes:
    return _word(length) + LARGEST * length


def _list(count: int, length: int) -> bytes:
    return _word(count) + _word(length) * count + _polynomial(length) * count


KEY = b"".join(
    [
        VERIFYING_KEY,
        _polynomial(EXTENDED) * 3,
        *(_list(count, n) for count in (2, 1) for n in (ROWS, ROWS, EXTENDED)),
    ]
)
_LIST = len(VERIFYING_KEY) + 3 * len(_polynomial(EXTENDED))


def _check(folder: Path, key: bytes, *, logrows: int = LOGROWS) -> None:
    files = CircuitFiles(folder)
    files.verifying_key.write_bytes(VERIFYING_KEY)
    files.proving_key.write_bytes(key)
    check_proving_key(files, logrows=logrows)


def _with(at: int, part: bytes) -> bytes:
    return KEY[:at] + part + KEY[at + len(part) :]


def test_a_key_of_the_right_form_passes(tmp_path: Path) -> None:
    _check(tmp_path, KEY)


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (b"", "empty"),
        (b"no key", "another verifying key"),
        (b"A" + KEY[1:], "another verifying key"),
        (VERIFYING_KEY, "cut short"),
        (KEY[: len(KEY) // 2], "cut short"),
        (KEY[:-1], "cut short"),
        (KEY[: _LIST + 3], "cut short"),
        (KEY + b"\0", "more after the last"),
        (_with(len(VERIFYING_KEY), _word(0)), "number of rows"),
        (_with(len(VERIFYING_KEY), _word(1 << 31)), "number of rows"),
        (_with(_LIST, _word(3)), "another length"),
        (_with(_LIST, _word(1 << 31)), "cut short"),
        (_with(_LIST + 4, _word(9)), "another length"),
        (_with(_LIST + 12, _word(9)), "another length"),
        (_with(len(VERIFYING_KEY) + 4, TOO_LARGE), "not one of the field"),
        (_with(_LIST + 16, TOO_LARGE), "not one of the field"),
    ],
)
def test_a_key_of_another_form_is_refused(tmp_path: Path, key: bytes, why: str) -> None:
    with pytest.raises(BackendError, match=why) as caught:
        _check(tmp_path, key)
    assert caught.value.code == "bad-proving-key"


@pytest.mark.parametrize("logrows", [2, 4, 17])
def test_a_key_of_another_size_is_refused(tmp_path: Path, logrows: int) -> None:
    with pytest.raises(BackendError):
        _check(tmp_path, KEY, logrows=logrows)


def test_lists_of_different_columns_are_refused(tmp_path: Path) -> None:
    lists: list[Any] = [(2, ROWS), (2, ROWS), (1, EXTENDED)] * 2
    parts = [_list(count, n) for count, n in lists]
    with pytest.raises(BackendError, match="columns are missing"):
        _check(tmp_path, KEY[:_LIST] + b"".join(parts))
