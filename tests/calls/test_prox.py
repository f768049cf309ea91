"""Recorded calls of the public functions of prox and projections: see ``tests.recorded``."""

from tests.recorded import examples

globals().update(examples("prox", "projections"))
