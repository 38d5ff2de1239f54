import inspect
import re

import pytest

from privacy import errors
from privacy.errors import PrivacyError, error_from

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass)]


def test_every_class_is_in_the_drawing_and_crosses_processes():
    drawn = set(re.findall(r"[A-Z]\w+Error|PrivacyError", errors.__doc__))
    assert drawn == {c.__name__ for c in CLASSES}
    for cls in CLASSES:
        again = error_from(cls.__name__, "code", "message")
        assert type(again) is cls
        assert (again.code, again.message) == ("code", "message")


def test_an_unknown_family_is_still_an_error():
    assert type(error_from("Nonsense", "x", "y")) is PrivacyError


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_has_a_slug_and_an_exit_code(cls):
    assert re.fullmatch(r"[a-z-]+", cls.default_code)
    assert 1 <= cls.exit_code <= 8
