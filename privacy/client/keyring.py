"""The operating system's keyring, through the optional package `keyring`."""

from typing import Any

from privacy.errors import UnavailableError

_SERVICE = "privacy-compute"


def get_secret(name: str) -> str | None:
    """Return a secret of ours, None if there is none.

    Raises:
        UnavailableError: No keyring is installed, or it does not answer.
    """
    found: str | None = _call("get_password", name)
    return found


def put_secret(name: str, secret: str) -> None:
    """Keep a secret.

    Raises:
        UnavailableError: No keyring is installed, or it does not answer.
    """
    _call("set_password", name, secret)


def _call(function: str, *arguments: str) -> Any:
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError as exc:
        msg = (
            "the package `keyring` is not installed: "
            "pip install 'privacy-compute[keyring]'"
        )
        raise UnavailableError(msg, code="keyring-missing") from exc
    try:
        return getattr(keyring, function)(_SERVICE, *arguments)
    except (KeyringError, RuntimeError, OSError) as exc:
        msg = (
            f"the system's keyring does not answer ({type(exc).__name__}): unlock it, "
            "or use a passphrase"
        )
        raise UnavailableError(msg, code="keyring-unavailable") from exc
