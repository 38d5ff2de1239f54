"""Two gateways on one database, with real engines, behind no common address."""

from contextlib import ExitStack

import pytest

from privacy.client import Client
from tests.e2e.test_crashes import check_answer, prepare
from tests.support.live_gateway import ProcessGateway
from tests.support.postgres import migrated


@pytest.mark.slow
def test_a_job_taken_by_one_is_answered_where_its_enclave_is(
    tmp_path, models_dir, diagnosis
):
    """Attested and sealed at the first, uploaded and submitted at the second."""
    shared = {
        "database_url": migrated(),
        "blobs_dir": tmp_path / "blobs",
        "receipt_key": tmp_path / "receipt.key",
    }
    with ExitStack() as stack:
        first, second = (
            ProcessGateway(tmp_path / name, models_dir, node_name=name, **shared)
            for name in ("first", "second")
        )
        stack.enter_context(first)
        (tmp_path / "second").mkdir(exist_ok=True)
        out = tmp_path / "second" / "gateway.out"
        out.write_text(f"shown once: {first.admin_key}\n")  # the database's only one
        stack.enter_context(second)
        home = Client(first.base_url, home=tmp_path / "home").home
        one = stack.enter_context(first.client())
        two = stack.enter_context(second.client())
        for mode in ("tee", "fhe", "zkml"):
            session, prepared, body = prepare(one, home, first, diagnosis, mode)
            assert two.upload(prepared.blob) == body["input"]
            job = two.post("/v1/jobs", json=body).json()
            job = two.finished(job["id"])
            assert job["status"] == "succeeded", job
            check_answer(one, job, session, prepared, diagnosis)
