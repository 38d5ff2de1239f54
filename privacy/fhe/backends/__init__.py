"""FHE engines, one file each; loaded by `privacy.fhe.backend.load_backend`."""
