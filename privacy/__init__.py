"""Run one model blind (FHE), with a proof (ZK) or in an attested enclave (TEE)."""

__version__ = "0.1.0"
