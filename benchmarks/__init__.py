"""Timed comparisons with named peers: ``python -m benchmarks [ROW ...]``."""
