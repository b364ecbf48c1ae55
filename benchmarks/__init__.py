"""Measures the product beside its references: `python -m benchmarks NAME`."""
