"""The projection onto a simplex: optax's, which this package re-uses, box section, jaxopt's."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks._timing import Row, compiled, copy_seconds, peer
from jaxopt_robust import projections as ours

BOUND = 1e-5


def build(size: str) -> Row:
  """A long normal vector onto the probability simplex."""
  methods = {
    "jaxopt_robust: box section": lambda x: ours.projection_box_section(
      x, (0.0, jnp.inf, 1.0, 1.0)
    ),
    "jaxopt_robust: uses optax": optax.projections.projection_simplex,
    "optax": optax.projections.projection_simplex,
  }
  if jaxopt := peer("jaxopt"):
    methods["jaxopt"] = jaxopt.projection.projection_simplex
  return row("simplex", size, methods, optax.projections.projection_simplex)


def row(name: str, size: str, methods: dict[str, Callable], exact: Callable, note: str = "") -> Row:
  """A row of methods on one normal vector; ``exact`` runs in float64."""
  length = 1000 if size == "toy" else 1_000_000
  x = np.random.default_rng(0).standard_normal(length)
  with jax.enable_x64(True):
    best = np.asarray(exact(jnp.asarray(x)))
  scale = np.abs(best).max()
  distance = lambda p: float(np.abs(np.asarray(p, np.float64) - best).max() / scale)
  single = jnp.asarray(x, jnp.float32)
  contenders = [
    compiled(
      label, jax.jit(method), single, ours=label.startswith("jaxopt_robust"), accuracy=distance
    )
    for label, method in methods.items()
  ]
  return Row(
    name=f"projections_{name}",
    work=f"{length} float32 numbers N(0, 1)",
    contenders=contenders,
    accuracy="largest distance to the float64 solution, relative to its largest entry",
    bound=BOUND,
    limit="memory bandwidth of a copy",
    limit_s=copy_seconds(2 * 4 * length),
    note=note,
  )
