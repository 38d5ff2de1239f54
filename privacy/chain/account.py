"""The account that pays: its key lies encrypted in a keystore file (version 3)."""

import json
import sys
from pathlib import Path
from typing import Any

from privacy.encoding import Json
from privacy.errors import AuthError, ConflictError, FormatError
from privacy.files import write_atomic
from privacy.zkml.evm.calldata import chain_missing


class Signer:
    """Signs transactions; the key is never shown."""

    def __init__(self, account: Any) -> None:
        """Keep an account of eth-account."""
        self._account = account
        self.address: str = account.address

    def sign(self, transaction: Json) -> tuple[str, str]:
        """Return a transaction as it is sent, in hex, and its hash."""
        signed = self._account.sign_transaction(transaction)
        return "0x" + bytes(signed.raw_transaction).hex(), "0x" + bytes(
            signed.hash
        ).hex()


def create_keystore(path: Path, password: str, *, key: bytes | None = None) -> str:
    """Write a keystore file of a new key, or of one given, and return its address.

    Raises:
        ConflictError: The file exists; a key is never overwritten.
        FormatError: The password is empty, or the key is none.
    """
    account_type = eth_account()
    if path.exists():
        msg = f"{path} exists: choose another name, a key is never overwritten"
        raise ConflictError(msg, code="keystore-exists")
    if not password:
        raise FormatError("the keystore's password is empty: choose one")
    try:
        made = account_type.create() if key is None else account_type.from_key(key)
    except ValueError:
        raise FormatError("the private key is not 32 bytes in its range") from None
    encrypted = account_type.encrypt(made.key, password)
    write_atomic(path, json.dumps(encrypted).encode(), private=True)
    return str(made.address)


def open_keystore(path: Path, password: str) -> Signer:
    """Return the signer of a keystore file.

    Raises:
        FormatError: There is no such file, or it is none.
        AuthError: The password is wrong.
    """
    account_type = eth_account()
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as exc:
        msg = f"{path} is no keystore file: make one with `privacy chain account`"
        raise FormatError(msg, code="no-keystore") from exc
    try:
        key = account_type.decrypt(content, password)
    except (ValueError, KeyError, TypeError) as exc:
        if "MAC" in str(exc):
            raise AuthError("the keystore's password is wrong") from None
        raise FormatError(f"{path} is no keystore file of version 3") from None
    return Signer(account_type.from_key(key))


def eth_account() -> Any:
    """Return eth-account's `Account`, the recursion limit left as it was.

    One of its dependencies (py_ecc) raises the limit of the whole process so far that
    deeply nested input crashes it instead of raising `RecursionError`.

    Raises:
        UnavailableError: eth-account is not installed.
    """
    limit = sys.getrecursionlimit()
    try:
        from eth_account import Account
    except ImportError as exc:
        raise chain_missing() from exc
    finally:
        sys.setrecursionlimit(limit)
    return Account
