"""What runs in an enclave of mode tee+zkml, for whoever measures one."""

from privacy.modes import Mode
from privacy.tee.measure import PACKAGES, TEE, Program
from privacy.tee_zkml.sandbox import POLICY

PROGRAM = Program(
    entry="privacy.tee_zkml.enclave",
    others=("privacy.tee_zkml.prover", "privacy.zkml.backends.ezkl"),
    packages=(*PACKAGES, ("ezkl",)),
    policy=POLICY,
)

PROGRAMS = {Mode.TEE: TEE, Mode.TEE_ZKML: PROGRAM}
"""What runs in the enclaves of each mode that has them."""
