"""Contracts that ask models: what they are, and how to talk to them on a chain."""
