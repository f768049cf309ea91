"""The projection onto a box cut by a hyperplane, against jaxopt."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._timing import Row, compiled, copy_seconds, peer
from jaxopt_robust import projections as ours


def build(size: str) -> Row:
  """A long normal vector; a tenth of the entries' upper bounds is their sum."""
  length = 1000 if size == "toy" else 1_000_000
  x = np.random.default_rng(0).standard_normal(length)
  box = lambda dtype: (*(jnp.asarray(v, dtype) for v in (
    np.zeros(length), np.ones(length), np.ones(length), 0.1 * length)),)  # fmt: skip
  with jax.enable_x64(True):
    best = np.asarray(ours.projection_box_section(jnp.asarray(x), box(jnp.float64)))
  distance = lambda p: float(np.abs(np.asarray(p, np.float64) - best).max())
  args = (jnp.asarray(x, jnp.float32), box(jnp.float32))
  run = jax.jit(ours.projection_box_section)
  contenders = [compiled("jaxopt_robust", run, *args, ours=True, accuracy=distance)]
  if jaxopt := peer("jaxopt"):
    run = jax.jit(jaxopt.projection.projection_box_section)
    contenders.append(compiled("jaxopt", run, *args, accuracy=distance))
  return Row(
    name="projections_box_section",
    work=f"{length} float32 numbers N(0, 1), 0 <= p <= 1, mean 0.1",
    contenders=contenders,
    accuracy="largest distance to the float64 solution",
    bound=1e-4,
    limit="memory bandwidth of a copy",
    limit_s=copy_seconds(2 * 4 * length),
    note="The bound admits the peer's bisection, whose tolerance is fixed.",
  )
