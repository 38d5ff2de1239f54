"""Where the passphrase of the key store comes from."""

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from privacy.client.keyring import get_secret, put_secret
from privacy.encoding import b64url
from privacy.errors import AuthError, FormatError

VARIABLE = "PRIVACY_PASSPHRASE"
_MAX_FILE_BYTES = 4096
Given = str | Callable[[bool], str] | None


@dataclass(slots=True)
class Unlock:
    """Gives the passphrase, once found the same for as long as it lives.

    In this order: a given text, `$PRIVACY_PASSPHRASE`, the system's keyring, a given
    function.

    Attributes:
        given: The passphrase, or a function that asks for it; it is told whether a new
            one is chosen.
        keyring_name: The keyring's entry; "" to leave the keyring alone.
        allow_plaintext: Without a passphrase, keep keys unprotected.
    """

    given: Given = field(default=None, repr=False)
    keyring_name: str = ""
    allow_plaintext: bool = False
    _found: str | None = field(default=None, repr=False)

    def passphrase(self) -> str:
        """Return the passphrase of keys that are there.

        Raises:
            AuthError: There is none.
        """
        if (found := self._find(is_new=False)) is None:
            msg = f"your FHE keys are protected by a passphrase: {_HOW}"
            raise AuthError(msg, code="passphrase-missing")
        return found

    def new_passphrase(self, *, is_first: bool) -> str | None:
        """Return the passphrase for keys to be kept; None for unprotected ones.

        Args:
            is_first: No key is protected yet, so that one may be chosen freely.

        Raises:
            AuthError: There is none, and unprotected keys were not allowed.
        """
        found = self._find(is_new=is_first)
        if found is None and not self.allow_plaintext:
            msg = (
                f"FHE keys are kept under a passphrase: {_HOW}; or allow keys that "
                "whoever reads your disk can use (`--allow-plaintext-keys`)"
            )
            raise AuthError(msg, code="passphrase-missing")
        return found

    def forget(self) -> None:
        """Ask again the next time, as after a wrong passphrase."""
        self._found = None

    def _find(self, *, is_new: bool) -> str | None:
        if self._found is None:
            given, text = self.given, os.environ.get(VARIABLE)
            if isinstance(given, str):
                self._found = given
            elif text:
                self._found = text
            elif self.keyring_name:
                self._found = self._from_keyring(is_new=is_new)
            elif given is not None:
                self._found = given(is_new)
        return self._found

    def _from_keyring(self, *, is_new: bool) -> str | None:
        found = get_secret(self.keyring_name)
        if found is None and is_new:
            found = b64url(secrets.token_bytes(32))
            put_secret(self.keyring_name, found)
        return found


_HOW = (
    f"set {VARIABLE}, give a --passphrase-file (in Python `passphrase=`), use the "
    "system's keyring (`privacy login --keyring`), or run this on a terminal"
)


def read_passphrase(path: Path) -> str:
    """Return the first line of a file.

    Raises:
        FormatError: No such file, or it is empty, too long or not UTF-8.
    """
    if not path.is_file():
        raise FormatError(f"there is no file {path}", code="no-such-file")
    with path.open("rb") as file:
        line = file.readline(_MAX_FILE_BYTES + 1).rstrip(b"\r\n")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise FormatError(f"{path} does not begin with UTF-8 text") from None
    if not text or len(line) > _MAX_FILE_BYTES:
        raise FormatError(f"{path} does not begin with a passphrase", code="usage")
    return text
