"""What every test may use."""

import atexit
import os
import signal
import sys
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("any machine", deadline=None)  # pytest has one
hypothesis.settings.load_profile("any machine")

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_unconfigure() -> None:
    """Keep the status of the run: `concrete.compiler` would make it 0 at exit."""
    if compiler := sys.modules.get("concrete.compiler"):
        atexit.unregister(compiler._terminate_df_parallelization)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `-n`: what shares a fixture that is dear is run by one process."""
    from tests.support.scheduling import Together

    return Together(config, log)


@pytest.fixture(scope="session", autouse=True)
def home_of_this_run(tmp_path_factory):
    """A home of its own: no test touches that of whoever runs it."""
    home = tmp_path_factory.mktemp("privacy-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIVACY_HOME", str(home))
        yield home


@pytest.fixture(scope="session", autouse=True)
def _passphrase():
    """Of the FHE keys that any test or its child processes make."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIVACY_PASSPHRASE", "passphrase of the tests")
        yield


@pytest.fixture(autouse=True)
def _broken_pipes_are_ignored():
    """As Python starts; Concrete-ML, run here, brings a handler that aborts."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


@pytest.fixture
def repository_on_path():
    """Environment for child processes that import `tests.support`."""
    path = os.pathsep.join(
        filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])
    )
    return {"PYTHONPATH": path}


@pytest.fixture(scope="session")
def vectors():
    """Real evidence, collected from public repositories; never copied here."""
    default = REPOSITORY.parent / "shared" / "vectors"
    folder = Path(os.environ.get("PRIVACY_VECTORS", default))
    if not folder.is_dir():
        pytest.skip(f"no real evidence in {folder}: set PRIVACY_VECTORS")
    return folder
