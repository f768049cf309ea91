"""A small Lasso solved again and again from a Python loop without ``jit``, against jaxopt."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _lasso
from benchmarks._timing import Contender, Row, peer
from jaxopt_robust import prox, solvers


def _mean_square(w, x, y):
  """1/(2n) ||x w - y||^2."""
  return 0.5 * jnp.mean((x @ w - y) ** 2)


def build(size: str) -> Row:
  """The row; each call of a contender is one loop over strengths."""
  samples, features, solves = (30, 20, 10) if size == "toy" else (100, 50, 100)
  jax.config.update("jax_enable_x64", True)
  x, y = _lasso.make_problem(samples, features)
  strengths = np.abs(x.T @ y).max() / samples * np.geomspace(0.5, 0.05, solves)
  step = samples / np.linalg.norm(x, 2) ** 2
  tol, start = 1e-8, jnp.zeros(features)
  x_, y_ = jnp.asarray(x), jnp.asarray(y)

  def worst_gap(found) -> float:
    pairs = zip(found, strengths, strict=True)
    return max(_lasso.relative_gap(np.asarray(w), s, x, y) for w, s in pairs)

  def ours():
    found = []
    for strength in strengths:
      solver = solvers.fista(_mean_square, prox.prox_lasso, stepsize=step)  # made anew, equal
      w, _ = solvers.run_until(solver, start, strength, x_, y_, tol=tol, max_steps=5_000)
      found.append(w)
    return jax.block_until_ready(found)

  contenders = [
    Contender("jaxopt_robust: fista in a Python loop", ours, ours=True, accuracy=worst_gap)
  ]
  if jaxopt := peer("jaxopt"):
    solver = jaxopt.ProximalGradient(
      _mean_square, jaxopt.prox.prox_lasso, stepsize=step, tol=tol, maxiter=5_000,
      implicit_diff=False,
    )  # fmt: skip

    def theirs():
      found = [solver.run(start, strength, x_, y_).params for strength in strengths]
      return jax.block_until_ready(found)

    contenders.append(
      Contender("jaxopt: ProximalGradient in a Python loop", theirs, accuracy=worst_gap)
    )
  return Row(
    name="eager_solve",
    work=f"{solves} solves of {samples} x {features} without jit",
    contenders=contenders,
    accuracy="largest duality gap, relative to the objective at 0",
    bound=1e-6,
  )
