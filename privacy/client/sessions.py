"""Which session does what the data owner must, before a job of a mode and after it."""

from collections.abc import Callable

from privacy.bundle import Bundle
from privacy.client.context import Context, Session
from privacy.client.fhe_session import FheSession
from privacy.client.tee_session import TeeModeSession, TeeZkmlSession
from privacy.client.wire import Flow
from privacy.client.zkml_session import ZkmlSession
from privacy.modes import Mode


def session_for(mode: Mode, context: Context, bundle: Bundle) -> Session:
    """Return a new session of a mode for one job."""
    kinds: dict[Mode, Callable[[Context, Bundle], Session]] = {
        Mode.FHE: FheSession,
        Mode.ZKML: ZkmlSession,
        Mode.TEE: TeeModeSession,
        Mode.TEE_ZKML: TeeZkmlSession,
    }
    return kinds[mode](context, bundle)


def attest_only(context: Context, bundle: Bundle) -> Flow[None]:
    """Attest a model's enclave and seal nothing; `context.tell` hears the steps.

    Raises:
        VerificationError: The evidence is not acceptable.
    """
    yield from TeeModeSession(context, bundle).attest()
