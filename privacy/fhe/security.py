"""Is a circuit's encryption strong? The data owner checks; the node chose it.

A circuit's parameters come from whoever compiled it, who may be the very node that must
not read the input. Too small a key or too little noise, and it could. So the client
holds each encryption to Concrete's own curve of 128-bit security for binary keys over
a 64-bit modulus, `log2(std) >= slope * dimension + bias`, before it makes keys.

Source: the curve of Concrete's optimizer, from the lattice estimator.
"""

import math
from typing import Any

from privacy.encoding import Json
from privacy.errors import FormatError

_SLOPE, _BIAS = -0.025696778711484593, 2.675931372549016
_MINIMUM_DIMENSION = 450
_MINIMUM_LOG2_STD = -62.0
"""With a 64-bit modulus no less noise can be expressed."""
_TOLERANCE = 1e-3
_NATIVE: Json = {"modulus": {"native": {}}}


def check_parameters(program: Json) -> None:
    """Compare every encryption a circuit asks for with the 128-bit curve.

    Args:
        program: Concrete's description of the circuit: the key set and the circuits.

    Raises:
        FormatError: Weaker than 128 bits, inconsistent, or of an unknown kind.
    """
    try:
        dimensions = _dimensions(program["keyset"]["lweSecretKeys"])
        for used, found in _inputs(program["keyset"]):
            _check_dimension(dimensions[used], found)
        for used, found, variance in _encryptions(program):
            _check_one(dimensions[used], found, variance)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise _weak(f"its parameters cannot be read ({type(exc).__name__})") from exc


def _dimensions(secret_keys: list[Json]) -> dict[int, Any]:
    """Return the secret keys' dimensions by id; the engine takes ids for positions."""
    ids = [key["id"] for key in secret_keys]
    if ids != list(range(len(ids))):
        raise _weak("its secret keys are not numbered in order")
    return {i: _binary(k["params"])["lweDimension"] for i, k in enumerate(secret_keys)}


def _inputs(keyset: Json) -> list[tuple[Any, Any]]:
    """Return (secret key id, dimension stated) of what evaluation keys are used on."""
    kinds = ("lweBootstrapKeys", "lweKeyswitchKeys", "packingKeyswitchKeys")
    keys = [key for kind in kinds for key in keyset[kind]]
    return [(key["inputId"], key["params"]["inputLweDimension"]) for key in keys]


def _encryptions(program: Json) -> list[tuple[Any, Any, Any]]:
    """Return (secret key id, dimension stated, variance) of all that is encrypted."""
    keyset, found = program["keyset"], []
    for key in keyset["lweBootstrapKeys"]:
        p = _binary(key["params"])
        found.append(
            (key["outputId"], p["glweDimension"] * p["polynomialSize"], p["variance"])
        )
    for key in keyset["lweKeyswitchKeys"]:
        p = _binary(key["params"])
        found.append((key["outputId"], p["outputLweDimension"], p["variance"]))
    for key in keyset["packingKeyswitchKeys"]:
        p = _binary(key["params"])
        found.append(
            (key["outputId"], p["glweDimension"] * p["polynomialSize"], p["variance"])
        )
    for gate in (g for c in program["circuits"] for g in c["inputs"]):
        e = gate["typeInfo"]["lweCiphertext"]["encryption"]
        if e["modulus"] != _NATIVE:
            raise _weak("its input's modulus is not 2**64")
        found.append((e["keyId"], e["lweDimension"], e["variance"]))
    return found


def _binary(params: Json) -> Json:
    if params["keyType"] != "binary" or params["integerPrecision"] != 64:  # noqa: PLR2004
        raise _weak("its secret keys are not binary over 64 bits")
    if params.get("modulus", _NATIVE) != _NATIVE:
        raise _weak("a key's modulus is not 2**64")
    return params


def _check_dimension(dimension: Any, stated: Any) -> None:
    if dimension != stated:
        raise _weak(f"a key has dimension {dimension}, its use says {stated}")


def _check_one(dimension: Any, stated: Any, variance: Any) -> None:
    _check_dimension(dimension, stated)
    if dimension < _MINIMUM_DIMENSION or not 0 < variance < 1:
        raise _weak(f"dimension {dimension} with variance {variance:.2g}")
    needed = max(_SLOPE * dimension + _BIAS, _MINIMUM_LOG2_STD)
    if math.log2(variance) / 2 < needed - _TOLERANCE:
        raise _weak(
            f"dimension {dimension} has noise 2**{math.log2(variance) / 2:.2f}, "
            f"at least 2**{needed:.2f} is needed"
        )


def _weak(found: str) -> FormatError:
    msg = (
        f"the circuit is not known to give 128 bits of security: {found}; do not "
        "encrypt for it, and ask the publisher to compile it again"
    )
    return FormatError(msg, code="fhe-weak-parameters")
