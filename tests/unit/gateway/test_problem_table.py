import inspect

import pytest

from gateway.problems import STATUS, internal_problem, problem_of
from privacy import errors
from privacy.child import ChildDied
from privacy.errors import AuthError, FormatError, PrivacyError

CLASSES = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, PrivacyError)
]


def test_the_list_of_error_classes_is_not_empty():
    assert len(CLASSES) >= 12


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_class_has_a_status(cls: type[PrivacyError]):
    assert 400 <= STATUS[cls] <= 599


@pytest.mark.parametrize("cls", CLASSES)
def test_a_problem_can_be_turned_back_into_its_error(cls: type[PrivacyError]):
    problem = problem_of(cls("what happened", code="some-code"))
    back = errors.error_from(problem["family"], problem["code"], problem["detail"])
    assert (type(back), back.code, back.message) == (cls, "some-code", "what happened")
    assert problem["type"] == "urn:privacy-compute:problem:some-code"


def test_a_private_subclass_is_shown_as_its_public_class():
    problem = problem_of(ChildDied("ended by SIGSEGV", by_itself=True))
    assert problem["family"] == "BackendError"
    assert problem["status"] == 500


def test_codes_refine_the_status_of_their_class():
    assert problem_of(AuthError("no"))["status"] == 401
    assert problem_of(AuthError("no", code="missing-scope"))["status"] == 403
    assert problem_of(FormatError("no"))["status"] == 422


def test_a_defect_shows_its_id_and_nothing_else():
    problem = internal_problem("abc123")
    assert problem["status"] == 500
    assert "abc123" in problem["detail"]
    assert problem["code"] == "internal"
