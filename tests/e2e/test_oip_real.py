"""The Open Inference Protocol with a real proof behind the answer."""

import warnings

import numpy as np
import pytest

from privacy.client.zkml_session import verified_outputs
from privacy.encoding import b64url_decode, sha256_hex
from privacy.receipt import parse_receipt

pytestmark = pytest.mark.slow


def test_a_public_clients_answer_can_be_checked_afterwards(gateway, diagnosis):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tritonclient.http as triton
    rows = np.asarray(diagnosis.rows[:2], dtype=np.float64)
    tensor = triton.InferInput("input", list(rows.shape), "FP64")
    tensor.set_data_from_numpy(rows)
    key = gateway.new_key("models:read", "jobs:read", "jobs:write")
    client = triton.InferenceServerClient(gateway.base_url.removeprefix("http://"))
    answer = client.infer(
        diagnosis.name, [tensor], headers={"Authorization": f"Bearer {key}"}
    )
    client.close()
    clear = [
        diagnosis.bundle.manifest.classes[i] for i in diagnosis.model.predict(rows)
    ]
    labels = [v.decode() for v in answer.as_numpy("label")]
    assert labels == clear
    said = answer.get_response()["parameters"]
    with gateway.client(key) as api:
        evidence = api.get(said["evidence"]).raise_for_status().content
        receipt = api.get(said["receipt"]).raise_for_status().content
    assert sha256_hex(evidence) == said["evidence_sha256"]
    assert parse_receipt(receipt)[0].output_sha256 == said["output_sha256"]
    columns = diagnosis.bundle.manifest.columns
    standardised = [
        [(v - c.offset) / c.scale for v, c in zip(row, columns, strict=True)]
        for row in rows.tolist()
    ]
    proven = verified_outputs(
        diagnosis.bundle,
        evidence,
        np.array(standardised),
        salt=b64url_decode(said["input_salt"], what="salt"),
        allow_insecure_srs=True,
    )
    assert np.allclose(proven, answer.as_numpy("output"))
