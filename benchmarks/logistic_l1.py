"""A path of sparse logistic regressions on Spambase, against celer, skglm and scikit-learn."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _lasso
from benchmarks._timing import Contender, Row, compiled, loosest, peer
from experiments import datasets


def _emails(size: str) -> tuple[np.ndarray, np.ndarray]:
  """Standardised features and labels -1 and 1."""
  if size == "full":
    data = datasets.load("spambase")
    x, y = np.asarray(data["x"], np.float64), np.where(np.asarray(data["y"]) > 0, 1.0, -1.0)
  else:
    x, y = _lasso.make_problem(60, 10)
    y = np.sign(y)
  return np.asfortranarray((x - x.mean(axis=0)) / x.std(axis=0)), y


def _gap(w: np.ndarray, strength: float, x: np.ndarray, y: np.ndarray) -> float:
  """Duality gap of the mean logistic loss + strength ||w||_1, by its value at w = 0."""
  margins = y * (x @ w)
  primal = np.logaddexp(0, -margins).mean() + strength * np.abs(w).sum()
  dual = 1 / (1 + np.exp(margins))
  dual = dual / max(1.0, np.abs(x.T @ (y * dual)).max() / (len(y) * strength))
  inside = (dual > 0) & (dual < 1)
  safe = np.where(inside, dual, 0.5)
  entropy = np.where(inside, safe * np.log(safe) + (1 - safe) * np.log1p(-safe), 0)
  return float((primal + entropy.mean()) / np.log(2))


def build(size: str) -> Row:
  """The row; all contenders work in float64 on the same falling strengths, without intercept."""
  points = 4 if size == "toy" else 30
  warnings.filterwarnings("ignore", category=Warning, module="(sklearn|celer|skglm)")
  jax.config.update("jax_enable_x64", True)
  x, y = _emails(size)
  samples, features = x.shape
  largest = np.abs(x.T @ y).max() / (2 * samples)
  strengths = largest * np.geomspace(0.99, 0.001, points)
  bound = 1e-4

  def worst_gap(path) -> float:
    return max(_gap(w, s, x, y) for w, s in zip(np.asarray(path), strengths, strict=True))

  arrays = (jnp.asarray(strengths), jnp.asarray(x), jnp.asarray((y + 1) / 2))
  logistic = jax.jit(functools.partial(_lasso.path, loss="logistic"))

  def ours(tol):
    return compiled(
      "jaxopt_robust: regularization_path", logistic, *arrays, tol, ours=True,
      accuracy=lambda result: worst_gap(result[0]),
    )  # fmt: skip

  def fastest(make):
    tolerances = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
    return loosest(make, bound, tolerances=tolerances)

  contenders = [fastest(ours)]
  if celer := peer("celer"):

    def celer_path(tol):
      # Its objective is the sum over the rows.
      run = lambda: celer.celer_path(x, y, pb="logreg", alphas=strengths * samples, tol=tol)[1].T
      return Contender("celer: celer_path", run, accuracy=worst_gap)

    contenders.append(fastest(celer_path))
  if peer("skglm"):
    from skglm.datafits import Logistic
    from skglm.penalties import L1
    from skglm.solvers import ProxNewton

    def skglm_path(tol):
      solver = ProxNewton(tol=tol, fit_intercept=False, warm_start=True)

      def run():
        w, found = np.zeros(features), []
        for strength in strengths:
          w = solver.solve(x, y, Logistic(), L1(strength), w_init=w, Xw_init=x @ w)[0]
          found.append(w.copy())
        return np.array(found)

      return Contender("skglm: ProxNewton", run, accuracy=worst_gap)

    contenders.append(fastest(skglm_path))
  if sklearn := peer("sklearn.linear_model"):

    def sklearn_path(tol):
      def run():
        fit = lambda s: sklearn.LogisticRegression(
          C=1 / (s * samples), l1_ratio=1.0, solver="liblinear", fit_intercept=False, tol=tol,
          max_iter=10_000,
        ).fit(x, y)  # fmt: skip
        return np.array([fit(s).coef_[0] for s in strengths])

      return Contender("scikit-learn: liblinear", run, accuracy=worst_gap)

    contenders.append(fastest(sklearn_path))
  return Row(
    name="logistic_l1",
    work=f"{points} strengths down to 1/1000, {samples} x {features}",
    contenders=contenders,
    accuracy="largest duality gap over the path, by the objective at 0",
    bound=bound,
  )
