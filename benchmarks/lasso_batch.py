"""Bootstrap Lasso problems at one strength, against a loop of celer and a vmap of jaxopt."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _lasso
from benchmarks._timing import Contender, Row, compiled, loosest, peer


def build(size: str) -> Row:
  """The row; a bootstrap sample is a weighting of the rows."""
  samples, features, draws = (50, 100, 4) if size == "toy" else (500, 2000, 64)
  warnings.filterwarnings("ignore", category=Warning, module="(sklearn|celer|skglm)")
  jax.config.update("jax_enable_x64", True)
  x, y = _lasso.make_problem(samples, features)
  strength = 0.1 * np.abs(x.T @ y).max() / samples
  rng = np.random.default_rng(1)
  rows = rng.integers(0, samples, (draws, samples))
  weights = np.stack([np.bincount(r, minlength=samples) for r in rows]).astype(np.float64)
  steps = np.array([samples / np.linalg.norm(x[r], 2) ** 2 for r in rows])
  bound = 1e-6
  scale = np.sqrt(y @ y / samples)

  def worst_gap(w) -> float:
    return max(_lasso.relative_gap(v, strength, x, y, c) for v, c in zip(w, weights, strict=True))

  arrays = tuple(map(jnp.asarray, (x, y, weights)))

  def ours(tol):
    return compiled(
      "jaxopt_robust: vmap of regularization_path",
      _lasso.batch,
      jnp.asarray(strength),
      *arrays,
      tol,
      ours=True,
      accuracy=lambda result: worst_gap(np.asarray(result[0])),
    )

  def fastest(make):
    return loosest(make, bound, tolerances=(1e-5, 1e-6, 1e-7, 1e-8, 1e-9))

  contenders = [fastest(ours)]
  if celer := peer("celer"):
    draws_x = [np.asfortranarray(x[r]) for r in rows]
    one_strength = np.array([strength])

    def celer_loop(tol):
      def run():
        solve = lambda a, b: celer.celer_path(a, b, pb="lasso", alphas=one_strength, tol=tol)[1]
        return np.array([solve(a, y[r])[:, 0] for a, r in zip(draws_x, rows, strict=True)])

      return Contender("celer: a loop", run, accuracy=worst_gap)

    contenders.append(fastest(celer_loop))
  if sklearn := peer("sklearn.linear_model"):

    def sklearn_loop(tol):
      model = sklearn.Lasso(strength, fit_intercept=False, tol=tol, max_iter=10_000)
      run = lambda: np.array([model.fit(x[r], y[r]).coef_.copy() for r in rows])
      return Contender("scikit-learn: a loop", run, accuracy=worst_gap)

    contenders.append(fastest(sklearn_loop))
  if jaxopt := peer("jaxopt"):
    smallest = float(steps.min())

    def jaxopt_batch(tol):
      @jax.jit
      def batch(x, y, weights):
        def one(weights):
          solver = jaxopt.ProximalGradient(
            functools.partial(_lasso.squared_error, x=x, y=y, weights=weights),
            jaxopt.prox.prox_lasso,
            stepsize=smallest,  # one for all draws: a traced number is refused
            tol=tol * scale,
            maxiter=300,  # ours needs a hundred; it needs more than a thousand
            implicit_diff=False,
          )
          return solver.run(jnp.zeros(features), strength).params

        return jax.vmap(one)(weights)

      return compiled(
        "jaxopt: vmap of ProximalGradient",
        batch,
        *arrays,
        accuracy=lambda w: worst_gap(np.asarray(w)),
      )

    contenders.append(loosest(jaxopt_batch, bound, tolerances=(1e-6,)))
  return Row(
    name="lasso_batch",
    work=f"{draws} bootstrap draws at a tenth of the largest strength, {samples} x {features}",
    contenders=contenders,
    accuracy="largest duality gap, relative to the objective at 0",
    bound=bound,
  )
