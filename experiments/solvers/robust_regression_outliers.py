"""Robust regression on diabetes data with planted gross errors and leverage points, 0 to 40 %."""

import dataclasses
import functools
import itertools
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _figures, datasets
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments.solvers._trimmed_start import CAP, trimmed
from jaxopt_robust import prox, solvers, sweeps
from jaxopt_robust.typing import Penalty

PAPER = Paper(
  title="Robust statistics: theory and methods",
  authors="Maronna, Martin and Yohai",
  year=2006,
  claim="Convex losses of the residuals (Huber, least absolute deviations) withstand gross errors "
  "of the target but not leverage points, wrong rows far out in the features. A bounded loss, "
  "non-convex and started from a trimmed fit, withstands both.",
  section="Chapters 4 (M-estimates) and 5 (bounded losses); our own data and losses",
)

DEMO = True
KINDS = ("target", "leverage")
# At 95 % efficiency for normal errors: Huber's threshold, where Tukey's loss becomes constant.
_HUBER_THRESHOLD = 1.345
_BOUND = 4.685
_BROKEN = 1.15  # a fit withstands outliers while its error is at most 15 % above the clean fit's


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    shares: shares of the training rows that are outliers, 0.1, 0.2 and 0.4 among them.
    strengths: sizes of the outliers: the shift of the target in its standard deviations, and the
      distance of a leverage point in standard deviations of the features.
    penalty: strength of the l1 penalty on the coefficients, for each row.
    draws: random subsets from which the trimmed fit starts.
    trims: concentration steps of the trimmed fit.
    weight: ADMM's weight of K w = z.
    tol: residual of ADMM at a solution.
    max_steps: limit of ADMM's steps for the convex losses.
    bounded_steps: its steps for the bounded losses, where it has no guarantee and does not settle.
  """

  seeds: int = 10
  shares: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4)
  strengths: tuple[float, ...] = (3.0, 10.0)
  penalty: float = 0.005
  draws: int = 100
  trims: int = 3
  weight: float = 10.0
  tol: float = 1e-6
  max_steps: int = 3000
  bounded_steps: int = 1000


SIZES = {
  "toy": Size(
    Config(seeds=2, shares=(0.1, 0.2, 0.4), strengths=(10.0,), draws=20, max_steps=300),
    "Two splits, one strength.",
  ),
  "desk": Size(Config(), "A data set and losses of our own; the book has figures of other data."),
  "large": Size(
    Config(
      seeds=50, shares=(0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45),
      strengths=(2.0, 3.0, 5.0, 10.0, 30.0), draws=500, trims=5,
    ),
    "A data set and losses of our own, on a finer grid.",
  ),
}  # fmt: skip


class Data(NamedTuple):
  """One problem. Rows of ``x`` begin with a 1; ``clean`` is the fit before the outliers."""

  x: np.ndarray
  y: np.ndarray
  x_test: np.ndarray
  y_test: np.ndarray
  clean: np.ndarray


def make_problem(kind: str, strength: float, share: float, seed: int) -> Data:
  """The diabetes table with outliers among the training rows; the test rows are clean.

  Gross errors shift the target, all to one side. Leverage points get features ``strength`` times as
  far out as the others and the clean fit's prediction with the wrong sign, plus the residual that
  the row had. The rows are standardised before the outliers are planted.
  """
  table = datasets.load("diabetes")
  train, test = datasets.split(len(table["y"]), (0.75, 0.25), seed)
  x, x_test = datasets.standardise(table["x"][train], table["x"][test])
  y, y_test = datasets.standardise(table["y"][train], table["y"][test])
  x, x_test = (np.concatenate([np.ones((len(a), 1)), a], axis=1) for a in (x, x_test))
  clean = np.linalg.lstsq(x, y, rcond=None)[0]
  residuals = y - x @ clean
  # The same rows and directions for all strengths; a larger share contains the smaller.
  rng = np.random.default_rng([seed, KINDS.index(kind)])
  bad = rng.permutation(len(y))[: round(share * len(y))]
  sizes, directions = np.abs(rng.standard_normal(len(y))), rng.standard_normal(x.shape)
  if kind == "target":
    y[bad] += strength * (1 + 0.25 * sizes[bad])
  else:
    x[bad, 1:] = strength * directions[bad, 1:]
    y[bad] = residuals[bad] - x[bad] @ clean
  return Data(x, y, x_test, y_test, clean)


def operator(w: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """K w: the residuals' loss and the penalty are one term of it."""
  return x @ w, w[1:]


def shifted(loss: Penalty) -> Any:
  """Operator of (z, v) -> loss(y - z) + l1 ||v||_1."""

  def apply(image: Any, hyper: Any, scaling: Any) -> Any:
    y, params, l1 = hyper
    residual = loss.prox(y - image[0], params, scaling)
    return y - residual, prox.prox_lasso(image[1], l1, scaling)

  return apply


def objective(loss: Penalty, w: jax.Array, hyper: Any, x: jax.Array) -> jax.Array:
  """sum_i loss(y_i - x_i^T w) + l1 ||w without the intercept||_1."""
  y, params, l1 = hyper
  return loss.value(y - x @ w, params) + prox.penalty_lasso(w[1:], l1)


def least_squares(image: Any, _: Any, rho: Any, x: jax.Array) -> jax.Array:
  """argmin_w ||K w - image||^2, ADMM's first step, whatever its weight."""
  del rho
  gram = (x.T @ x).at[jnp.arange(1, x.shape[1]), jnp.arange(1, x.shape[1])].add(1)
  right = (image[0] @ x).at[1:].add(image[1])
  return jax.scipy.linalg.solve(gram, right, assume_a="pos")


def make_fit(loss: Penalty, config: Config, max_steps: int) -> Any:
  """``fit(start, hyper, x) -> (w, objective, steps, error)`` by ADMM, one sweep."""

  def fit(start: jax.Array, hyper: Any, x: jax.Array) -> Any:
    solver = solvers.admm(least_squares, shifted(loss), operator, weight=config.weight)
    w, info = solvers.run_until(
      solver, start, (None, hyper), x, tol=config.tol, max_steps=max_steps
    )
    return w, objective(loss, w, hyper, x), info.steps, info.error

  return jax.jit(sweeps.sweep(fit))


def scikit_learn(data: Data, seed: int) -> dict[str, np.ndarray]:
  """Fits by what people use."""
  from sklearn.exceptions import ConvergenceWarning
  from sklearn.linear_model import HuberRegressor, RANSACRegressor
  from threadpoolctl import threadpool_limits

  x, y = data.x[:, 1:], data.y
  with warnings.catch_warnings(), threadpool_limits(1):  # the matrices are too small for threads
    warnings.simplefilter("ignore", ConvergenceWarning)
    models = {
      "scikit-learn Huber": HuberRegressor().fit(x, y),
      "scikit-learn RANSAC": RANSACRegressor(random_state=seed).fit(x, y).estimator_,
    }
  fits = {name: np.r_[m.intercept_, m.coef_] for name, m in models.items()}
  return {"least squares": np.linalg.lstsq(data.x, y, rcond=None)[0], **fits}


CONVEX = ("least absolute deviations", "Huber")
BOUNDED = ("MCP loss", "capped l1 loss")
OURS = (*CONVEX, *BOUNDED)
METHODS = (
  "least squares", "scikit-learn Huber", "scikit-learn RANSAC", *CONVEX, "trimmed start", *BOUNDED,
)  # fmt: skip


@jax.enable_x64(True)
def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Fits every method to every problem of the grid."""
  call, seeds = progress.clock.call, config.seed_numbers()
  axes = (KINDS, config.strengths, config.shares, seeds)
  shape = tuple(len(a) for a in axes)
  grid = list(itertools.product(*axes))
  problems = [make_problem(*point) for point in grid]
  x, y, x_test, y_test, clean = (np.stack(leaves) for leaves in zip(*problems, strict=True))
  rows, features = x.shape[1:]
  l1 = np.full(len(grid), config.penalty * rows)

  # The scale of the residuals and the start of the non-convex losses.
  draws = {s: np.random.default_rng([s, 7]).random((config.draws, rows)) for s in seeds}
  subsets = np.stack([draws[point[3]].argpartition(features, axis=-1) for point in grid])
  program = jax.jit(sweeps.sweep(functools.partial(trimmed, trims=config.trims)))
  start, scale = call(program, subsets[..., :features], x, y, name="trimmed start")
  scale = np.asarray(scale)

  ones, zeros = np.ones(len(grid)), np.zeros((len(grid), features))
  settings = {
    "least absolute deviations": (prox.lasso, zeros, ones),
    "Huber": (prox.huber, zeros, (ones / scale, _HUBER_THRESHOLD * scale)),
    "MCP loss": (prox.mcp, start, (ones, _BOUND * scale)),
    "capped l1 loss": (prox.capped_l1, start, (ones, CAP * scale)),
  }
  fits: dict[str, np.ndarray] = {"trimmed start": np.asarray(start), "clean fit": clean}
  unsettled, change = {}, {}
  for name in progress.track(OURS, "ADMM"):
    loss, first, params = settings[name]
    fit = make_fit(loss, config, config.bounded_steps if name in BOUNDED else config.max_steps)
    w, value, _, error = call(fit, first, (y, params, l1), x, name=name)
    fits[name] = np.asarray(w)
    unsettled[name] = np.reshape(error > config.tol, (-1, config.seeds)).sum(0)
    if name in BOUNDED:
      before = jax.vmap(functools.partial(objective, loss))(start, (y, params, l1), x)
      change[name] = np.max(np.reshape(value / before - 1, (-1, config.seeds)), axis=0)

  for i, point in progress.track(list(enumerate(grid)), "scikit-learn"):
    for name, w in scikit_learn(problems[i], point[3]).items():
      fits.setdefault(name, np.zeros_like(clean))[i] = w

  rmse = {}
  for name in (*METHODS, "clean fit"):
    error = y_test - np.einsum("pij,pj->pi", x_test, fits[name])
    rmse[name] = np.sqrt(np.mean(error**2, axis=1)).reshape(shape)
  return {"rmse": rmse, "unsettled": unsettled, "change": change}


def _side(metrics: dict[str, Any], config: Config, name: str, kind: str, share: float) -> Side:
  """Errors on clean rows at the largest strength, a number a seed."""
  at = (KINDS.index(kind), len(config.strengths) - 1, config.shares.index(share))
  return Side(name, np.asarray(metrics["rmse"][name], float)[at])


WHAT = {"target": "gross errors of the target", "leverage": "leverage points"}


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Which losses withstand which outliers, beside the fit before the outliers were planted."""
  made = []

  def add(name: str, kind: str, share: float, *, breaks: bool = False) -> None:
    verb, limit = ("is broken by", "more than") if breaks else ("withstands", "at most")
    text = f"{name} {verb} {share:.0%} {WHAT[kind]}: {limit} 15 % above the clean fit."
    sides = (_side(metrics, config, n, kind, share) for n in (name, "clean fit"))
    key = f"{name}_{kind}_{share:g}".replace(" ", "_")
    better, margin = ("higher", _BROKEN) if breaks else ("lower", 1 / _BROKEN)
    made.append(Claim(key, text, "paper", "RMSE on clean rows", *sides, better, margin, "ratio"))

  add("least squares", "target", 0.1, breaks=True)
  for name in CONVEX:
    add(name, "target", 0.2)
    add(name, "leverage", 0.1, breaks=True)
  for name in BOUNDED:
    add(name, "target", 0.4)
    add(name, "leverage", 0.2)
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Errors at the largest strength beside scikit-learn's."""
  note = (
    "Errors in deviations of the target. On bounded losses ADMM does not settle (status 1); it "
    "ends below the objective of its start."
  )
  return [
    Row(
      f"RMSE on clean test rows, {share:.0%} {WHAT[kind]}",
      _side(metrics, config, name, kind, share),
      _side(metrics, config, base, kind, share), better="lower", note=note,
    )
    for kind, share in (("target", 0.2), ("target", 0.4), ("leverage", 0.1), ("leverage", 0.2))
    for name in (*OURS, "trimmed start")
    for base in ("scikit-learn RANSAC", "scikit-learn Huber", "least squares")
  ]  # fmt: skip


def figure(record: dict[str, Any]) -> Any:
  """Error on clean rows over the share of outliers, a panel for each kind and strength."""
  rmse, settings = record["metrics"]["rmse"], record["settings"]
  strengths, shares = settings["strengths"], np.asarray(settings["shares"]) * 100
  fig, axes = new_figure(len(KINDS), len(strengths), width=4.6, height=3.3)
  for index, (a, b) in enumerate(itertools.product(range(len(KINDS)), range(len(strengths)))):
    lines = {name: np.asarray(values, float)[a, b].mean(-1) for name, values in rmse.items()}
    _figures.curves(
      axes[index], lines, shares, xlabel="share of outliers (%)", ylabel="RMSE on clean rows",
      title=f"{WHAT[KINDS[a]]}, {strengths[b]:g} deviations",
    )  # fmt: skip
    axes[index].set(ylim=(0.65, 2.05), xticks=shares)
    axes[index].get_legend().remove()
  handles, labels = axes[0].get_legend_handles_labels()
  fig.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
  return fig
