"""The Open Inference Protocol, spoken by a public client of it."""

import json
import struct
import warnings
from collections.abc import Iterator

import numpy as np
import pytest

from gateway.executors.base import Engines
from gateway.settings import Settings
from gateway.tensors import NUMBERS
from privacy.encoding import b64url_decode, sha256_hex
from privacy.zkml.blobs import make_input
from tests.support.fake_enclave import fake_enclave
from tests.support.hand_made_bundle import write_bundle
from tests.support.live_gateway import Api, ThreadGateway

ROWS = [[20.0, 0.5], [61.0, 0.25], [3.0, 0.0]]
INFER = "/v2/models/demo/infer"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadGateway]:
    folder = tmp_path_factory.mktemp("oip")
    write_bundle(folder / "models")
    settings = Settings(
        data_dir=folder / "data", models_dir=folder / "models", oip=True
    )
    engines = Engines("tests.support.summing_worker:handler", fake_enclave)
    with ThreadGateway(settings, engines) as running:
        yield running


@pytest.fixture(scope="module")
def triton():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its HTTP library's own
        import tritonclient.http

    return tritonclient.http


@pytest.fixture(scope="module")
def client(gateway: ThreadGateway, triton):
    found = triton.InferenceServerClient(gateway.base_url.removeprefix("http://"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def key(gateway: ThreadGateway) -> str:
    return gateway.new_key("models:read", "jobs:read", "jobs:write")


@pytest.fixture
def headers(key: str):  # the client adds its own to those that it is given
    return {"Authorization": f"Bearer {key}"}


def _body(**changes) -> dict:
    tensor = {"name": "input", "datatype": "FP64", "shape": [3, 2], "data": ROWS}
    return {"inputs": [{**tensor, **changes}]}


def test_a_public_client_finds_server_and_model(client, headers):
    assert client.is_server_live(headers=headers)
    assert client.is_server_ready(headers=headers)
    assert client.is_model_ready("demo", headers=headers)
    assert client.is_model_ready("demo", "1", headers=headers)
    assert client.get_server_metadata(headers=headers)["name"] == "privacy-compute"
    model = client.get_model_metadata("demo", headers=headers)
    assert model["inputs"] == [{"name": "input", "datatype": "FP64", "shape": [-1, 2]}]
    assert [o["name"] for o in model["outputs"]] == ["output", "label"]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
def test_a_public_client_infers(
    client, headers, triton, binary_in, binary_out, datatype
):
    kind = {"FP32": np.float32, "FP64": np.float64}[datatype]
    tensor = triton.InferInput("input", [3, 2], datatype)
    tensor.set_data_from_numpy(np.array(ROWS, dtype=kind), binary_data=binary_in)
    outputs = [
        triton.InferRequestedOutput(name, binary_data=binary_out)
        for name in ("output", "label")
    ]
    answer = client.infer(
        "demo", [tensor], outputs=outputs, headers=headers, request_id="r1"
    )
    assert answer.get_response()["id"] == "r1"
    assert answer.as_numpy("output").tolist() == [[sum(row)] for row in ROWS]
    assert [str(v) for v in _texts(answer.as_numpy("label"))] == ["yes", "yes", "yes"]


def _texts(labels):
    return [v.decode() if isinstance(v, bytes) else v for v in labels]


def test_by_default_a_public_client_gets_every_output(client, headers, triton):
    tensor = triton.InferInput("input", [3, 2], "FP64")
    tensor.set_data_from_numpy(np.array(ROWS))
    answer = client.infer("demo", [tensor], model_version="1", headers=headers)
    assert answer.as_numpy("output").shape == (3, 1)
    assert answer.as_numpy("label").shape == (3,)


def test_the_answer_names_all_it_takes_to_check_it(gateway: ThreadGateway):
    with gateway.client() as api:
        said = api.post(INFER, json=_body()).json()["parameters"]
        salt = b64url_decode(said["input_salt"], what="salt")
        assert sha256_hex(make_input(ROWS, salt=salt)) == said["input_sha256"]
        evidence = api.get(said["evidence"]).raise_for_status().content
        assert sha256_hex(evidence) == said["evidence_sha256"]
        assert api.get(said["receipt"]).is_success
        assert said["verified"] is False


@pytest.mark.parametrize("datatype", NUMBERS)
def test_every_number_type_is_taken_as_binary(gateway: ThreadGateway, datatype):
    form = dict(zip(NUMBERS, "BHIQbhiqefd", strict=True))[datatype]
    data = struct.pack(f"<2{form}", 4, 1)
    parameters = {"binary_data_size": len(data)}
    body = _body(datatype=datatype, shape=[1, 2], parameters=parameters)
    del body["inputs"][0]["data"]
    head = json.dumps(body).encode()
    size = {"Inference-Header-Content-Length": str(len(head))}
    with gateway.client() as api:
        answer = api.post(INFER, content=head + data, headers=size)
    assert answer.json()["outputs"][0]["data"] == [5.0]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"datatype": "BYTES"},
        {"datatype": 5},
        {"datatype": ["FP64"]},
        {"datatype": {}},
        {"shape": [3]},
        {"shape": [3, 3]},
        {"shape": [2, 2]},
        {"shape": [0, 2]},
        {"shape": [-1, 2]},
        {"shape": [True, 2]},
        {"shape": [6, 1]},
        {"data": None},
        {"data": [["a", 1]] * 3},
        {"data": [[True, 1]] * 3},
        {"data": [[[1], 1]] * 3},
        {"data": [[10**400, 1]] * 3},
        {"parameters": 5},
        {"parameters": {"binary_data_size": 8}},
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(gateway: ThreadGateway, changes):
    with gateway.client() as api:
        answer = api.post(INFER, json=_body(**changes))
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize(
    ("content", "header"),
    [
        (b"", None),
        (b"[]", None),
        (b"{", None),
        (b'{"inputs": []}', None),
        (b'{"inputs": {}}', None),
        (b"{}", "9"),
        (b"{}", "-1"),
        (b"{}", "many"),
        (b'{"inputs":[{"name":"input","shape":[1,1],"datatype":"FP64"}]}', None),
        (b'{"inputs":[{"name":"input","shape":[1,2],"data":[NaN,1]}]}', None),
    ],
)
def test_what_is_no_request_is_refused(gateway: ThreadGateway, content, header):
    headers = {"Inference-Header-Content-Length": header} if header else {}
    with gateway.client() as api:
        answer = api.post(INFER, content=content, headers=headers)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}


def test_errors_have_the_protocols_form(
    gateway: ThreadGateway, client, headers, triton
):
    with gateway.client() as api, gateway.client("") as nobody:
        cases = [
            (nobody.post(INFER, json=_body()), 401, "unauthenticated"),
            (api.get("/v2/models/none"), 404, "unknown-model"),
            (api.get("/v2/models/demo/versions/9"), 404, "unknown-model"),
            (api.post("/v2/models/none/infer", json=_body()), 404, "unknown-model"),
            (api.post(INFER, content=b"x" * 70_000), 413, ""),
            (api.post(INFER, json={**_body(), "outputs": [{"name": "x"}]}), 400, ""),
            (api.post(INFER, json=_body(data=[[-1.0, 0.0]] * 3)), 400, "out-of-range"),
        ]
    reader = gateway.new_key("models:read")
    with gateway.client(reader) as api:
        cases.append((api.post(INFER, json=_body()), 403, "missing-scope"))
    for answer, status, code in cases:
        assert answer.status_code == status, answer.text
        assert set(answer.json()) == {"error"}
        assert code in answer.json()["error"]
    assert cases[0][0].headers["www-authenticate"].startswith("Bearer")
    tensor = triton.InferInput("input", [1, 2], "FP64")
    tensor.set_data_from_numpy(np.array([[-1.0, 0.0]]))
    with pytest.raises(triton.InferenceServerException, match="out-of-range"):
        client.infer("demo", [tensor], headers=headers)


def test_jobs_of_this_route_belong_to_the_callers_tenant(gateway: ThreadGateway):
    stranger = gateway.new_key("jobs:read", tenant="other")
    with gateway.client() as api, gateway.client(stranger) as other:
        said = api.post(INFER, json=_body()).json()["parameters"]
        assert api.get(f"/v1/jobs/{said['job_id']}").is_success
        assert other.get(f"/v1/jobs/{said['job_id']}").status_code == 404


def test_unless_the_operator_enables_it_nothing_is_served(
    gateway: ThreadGateway, monkeypatch
):
    monkeypatch.setattr(
        gateway.app.state.gateway,
        "settings",
        gateway.settings.model_copy(update={"oip": False}),
    )
    api: Api
    with gateway.client() as api:
        for path in ("/v2", "/v2/health/ready", "/v2/models/demo"):
            assert api.get(path).status_code == 404
        assert "oip-off" in api.post(INFER, json=_body()).json()["error"]
