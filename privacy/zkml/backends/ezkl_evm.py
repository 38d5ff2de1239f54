"""Solidity verifiers and verifying-key artifacts, as EZKL 23 writes them.

EZKL writes the whole Solidity file and then wants a compiler, to describe the file's
interface; it would download one. We compile ourselves, so that last step may fail, and
only that one. It runs without a way to the network: see `privacy.zkml.evm.build`.
"""

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ezkl

from privacy.errors import BackendError
from privacy.zkml.system import CircuitFiles

_COMPILER_MISSING = ("svm error", "solc")


def write_verifier(files: CircuitFiles, out: Path, *, reusable: bool) -> None:
    """Write a verifier contract; the reusable one is the same for every circuit.

    Raises:
        BackendError: EZKL failed, or left the file incomplete.
    """
    failure = _run(
        ezkl.create_evm_verifier,
        str(files.verifying_key),
        str(files.settings),
        str(out),
        str(out.with_suffix(".abi")),
        str(files.verifier_srs),
        reusable=reusable,
    )
    if failure and not any(word in failure for word in _COMPILER_MISSING):
        raise BackendError(f"EZKL could not write the verifier: {failure[:300]}")
    text = out.read_text() if out.is_file() else ""
    whole = text.rstrip().endswith("}") and text.count("{") == text.count("}") > 0
    if not whole or "function verifyProof(" not in text:
        msg = "EZKL left the verifier's source incomplete: publish the model again"
        raise BackendError(msg, code="verifier-incomplete")


def write_vka(files: CircuitFiles, out: Path) -> None:
    """Write the verifying-key artifact that the reusable verifier is given.

    Raises:
        BackendError: EZKL failed.
    """
    failure = _run(
        ezkl.create_evm_vka,
        str(files.verifying_key),
        str(files.settings),
        str(out),
        str(files.verifier_srs),
    )
    if failure or not out.is_file():
        msg = f"EZKL could not write the verifying-key artifact: {failure[:300]}"
        raise BackendError(msg)


def _run(function: Callable[..., Any], *args: str, **options: object) -> str:
    """Return what an EZKL function complained of, or "" if it did not."""

    async def go() -> None:
        result = function(*args, **options)
        if inspect.isawaitable(result):
            await result

    try:
        asyncio.run(go())
    except Exception as exc:  # noqa: BLE001 - EZKL raises nothing more specific
        return str(exc) or type(exc).__name__
    except BaseException as exc:
        if type(exc).__name__ != "PanicException":
            raise
        return f"a panic: {str(exc)[:200]}"
    return ""
