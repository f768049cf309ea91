"""Recorded calls of the public functions of compositional: see ``tests.recorded``."""

from tests.recorded import examples

globals().update(examples("compositional"))
