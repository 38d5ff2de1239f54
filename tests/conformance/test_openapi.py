"""What the gateway says in its OpenAPI document, held to by generated requests.

Schemathesis makes them: none may end in a 5xx, nothing that breaks the document may be
accepted, and no answer may be one that the document does not know. Not asked for: that
all that fits the document is accepted, since a digest, say, is right or wrong whatever
its form. The caller is a token, for an API key would be rotated or revoked on the way.
"""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hand_made_bundle import write_bundle
from tests.support.issuer import AUDIENCE, ISSUER, LocalIssuer
from tests.support.live_gateway import ThreadGateway

UNLIMITED = {
    f"{name}_per_minute": 0 for name in ("submits", "uploads", "reads", "strangers")
}


@pytest.fixture(scope="module")
def issuer() -> LocalIssuer:
    return LocalIssuer()


@pytest.fixture(scope="module")
def served(
    issuer: LocalIssuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ThreadGateway]:
    folder: Path = tmp_path_factory.mktemp("openapi")
    write_bundle(folder / "models")
    write_bundle(folder / "models", name="keyless", needs_keys=False)
    entry = {
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "jwks": str(issuer.write(folder / "keys.json")),
        "allow_operators": True,
    }
    settings = {"oidc_issuers": [entry], "oip": True, "max_upload_bytes": 1 << 20}
    with ThreadGateway.fake(folder, **settings, **UNLIMITED) as gateway:
        yield gateway


def generated(
    served: ThreadGateway, issuer: LocalIssuer, folder: Path, *options: str
) -> int:
    """Return how many requests were made and judged; fail if one was not as said."""
    with served.client("") as api:
        spec = api.get("/openapi.json").raise_for_status().content
    (folder / "openapi.json").write_bytes(spec)
    token = issuer.token(scope="admin", exp=int(time.time()) + 86400)
    run = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            "openapi.json",
            f"--url={served.base_url}",
            "--request-timeout=120",
            f"--header=Authorization: Bearer {token}",
            "--exclude-checks=positive_data_acceptance",
            "--continue-on-failure",
            "--generation-deterministic",
            "--no-color",
            *options,
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    found = re.search(r"(\d+) generated", run.stdout)
    assert found, run.stdout[-2000:]
    return int(found[1])


def test_a_few_generated_requests_to_every_route_are_answered_as_documented(
    served: ThreadGateway, issuer: LocalIssuer, tmp_path: Path
):
    few = ("--phases=fuzzing", "--max-examples=2")
    assert generated(served, issuer, tmp_path, *few) > 100


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_generated_requests_are_answered_as_documented(
    served: ThreadGateway, issuer: LocalIssuer, tmp_path: Path
):
    many = ("--phases=coverage,fuzzing", "--max-examples=200", "--workers=2")
    assert generated(served, issuer, tmp_path, *many) >= 10_000
