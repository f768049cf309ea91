"""Recorded calls of functions of solvers, recovery and linalg: see ``tests.recorded``."""

from tests.recorded import examples

globals().update(examples("solvers", "recovery", "linalg"))
