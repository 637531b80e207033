"""Benchmarks of jaxirls against what its users would otherwise run; see ``python -m benchmarks --help``."""
