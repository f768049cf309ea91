"""A path of group lasso problems to one duality gap, against celer and skglm."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _lasso
from benchmarks._timing import Contender, Row, compiled, loosest, peer
from jaxopt_robust import prox

_SIZE = 5


def _gap(w: np.ndarray, strength: float, x: np.ndarray, y: np.ndarray) -> float:
  """Duality gap of 1/(2n) ||x w - y||^2 + strength sum_G ||w_G||, by the value at w = 0."""
  n = len(y)
  norms = lambda v: np.linalg.norm(v.reshape(-1, _SIZE), axis=1)
  residual = y - x @ w
  dual = residual / max(1.0, norms(x.T @ residual).max() / (n * strength))
  primal = residual @ residual / (2 * n) + strength * norms(w).sum()
  dual_value = (y @ y - (y - dual) @ (y - dual)) / (2 * n)
  return float((primal - dual_value) / (y @ y / (2 * n)))


def _problem(samples: int, features: int) -> tuple[np.ndarray, np.ndarray]:
  """The correlated rows of the Lasso's problem, and a signal on a twentieth of the groups."""
  x, _ = _lasso.make_problem(samples, features)
  rng = np.random.default_rng(1)
  groups = features // _SIZE
  weights = np.zeros((groups, _SIZE))
  active = rng.choice(groups, max(2, groups // 20), replace=False)
  weights[active] = rng.standard_normal((len(active), _SIZE))
  signal = x @ weights.ravel()
  return x, signal + rng.standard_normal(samples) * signal.std() / 5


def build(size: str) -> Row:
  """The row; all contenders work in float64 on the same falling strengths."""
  samples, features, points = (50, 100, 4) if size == "toy" else (500, 2000, 40)
  warnings.filterwarnings("ignore", category=Warning, module="(sklearn|celer|skglm)")
  jax.config.update("jax_enable_x64", True)
  x, y = _problem(samples, features)
  groups = features // _SIZE
  correlations = np.linalg.norm((x.T @ y).reshape(groups, _SIZE), axis=1)
  strengths = correlations.max() / samples * np.geomspace(0.99, 0.02, points)
  bound = 1e-6
  ids = np.repeat(np.arange(groups), _SIZE)
  penalty = prox.make_group_penalty(prox.lasso, ids, num_groups=groups)

  def worst_gap(w) -> float:
    return max(_gap(v, s, x, y) for v, s in zip(w, strengths, strict=True))

  arrays = tuple(map(jnp.asarray, (strengths, x, y)))

  def ours(tol):
    run = jax.jit(lambda *args: _lasso.path(*args, penalty=penalty))
    return compiled(
      "jaxopt_robust: regularization_path", run, *arrays, tol, ours=True,
      accuracy=lambda result: worst_gap(np.asarray(result[0])),
    )  # fmt: skip

  def fastest(make):
    return loosest(make, bound, tolerances=tuple(10.0**-k for k in range(4, 12)))

  contenders = [fastest(ours)]
  if celer := peer("celer"):

    def celer_path(tol):
      run = lambda: (
        celer.celer_path(
          x, y, pb="grouplasso", groups=_SIZE, alphas=strengths, tol=tol, max_iter=100
        )[1].T
      )
      return Contender("celer: celer_path", run, accuracy=worst_gap)

    contenders.append(fastest(celer_path))
  if peer("skglm"):
    from skglm.datafits import QuadraticGroup
    from skglm.penalties import WeightedGroupL2
    from skglm.solvers import GroupBCD
    from skglm.utils.data import grp_converter

    members, starts = grp_converter(_SIZE, features)

    def skglm_path(tol):
      solver = GroupBCD(tol=tol * strengths[0], warm_start=True)
      fit = QuadraticGroup(starts, members)

      def run():
        w, fitted, found = np.zeros(features), np.zeros(samples), []
        for strength in strengths:
          penalty = WeightedGroupL2(strength, np.ones(groups), starts, members)
          w = solver.solve(x, y, fit, penalty, w, fitted)[0]
          fitted = x @ w
          found.append(w.copy())
        return found

      return Contender("skglm: GroupBCD, warm starts", run, accuracy=worst_gap)

    contenders.append(fastest(skglm_path))
  return Row(
    name="group_lasso_path",
    work=f"{points} strengths down to 1/50, {samples} x {features}, groups of {_SIZE}",
    contenders=contenders,
    accuracy="largest duality gap over the path, relative to the objective at 0",
    bound=bound,
  )
