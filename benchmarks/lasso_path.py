"""A path of Lasso problems to one duality gap, against celer, skglm, scikit-learn and jaxopt."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _lasso
from benchmarks._timing import Contender, Row, compiled, loosest, peer


def build(size: str) -> Row:
  """The row; all contenders work in float64 on the same falling strengths."""
  samples, features, points = (50, 100, 4) if size == "toy" else (500, 2000, 64)
  warnings.filterwarnings("ignore", category=Warning, module="(sklearn|celer|skglm)")
  jax.config.update("jax_enable_x64", True)
  x, y = _lasso.make_problem(samples, features)
  largest = np.abs(x.T @ y).max() / samples
  strengths = largest * np.geomspace(0.99, 0.01, points)
  bound = 1e-6
  lipschitz = np.linalg.norm(x, 2) ** 2 / samples

  def worst_gap(w) -> float:
    return max(_lasso.relative_gap(v, s, x, y) for v, s in zip(w, strengths, strict=True))

  scale = y @ y / samples
  arrays = (jnp.asarray(strengths), jnp.asarray(x), jnp.asarray(y))
  stepsize = 1 / lipschitz

  def ours(tol):
    return compiled(
      "jaxopt_robust: regularization_path",
      _lasso.path,
      *arrays,
      tol,
      ours=True,
      accuracy=lambda result: worst_gap(np.asarray(result[0])),
    )

  def fastest(make):
    return loosest(make, bound, tolerances=(1e-5, 1e-6, 1e-7, 1e-8, 1e-9))

  contenders = [fastest(ours)]
  if celer := peer("celer"):

    def celer_path(tol):
      run = lambda: celer.celer_path(x, y, pb="lasso", alphas=strengths, tol=tol)[1].T
      return Contender("celer: celer_path", run, accuracy=worst_gap)

    contenders.append(fastest(celer_path))
  if sklearn := peer("sklearn.linear_model"):

    def sklearn_path(tol):
      run = lambda: sklearn.lasso_path(x, y, alphas=strengths, tol=tol, max_iter=10_000)[1].T
      return Contender("scikit-learn: lasso_path", run, accuracy=worst_gap)

    contenders.append(fastest(sklearn_path))
  if peer("skglm"):
    from skglm.datafits import Quadratic
    from skglm.penalties import L1
    from skglm.solvers import AndersonCD

    def skglm_path(tol):
      solver = AndersonCD(tol=tol, fit_intercept=False, warm_start=True)
      run = lambda: solver.path(x, y, Quadratic(), L1(1.0), alphas=strengths)[1].T
      return Contender("skglm: AndersonCD.path", run, accuracy=worst_gap)

    contenders.append(fastest(skglm_path))
  if jaxopt := peer("jaxopt"):

    def jaxopt_path(tol):
      @jax.jit
      def path(strengths, x, y):
        solver = jaxopt.ProximalGradient(
          functools.partial(_lasso.squared_error, x=x, y=y, weights=1.0),
          jaxopt.prox.prox_lasso,
          stepsize=stepsize, tol=tol * np.sqrt(scale), maxiter=10_000, implicit_diff=False,
        )  # fmt: skip

        def one(w, strength):
          w = solver.run(w, strength).params
          return w, w

        return jax.lax.scan(one, jnp.zeros(features), strengths)[1]

      return compiled(
        "jaxopt: ProximalGradient, warm starts",
        path,
        *arrays,
        accuracy=lambda w: worst_gap(np.asarray(w)),
      )

    contenders.append(fastest(jaxopt_path))
  return Row(
    name="lasso_path",
    work=f"{points} strengths down to 1/100, {samples} x {features}, correlation 0.5^|i-j|",
    contenders=contenders,
    accuracy="largest duality gap over the path, relative to the objective at 0",
    bound=bound,
  )
