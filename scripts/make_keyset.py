"""Make a key set that ships: `python scripts/make_keyset.py trees-1 > …/trees-1.json`.

Compiles a reference circuit of what tree ensembles need (look-ups of four bits, summed
into six or eight) and prints the parameters that Concrete's optimizer finds cheapest
for it, the same on every machine. The test of the shipped files runs this again.
"""

import json
import sys
from typing import Any

import numpy as np
from concrete import fhe  # noqa: TID253 - it compiles

from privacy.encoding import Json
from privacy.fhe.keysets import FORMAT, TREES
from privacy.fhe.options import DEFAULT_P_ERROR, FAST_P_ERROR

TABLE_BITS = 4
SUM_BITS = dict(zip(TREES, (6, 8, 6), strict=True))
P_ERROR = dict(
    zip(TREES, (DEFAULT_P_ERROR, DEFAULT_P_ERROR, FAST_P_ERROR), strict=True)
)
LOOK_UPS, TERMS = 64, 4


def make(name: str) -> Json:
    """Return the content of a key set's file."""
    position = np.arange(LOOK_UPS * TERMS).reshape(LOOK_UPS, TERMS)
    tables = fhe.LookupTable(
        [fhe.LookupTable([i % 2] * (1 << TABLE_BITS)) for i in range(LOOK_UPS)]
    )

    def run(x: Any) -> Any:
        index = fhe.hint(np.sum(x[position], axis=1), bit_width=TABLE_BITS)
        return fhe.hint(np.sum(tables[index]), bit_width=SUM_BITS[name])

    configuration = fhe.Configuration(
        p_error=P_ERROR[name],
        compress_evaluation_keys=True,
        compress_input_ciphertexts=True,
        dump_artifacts_on_unexpected_failures=False,
    )
    compiler = fhe.Compiler(run, {"x": "encrypted"})
    circuit = compiler.compile([np.zeros(LOOK_UPS * TERMS, int)], configuration)
    program = json.loads(circuit.client.specs.serialize())
    return {
        "format": FORMAT,
        "name": name,
        "p_error": P_ERROR[name],
        "keyset": program["keyset"],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(make(sys.argv[1]), indent=1, sort_keys=True) + "\n")
