"""The bits that a circuit reads, picked from all that the client sent.

So that clients do not learn a model's splits they send every bit, many more than the
trees ask for, and the engine would unpack each at about a tenth of a millisecond. Every
bit is an encryption of its own, so the node hands the engine those that it needs: it
takes their words out of the client's message and puts them into the smaller message
that the circuit takes, whose structure is known from a template.

    picks.json    the node's; clients do not get it, it names the splits
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from privacy.encoding import canonical_json, parse_canonical
from privacy.errors import BackendError, FormatError
from privacy.fhe.template import Template, parse_template

FORMAT = "privacy-compute/fhe-picks/1"
PICKS = "picks.json"


@dataclass(frozen=True, slots=True)
class Picks:
    """Which bits a program's circuits read.

    Attributes:
        bits: How many the client sends for a row.
        used: The places of those that are read, ascending.
        inner: By the circuit's name, the template of the message that it takes.
    """

    bits: int
    used: tuple[int, ...]
    inner: Mapping[str, Template]

    def pick(
        self, ciphertext: bytes, *, function: str, rows: int, template: Template
    ) -> bytes:
        """Return the message for the engine from a client's.

        Args:
            ciphertext: What matched the template.
            function: The circuit's name.
            rows: How many rows it takes.
            template: That of the client's messages for it.

        Raises:
            BackendError: The two messages do not hold the same words for each bit.
        """
        inner, outer = self.inner[function], template.free
        each, rest = divmod(len(outer), rows * self.bits)
        if rest or len(inner.free) != each * rows * len(self.used):
            msg = "the circuit's ciphertexts do not hold as many words for every bit"
            raise BackendError(msg, code="fhe-no-picks")
        given = np.frombuffer(ciphertext, dtype="<u8")[outer]
        taken = given.reshape(rows, self.bits, each)[:, list(self.used)]
        return inner.filled(taken.ravel())

    def to_bytes(self) -> bytes:
        """Return the content of picks.json."""
        return canonical_json(
            {
                "format": FORMAT,
                "bits": self.bits,
                "used": list(self.used),
                "inner": {name: t.to_json() for name, t in self.inner.items()},
            }
        )


def parse_picks(raw: bytes) -> Picks:
    """Return the picks in a picks.json.

    Raises:
        FormatError: Not such a file.
    """
    value = parse_canonical(raw, what=PICKS)
    if value.pop("format", None) != FORMAT:
        msg = f"{PICKS} is not of format {FORMAT}: publish the model again"
        raise FormatError(msg, code="fhe-picks-malformed")
    inner = {n: parse_template(t, what=PICKS) for n, t in value["inner"].items()}
    return Picks(value["bits"], tuple(value["used"]), inner)
