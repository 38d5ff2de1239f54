from dataclasses import replace

import numpy as np
import pytest

from privacy.bundle import ModePart
from privacy.errors import FormatError, VerificationError
from privacy.tee_zkml.client import check_agreement, tolerance
from privacy.tee_zkml.publish import compose
from tests.support.hand_made_bundle import write_bundle


@pytest.fixture
def manifest(tmp_path):
    made = write_bundle(tmp_path).manifest
    part = ModePart(available=True, accuracy={"max_error": 0.01})
    return replace(made, modes={**made.modes, "tee+zkml": part})


def test_answers_within_the_published_error_agree(manifest):
    proven = np.array([[0.0], [2.0]])
    assert check_agreement(manifest, proven + 0.05, proven) == pytest.approx(
        0.0125, abs=1e-3
    )


@pytest.mark.parametrize("other", [[[1.0], [2.0]], [[0.0], [np.nan]], [[0.0]]])
def test_answers_further_apart_than_the_published_error_are_refused(manifest, other):
    with pytest.raises(VerificationError) as caught:
        check_agreement(manifest, np.array(other), np.array([[0.0], [2.0]]))
    assert caught.value.code == "answers-differ"


@pytest.mark.parametrize("accuracy", [{}, {"max_error": "0"}, {"max_error": True}])
def test_a_manifest_that_states_no_error_allows_no_answer(manifest, accuracy):
    part = ModePart(available=True, accuracy=accuracy)
    with pytest.raises(FormatError):
        tolerance(replace(manifest, modes={**manifest.modes, "tee+zkml": part}))


def test_the_mode_is_offered_only_where_both_others_are(tmp_path):
    without = ModePart(available=False, reason="too wide")
    parts = {"tee": ModePart(available=True), "zkml": without}
    assert compose(tmp_path, parts).reason == "mode zkml does not serve it: too wide"
