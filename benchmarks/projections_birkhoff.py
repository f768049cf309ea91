"""The projection onto the doubly stochastic matrices, against jaxopt at one accuracy."""

from benchmarks import projections_transport
from benchmarks._timing import Row


def build(size: str) -> Row:
  """Normal similarities; rows and columns add up to 1."""
  return projections_transport.build(size, name="birkhoff", total=8 if size == "toy" else 100)
