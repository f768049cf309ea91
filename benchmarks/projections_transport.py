"""The projection onto a transportation polytope, against jaxopt at one accuracy."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._timing import Contender, Row, compiled, copy_seconds, first_call, loosest, peer
from jaxopt_robust import projections as ours

BOUND = 1e-3


def build(size: str, *, name: str = "transport", total: float = 1.0) -> Row:
  """Normal similarities and equal marginals that add up to ``total``."""
  side = 8 if size == "toy" else 100
  rng = np.random.default_rng(0)
  wide = rng.standard_normal((side, side))
  with jax.enable_x64(True):
    even = jnp.full(side, total / side)
    exact = np.asarray(ours.projection_transport(jnp.asarray(wide), (even, even)))
  scale = np.abs(exact).max()
  distance = lambda plan: float(np.abs(np.asarray(plan, np.float64) - exact).max() / scale)
  sim = jnp.asarray(wide, jnp.float32)
  marginals = jnp.full(side, total / side, jnp.float32)
  run = jax.jit(lambda s, m: ours.projection_transport(s, (m, m)))
  contenders = [compiled("jaxopt_robust", run, sim, marginals, ours=True, accuracy=distance)]
  if jaxopt := peer("jaxopt"):

    def their(tol):
      solver = lambda fun: jaxopt.LBFGS(fun, tol=tol, maxiter=2000)
      call = jax.jit(
        lambda s, m: jaxopt.projection.projection_transport(s, (m, m), make_solver=solver)
      )
      seconds = first_call(call, sim, marginals)
      result = lambda: jax.block_until_ready(call(sim, marginals))
      return Contender("jaxopt", result, compile_s=seconds, accuracy=distance)

    contenders.append(loosest(their, BOUND, tolerances=(1e-3, 1e-4, 1e-5, 1e-6, 1e-7)))
  return Row(
    name=f"projections_{name}",
    work=f"{side} x {side} float32 similarities N(0, 1), marginals that add up to {total:g}",
    contenders=contenders,
    accuracy="largest distance to the float64 solution, relative to its largest entry",
    bound=BOUND,
    limit="memory bandwidth of a copy",
    limit_s=copy_seconds(4 * 2 * side * side),
    note="The peer runs L-BFGS at the loosest tolerance of a list that meets the bound.",
  )
