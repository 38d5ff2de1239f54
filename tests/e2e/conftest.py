"""Real engines, compiled once for the whole run; a real gateway process."""

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.bundle import Bundle
from privacy.client import Client
from privacy.publish import publish
from privacy.publish.data import hold_back
from tests.support.live_gateway import ProcessGateway

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@dataclass(frozen=True)
class Published:
    """A model as it was trained, and as it was published."""

    bundle: Bundle
    model: Any
    rows: np.ndarray  # raw, held back from calibration

    @property
    def name(self) -> str:
        return self.bundle.manifest.name


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def published(models_dir):
    """Publish an example by name, once a session."""
    return functools.cache(lambda name: _publish(name, models_dir))


def _publish(name: str, store: Path) -> Published:
    file = {
        "breast-cancer": "train_breast_cancer",
        "credit": "train_credit",
        "wine": "train_wine_net",
    }[name]
    spec = importlib.util.spec_from_file_location(file, EXAMPLES / f"{file}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model, table, _ = module.train()
    is_net = name == "wine"
    bundle = publish(
        model,
        table.to_numpy(),
        name=name,
        store=store,
        columns=list(table.columns),
        classes=module.CLASSES,
        task="classification" if is_net else "",
        activation="softmax" if is_net else "",
    )
    _, held = hold_back(table.to_numpy())
    return Published(bundle, model, table.to_numpy()[held])


@pytest.fixture(scope="session")
def diagnosis(published):
    """Logistic regression: the quickest in every mode."""
    return published("breast-cancer")


@pytest.fixture(scope="session")
def gateway(tmp_path_factory, models_dir, diagnosis):
    """A gateway process with every real engine, shared by the tests."""
    with ProcessGateway(tmp_path_factory.mktemp("gw"), models_dir, oip=True) as running:
        yield running


@pytest.fixture(scope="session")
def owner(gateway, tmp_path_factory):
    """A data owner whose folder is kept for the run."""
    with Client(
        gateway.base_url,
        api_key=gateway.new_key("models:read", "jobs:read", "jobs:write"),
        home=tmp_path_factory.mktemp("home"),
        allow_simulated=True,
        allow_insecure_srs=True,
    ) as client:
        yield client
