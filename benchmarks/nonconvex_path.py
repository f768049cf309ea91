"""Paths of MCP and SCAD to one stationarity residual, against skglm."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _lasso
from benchmarks._timing import Contender, Row, compiled, loosest, peer
from jaxopt_robust import prox

_THETA, _A = 3.0, 3.7


def _slopes(sizes: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
  """Derivatives of MCP and SCAD at numbers of these sizes."""
  mcp = np.maximum(strength - sizes / _THETA, 0)
  scad = np.minimum(np.maximum(_A * strength - sizes, 0) / (_A - 1), strength)
  return mcp, scad


def build(size: str) -> Row:
  """The row: both paths after one another, in float64, on columns of root mean square 1."""
  samples, features, points = (50, 100, 4) if size == "toy" else (500, 2000, 40)
  warnings.filterwarnings("ignore", category=Warning, module="(sklearn|celer|skglm)")
  jax.config.update("jax_enable_x64", True)
  x, y = _lasso.make_problem(samples, features)
  x = np.asfortranarray(x / np.sqrt(np.mean(x**2, axis=0)))
  largest = np.abs(x.T @ y).max() / samples
  strengths = largest * np.geomspace(0.99, 0.05, points)

  def violation(result) -> float:
    """The largest violation of stationarity of both paths, over the largest strength."""
    worst = 0.0
    for which, path in enumerate(result):
      for w, strength in zip(np.asarray(path), strengths, strict=True):
        g = x.T @ (x @ w - y) / samples
        on = np.abs(g + np.sign(w) * _slopes(np.abs(w), strength)[which])
        worst = max(worst, np.where(w != 0, on, np.maximum(np.abs(g) - strength, 0)).max())
    return worst / largest

  arrays = tuple(map(jnp.asarray, (strengths, x, y)))

  @jax.jit
  def both(strengths, x, y, tol):
    mcp = _lasso.path(strengths, x, y, tol, penalty=prox.mcp, params=(_THETA,))
    scad = _lasso.path(strengths, x, y, tol, penalty=prox.scad, params=(_A,))
    return mcp[0], scad[0]

  def ours(tol):
    return compiled(
      "jaxopt_robust: regularization_path", both, *arrays, tol, ours=True, accuracy=violation
    )

  def fastest(make):
    return loosest(make, 1e-7, tolerances=(1e-6, 1e-7, 1e-8, 1e-9, 1e-10))

  contenders = [fastest(ours)]
  if peer("skglm"):
    from skglm.datafits import Quadratic
    from skglm.penalties import SCAD, MCPenalty
    from skglm.solvers import AndersonCD

    def skglm_paths(tol):
      solver = AndersonCD(tol=tol * largest, fit_intercept=False, warm_start=True, max_iter=200)

      def run():
        penalties = (MCPenalty(1.0, _THETA), SCAD(1.0, _A))
        return [solver.path(x, y, Quadratic(), p, alphas=strengths)[1].T for p in penalties]

      return Contender("skglm: AndersonCD.path", run, accuracy=violation)

    contenders.append(fastest(skglm_paths))
  return Row(
    name="nonconvex_path",
    work=f"MCP and SCAD, {points} strengths down to 1/20, {samples} x {features}",
    contenders=contenders,
    accuracy="largest violation of stationarity over both paths, by the largest strength",
    bound=1e-7,
  )
