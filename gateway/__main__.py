"""`python -m gateway`: serve with settings from the environment."""

import sys

from gateway.app import bootstrap_admin_key, run
from gateway.settings import Settings
from privacy.errors import PrivacyError


def main() -> int:
    """Serve until stopped; return the exit code."""
    settings = Settings()
    try:
        admin_key = bootstrap_admin_key(settings)
        if admin_key:
            sys.stdout.write(f"admin key, shown once: {admin_key}\n")
            sys.stdout.flush()
        run(settings)
    except PrivacyError as exc:
        sys.stderr.write(f"{exc.message}\n")
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
