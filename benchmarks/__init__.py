"""Measurements: `make bench`, or `python -m benchmarks`. Never run by the tests."""
