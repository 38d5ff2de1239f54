"""What runs in an enclave of mode tee+zkml, for whoever measures one."""

from privacy.tee.measure import PACKAGES, Program
from privacy.tee_zkml.sandbox import POLICY

PROGRAM = Program(
    entry="privacy.tee_zkml.enclave",
    others=("privacy.tee_zkml.prover", "privacy.zkml.backends.ezkl"),
    packages=(*PACKAGES, ("ezkl",)),
    policy=POLICY,
)
