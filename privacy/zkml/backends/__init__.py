"""Engines behind `privacy.zkml.system.ProofSystem`, one file each."""
