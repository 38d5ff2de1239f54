"""Privacy Compute: run one model blind (FHE), with a proof (ZK) or in an enclave (TEE)."""

__version__ = "0.1.0"
