"""Answers with a proof: anyone can check that this model gave this output.

A client makes an input, and later checks the proofs that came back for it:

    from privacy.zkml import make_input, verify_proofs

    blob = make_input(rows, salt=os.urandom(32))
    ...
    outputs = verify_proofs(bundle, evidence, rows=rows)

`Verifier` does the same and keeps the engine loaded between calls.

Nothing here imports the engine; it loads in child processes (`privacy.child`).
"""

from privacy.zkml.blobs import make_input, parse_evidence, parse_outputs
from privacy.zkml.params import ZkmlParams, parse_params
from privacy.zkml.verify import Verifier, verify_proofs

__all__ = [
    "Verifier",
    "ZkmlParams",
    "make_input",
    "parse_evidence",
    "parse_outputs",
    "parse_params",
    "verify_proofs",
]
