"""Key sets that ship with the project, so that one key serves many models.

A data owner's keys depend on a circuit's parameters only: dimensions, noise, levels.
Circuits of any publisher that are compiled in a shipped key set take the same keys. A
file here holds those parameters as Concrete states them; its name is its version, and
it never changes once released. `scripts/make_keyset.py` makes it.
"""

from dataclasses import dataclass
from importlib.resources import files

from privacy.encoding import Json, canonical_json, parse_object, sha256_hex
from privacy.errors import FormatError

FORMAT = "privacy-compute/fhe-keyset/1"
TREES = ("trees-1", "trees-2", "trees-fast-1")
"""For tree ensembles at an error of 2**-40 a look-up: keys of 25 MB; and of 50 MB, each
look-up half as dear again, for sums of many bits. The last is for `--fast`."""
OWN = "own"
"""Said of a circuit whose keys none of these are."""


@dataclass(frozen=True, slots=True)
class KeysetSpec:
    """A shipped key set.

    Attributes:
        p_error: The chance of error its circuits are compiled for.
        keyset: Concrete's description of the keys.
    """

    name: str
    p_error: float
    keyset: Json

    @property
    def sha256(self) -> str:
        """The identity of keys of this set, see `keyset_sha256`."""
        return keyset_sha256("concrete", self.keyset)


def shipped(name: str) -> KeysetSpec:
    """Return a key set that ships with the project.

    Raises:
        FormatError: The file is not a key set of that name.
    """
    raw = (files(__name__) / f"{name}.json").read_bytes()
    value = parse_object(raw, what=f"the key set {name}")
    if value.pop("format", None) != FORMAT or value.get("name") != name:
        msg = f"the key set {name} is damaged: install the package again"
        raise FormatError(msg, code="fhe-keyset-damaged")
    return KeysetSpec(**value)


def name_of(keyset: Json) -> str:
    """Return the name of the shipped key set that a circuit takes, or `own`.

    Args:
        keyset: The engine's description of the circuit's keys.
    """
    return next((name for name in TREES if shipped(name).keyset == keyset), OWN)


def keyset_sha256(backend: str, keyset: Json) -> str:
    """Return the digest of all that keys depend on; equal digests share keys.

    Args:
        backend: The engine's name.
        keyset: Its description of the keys, a program's member `keyset`.

    Raises:
        FormatError: The description is not plain JSON.
    """
    return sha256_hex(canonical_json({"backend": backend, "keyset": keyset}))
