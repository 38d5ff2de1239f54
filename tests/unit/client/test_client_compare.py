"""A data owner's comparisons against a gateway that answers as it should not."""

import sys
from types import SimpleNamespace

import httpx
import pytest

from privacy.client import Client, compare
from privacy.client.commitment import Commitment
from privacy.client.compare import _opened
from privacy.errors import (
    FormatError,
    NotFoundError,
    UnavailableError,
    VerificationError,
)

FIRST, SECOND = ({"job_id": f"job_{n}", "node": f"node-{n}"} for n in (1, 2))


@pytest.fixture
def site():
    """What the gateway says of the comparison; reports are counted."""
    return {"state": "compare", "detail": "", "runs": [FIRST, SECOND], "reports": 0}


@pytest.fixture
def owner(site, tmp_path):
    def answer(request):
        site["reports"] += request.method == "POST"
        return httpx.Response(200, json={**site, "dispute_id": site.get("dispute")})

    transport = httpx.MockTransport(answer)
    with Client("http://gateway.test", home=tmp_path, transport=transport) as client:
        yield client


def found(_context, told):
    """Say that all runs differ, without decrypting any."""
    ids = [run["job_id"] for run in told["runs"]]
    yield from ()
    return compare._Found(
        groups=tuple((i,) for i in ids),
        digests=dict.fromkeys(ids, "ab" * 32),
        rows=1,
        differing_rows=1,
    )


@pytest.mark.parametrize("runs", [[], [FIRST], [SECOND, FIRST], [FIRST] + 3 * [SECOND]])
def test_a_comparison_of_other_than_two_or_three_runs_is_refused(owner, site, runs):
    site["runs"] = runs
    with pytest.raises(UnavailableError, match="no comparison"):
        owner.compare("job_1", wait_s=0)
    assert site["reports"] == 0


def test_a_gateway_that_asks_for_the_same_comparison_for_ever_is_refused(
    owner, site, monkeypatch
):
    monkeypatch.setattr(compare, "_compare_runs", found)
    with pytest.raises(UnavailableError, match="no comparison"):
        owner.compare("job_1", wait_s=0)
    assert site["reports"] == 1


def test_an_owner_whose_runs_differ_is_told_to_rotate_the_key(owner, site, monkeypatch):
    def report(context, told):
        site["state"], site["dispute"] = "disputed", "dis_1"
        return (yield from found(context, told))

    monkeypatch.setattr(compare, "_compare_runs", report)
    with pytest.raises(VerificationError, match="privacy keys rotate") as caught:
        owner.compare("job_1", wait_s=0)
    assert caught.value.code == "second-run-differs"


def test_a_job_whose_receipt_is_elsewhere_is_not_compared(owner, site):
    with pytest.raises(NotFoundError, match="is not here"):
        owner.compare("job_1", wait_s=0)
    assert site["reports"] == 0


def test_a_result_that_stands_for_no_answer_is_one_that_differs(monkeypatch):
    """As of a leaf that the tree does not have: its node is told from the others."""

    class Opens:
        spec = SimpleNamespace(output=None)

        def decrypt_integers(self, _output, _rows):
            return [[99]]

    def no_leaf(_integers, _output):
        raise FormatError("there is no leaf 99")

    monkeypatch.setattr(sys.modules[_opened.__module__], "raw_outputs", no_leaf)
    answer = Commitment(salt=b"s", sha256="", rows=1)
    assert _opened(Opens(), b"output", answer)[0] is None
