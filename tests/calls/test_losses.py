"""Recorded calls of the public functions of losses: see ``tests.recorded``."""

from tests.recorded import examples

globals().update(examples("losses"))
