"""`python -m gateway`: serve with settings from the environment."""

import sys

from gateway.app import run
from gateway.settings import load_settings
from privacy.errors import PrivacyError


def _announce(first_key: str | None) -> None:
    if first_key:
        sys.stdout.write(f"admin key, shown once: {first_key}\n")
        sys.stdout.flush()


def main() -> int:
    """Serve until stopped; return the exit code."""
    try:
        run(load_settings(), announce=_announce)
    except PrivacyError as exc:
        sys.stderr.write(f"{exc.message}\n")
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
