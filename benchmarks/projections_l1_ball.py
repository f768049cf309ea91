"""The projection onto an l1 ball: our weighted one at equal weights, optax's, jaxopt's."""

import optax

from benchmarks._timing import Row, peer
from benchmarks.projections_simplex import row
from jaxopt_robust import projections as ours

RADIUS = 10.0


def build(size: str) -> Row:
  """A long normal vector onto a ball of radius 10."""
  methods = {
    "jaxopt_robust: weighted, equal weights": lambda x: ours.projection_weighted_l1_ball(
      x, (1.0, RADIUS)
    ),
    "optax": lambda x: optax.projections.projection_l1_ball(x, RADIUS),
  }
  if jaxopt := peer("jaxopt"):
    methods["jaxopt"] = lambda x: jaxopt.projection.projection_l1_ball(x, RADIUS)
  return row(
    "l1_ball", size, methods, methods["optax"],
    note="Ours serves unequal weights as well; the peers have none.",
  )  # fmt: skip
