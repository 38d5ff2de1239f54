"""The mode tee+zkml: a prover inside the enclave, above both technologies.

The input is sealed to the enclave as in mode tee. The enclave answers with the model's
own outputs and with proofs as in mode zkml, all sealed to the data owner, and signs a
statement with the digest of the proofs. The proofs hold even if the enclave is broken;
the enclave hides the input from who proves.

    circuit     the circuit's files, held in memory and unchangeable
    prover      the process that proves, one child for each job
    proving     the enclave's side of it
    enclave     the enclave's entry
    publish     what the manifest says of the mode
    client      what the data owner checks
"""
