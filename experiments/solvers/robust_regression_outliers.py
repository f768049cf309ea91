"""Robust regression on diabetes data with planted gross errors and leverage points, 0 to 40 %."""

import dataclasses
import functools
import itertools
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets
from experiments._earlier import Claim, Outcome, Row
from experiments._protocol import Paper, Progress, new_figure
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

KINDS = ("target", "leverage")
# Constants of the normal distribution: median of |x| is 0.6745 deviations; Huber's threshold at
# 95 % efficiency; where Tukey's bounded loss of the same efficiency becomes constant.
_MEDIAN_TO_DEVIATION = 1.4826
_HUBER_THRESHOLD = 1.345
_BOUND = 4.685
_CAP = 3.0  # the usual "three sigma"
_BROKEN = 1.15  # a fit is broken where its error on clean rows exceeds the clean fit's by 15 %


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings.

  Attributes:
    seeds: number of splits into training and test rows, and of draws of the outliers.
    shares: shares of the training rows that are outliers.
    strengths: sizes of the outliers: the shift of the target in its standard deviations, and the
      distance of a leverage point in standard deviations of the features.
    penalty: strength of the l1 penalty on the coefficients, for each row.
    draws: random subsets from which the trimmed fit starts.
    trims: concentration steps of the trimmed fit.
    weight: ADMM's weight of K w = z.
    tol: residual of ADMM at a solution.
    max_steps: limit of ADMM's steps for the convex losses.
    bounded_steps: its steps for the bounded losses, where it has no guarantee and does not settle.
    peer_steps: limit of the steps of the two other splitting methods, which check ADMM.
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
  peer_steps: int = 20_000


SIZES = {
  "toy": Config(seeds=1, shares=(0.0, 0.2), strengths=(10.0,), draws=20),
  "desk": Config(),
  "large": Config(
    seeds=50, shares=(0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45),
    strengths=(2.0, 3.0, 5.0, 10.0, 30.0), draws=500, trims=5,
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


# The residuals' loss and the penalty as one term of K w = (X w, w without the intercept).


def operator(w: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """K w."""
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


def make_peers(config: Config) -> dict[str, Any]:
  """Least absolute deviations by two other splittings, the second with the pinball loss."""

  def graph(point: Any, hyper: Any, scaling: Any) -> Any:
    """Projection onto {(w, z): z = X w}."""
    del scaling
    w, z = point
    x = hyper
    new = jax.scipy.linalg.solve(jnp.eye(len(w)) + x.T @ x, w + z @ x, assume_a="pos")
    return new, x @ new

  def terms(point: Any, hyper: Any, scaling: Any) -> Any:
    y, _, l1 = hyper
    w, z = point
    weights = jnp.full_like(w, l1).at[0].set(0)
    return prox.prox_lasso(w, weights, scaling), y - prox.prox_lasso(y - z, 1.0, scaling)

  def douglas_rachford(hyper: Any, x: jax.Array) -> Any:
    start = (jnp.zeros(x.shape[1]), jnp.zeros(x.shape[0]))
    solver = solvers.douglas_rachford(graph, terms, stepsize=0.1)
    (w, _), info = solvers.run_until(
      solver, start, (x, hyper), tol=config.tol, max_steps=config.peer_steps
    )
    return objective(prox.lasso, w, hyper, x), info.status

  def chambolle_pock(hyper: Any, x: jax.Array) -> Any:
    y, _, l1 = hyper
    step = 0.99 / jnp.linalg.norm(x, 2)
    ratio = 0.01  # coefficients are small and the multipliers of hundreds of rows are not
    solver = solvers.chambolle_pock(
      prox.prox_lasso,
      lambda z, target, scaling: target - prox.prox_pinball(target - z, (2.0, 0.5), scaling),
      lambda w, x: x @ w,
      stepsize=ratio * step,
      dual_stepsize=step / ratio,
    )
    weights = jnp.full(x.shape[1], l1).at[0].set(0)
    w, info = solvers.run_until(
      solver, jnp.zeros(x.shape[1]), (weights, y), x, tol=config.tol, max_steps=config.peer_steps
    )
    return objective(prox.lasso, w, hyper, x), info.status

  peers = {"Douglas-Rachford": douglas_rachford, "Chambolle-Pock": chambolle_pock}
  return {name: jax.jit(sweeps.sweep(fit)) for name, fit in peers.items()}


def trimmed(subsets: jax.Array, x: jax.Array, y: jax.Array, *, trims: int) -> tuple[Any, Any]:
  """The start of the bounded losses: small random subsets, concentrated on the best half.

  Each subset's fit is refitted to the half of the rows that fits it best, a few times. The smallest
  trimmed sum of squares gives the scale of the residuals, and the bounded loss at this scale picks
  among all candidates. Returns the coefficients and the scale.
  """
  half = (len(y) + x.shape[1] + 1) // 2
  eye = 1e-9 * jnp.eye(x.shape[1])  # repeated rows make a small subset singular

  def concentrate(w: jax.Array, _: Any) -> Any:
    _, keep = jax.lax.top_k(-jnp.abs(y - x @ w), half)
    rows = x[keep]
    return jax.scipy.linalg.solve(rows.T @ rows + eye, y[keep] @ rows, assume_a="pos"), None

  def one(index: jax.Array) -> Any:
    rows = x[index]
    w = jax.scipy.linalg.solve(rows.T @ rows + eye, y[index] @ rows, assume_a="pos")
    return jax.lax.scan(concentrate, w, None, length=trims)[0]

  candidates = jax.vmap(one)(subsets)
  residuals = jnp.abs(y[None] - candidates @ x.T)
  smallest = jnp.argmin(jnp.sum(-jax.lax.top_k(-(residuals**2), half)[0], axis=1))
  scale = _MEDIAN_TO_DEVIATION * jnp.median(residuals[smallest])
  bounded = jax.vmap(lambda r: prox.penalty_capped_l1(r, (1.0, _CAP * scale)))(residuals)
  return candidates[jnp.argmin(bounded)], scale


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


def exact_optimum(data: Data, penalty: float) -> float:
  """The optimum of least absolute deviations with the l1 penalty, by scikit-learn and HiGHS."""
  from sklearn.linear_model import QuantileRegressor

  x, y = data.x[:, 1:], data.y
  model = QuantileRegressor(quantile=0.5, alpha=penalty / 2, solver="highs").fit(x, y)
  residual = y - model.predict(x)
  return float(np.abs(residual).sum() + len(y) * penalty * np.abs(model.coef_).sum())


CONVEX = ("least absolute deviations", "Huber")
BOUNDED = ("MCP loss", "capped l1 loss")
OURS = (*CONVEX, *BOUNDED)
METHODS = (
  "least squares", "scikit-learn Huber", "scikit-learn RANSAC", *CONVEX, "trimmed start", *BOUNDED,
)  # fmt: skip


def run(config: Config, progress: Progress) -> Outcome:
  """Fits every method to every problem of the grid."""
  with jax.enable_x64(True):
    return _run(config, progress)


def _run(config: Config, progress: Progress) -> Outcome:
  call = progress.clock.call
  axes = (KINDS, config.strengths, config.shares, range(config.seeds))
  shape = tuple(len(a) for a in axes)
  grid = list(itertools.product(*axes))
  problems = [make_problem(*point) for point in grid]
  x, y, x_test, y_test, clean = (np.stack(leaves) for leaves in zip(*problems, strict=True))
  rows, features = x.shape[1:]
  l1 = np.full(len(grid), config.penalty * rows)

  # The scale of the residuals and the start of the non-convex losses.
  rng = np.random.default_rng(0)
  subsets = rng.random((len(grid), config.draws, rows)).argpartition(features, axis=-1)
  program = jax.jit(sweeps.sweep(functools.partial(trimmed, trims=config.trims)))
  start, scale = call(program, subsets[..., :features], x, y, name="trimmed start")
  scale = np.asarray(scale)

  ones, zeros = np.ones(len(grid)), np.zeros((len(grid), features))
  settings = {
    "least absolute deviations": (prox.lasso, zeros, ones),
    "Huber": (prox.huber, zeros, (ones / scale, _HUBER_THRESHOLD * scale)),
    "MCP loss": (prox.mcp, start, (ones, _BOUND * scale)),
    "capped l1 loss": (prox.capped_l1, start, (ones, _CAP * scale)),
  }
  fits: dict[str, np.ndarray] = {"trimmed start": np.asarray(start), "clean fit": clean}
  checks: dict[str, Any] = {}
  values = {}
  for name in progress.track(OURS, "ADMM"):
    loss, first, params = settings[name]
    fit = make_fit(loss, config, config.bounded_steps if name in BOUNDED else config.max_steps)
    w, value, steps, error = call(fit, first, (y, params, l1), x, name=name)
    fits[name], values[name] = np.asarray(w), np.asarray(value)
    checks[name] = {
      "median_steps": float(np.median(steps)),
      "at_the_limit": int(np.count_nonzero(error > config.tol)),
    }
    if name in BOUNDED:
      before = jax.vmap(functools.partial(objective, loss))(start, (y, params, l1), x)
      checks[name]["largest_change"] = float(np.max(value / before - 1))

  known: dict[Any, dict[str, np.ndarray]] = {}  # without outliers all strengths are the same
  for problem, point in progress.track(list(zip(problems, grid, strict=True)), "scikit-learn"):
    key = point if point[2] else point[3]
    known[key] = known[key] if key in known else scikit_learn(problem, point[3])
    for name, w in known[key].items():
      fits.setdefault(name, np.zeros_like(clean))[grid.index(point)] = w

  # The exact optimum and two other splittings, on the problems of the first seed.
  subset = np.array([i for i, point in enumerate(grid) if point[3] == 0])
  exact = np.array([exact_optimum(problems[i], config.penalty) for i in subset])
  checks["above_exact"] = {"ADMM": _distance(values["least absolute deviations"][subset], exact)}
  for name, fit in make_peers(config).items():
    value, _ = call(fit, (y[subset], ones[subset], l1[subset]), x[subset], name=name)
    checks["above_exact"][name] = _distance(np.asarray(value), exact)

  metrics: dict[str, Any] = {}
  for name in (*METHODS, "clean fit"):
    w = fits[name]
    error = np.abs(y_test - np.einsum("pij,pj->pi", x_test, w))
    moved = np.sqrt(np.mean(np.einsum("pij,pj->pi", x_test, w - clean) ** 2, axis=1))
    metrics[name] = {
      "rmse": np.sqrt(np.mean(error**2, axis=1)).reshape(shape).round(4),
      "median_error": np.median(error, axis=1).reshape(shape).mean(-1).round(4),
      "moved": moved.reshape(shape).mean(-1).round(4),
    }
  metrics["checks"] = checks
  return Outcome(metrics, _table(config, metrics), _claims(config, metrics))


def _distance(value: np.ndarray, exact: np.ndarray) -> float:
  """Largest relative distance to the exact optimum, in either direction."""
  return float(np.max(np.abs(value - exact) / exact))


def _ratio(
  config: Config, metrics: dict[str, Any], name: str, kind: str, strength: float, share: float
) -> float:
  """Mean error on clean rows over that of the clean fit; at the nearest strength and share."""
  b = int(np.argmin(np.abs(np.subtract(config.strengths, strength))))
  c = int(np.argmin(np.abs(np.subtract(config.shares, share))))
  at = (KINDS.index(kind), b, c)
  return float(np.mean(metrics[name]["rmse"][at]) / np.mean(metrics["clean fit"]["rmse"][at]))


def _table(config: Config, metrics: dict[str, Any]) -> list[Row]:
  rows = []
  for kind, what, share in (
    ("target", "gross errors of the target", 0.2),
    ("target", "gross errors of the target", 0.4),
    ("leverage", "leverage points", 0.1),
    ("leverage", "leverage points", 0.2),
  ):
    share = config.shares[int(np.argmin(np.abs(np.subtract(config.shares, share))))]
    at = (KINDS.index(kind), len(config.strengths) - 1, config.shares.index(share))
    for name in OURS:
      base = "scikit-learn RANSAC" if name in BOUNDED else "least squares"
      values = metrics[name]["rmse"][at]
      rows.append(
        Row(
          name,
          f"RMSE on clean test rows in deviations of the target; {share:.0%} {what}, "
          f"{config.strengths[-1]:g} deviations",
          float(np.mean(values)),
          baseline=float(np.mean(metrics[base]["rmse"][at])),
          baseline_name=base,
          better="lower",
          spread=float(np.std(values)),
          note=f"The least-squares fit before the outliers has "
          f"{np.mean(metrics['clean fit']['rmse'][at]):.3f}."
          if name == OURS[0]
          else "",
        )
      )
  return rows


def _claims(config: Config, metrics: dict[str, Any]) -> list[Claim]:
  far = max(config.strengths)

  def ratios(names: tuple[str, ...], kind: str, share: float) -> dict[str, float]:
    return {n: _ratio(config, metrics, n, kind, far, share) for n in names}

  above = metrics["checks"]["above_exact"]
  claims = [
    Claim(
      "Least absolute deviations by ADMM, Douglas-Rachford and Chambolle-Pock all reach the "
      "optimum of a linear programming solver (HiGHS) to 1e-5 of the objective.",
      max(above.values()) < 1e-5,
      above,
    )
  ]
  least = ratios(("least squares",), "target", 0.1)
  convex, bounded = ratios(CONVEX, "target", 0.2), ratios(BOUNDED, "target", 0.4)
  claims.append(
    Claim(
      "Gross errors of the target: 10 % double the error of least squares, while the convex robust "
      "losses stay within 15 % of the clean fit up to a share of 20 %.",
      min(least.values()) > 2 and max(convex.values()) < _BROKEN,
      {"least squares, 10 %": least["least squares"]}
      | {f"{n}, 20 %": v for n, v in convex.items()},
    )
  )
  convex = ratios(CONVEX, "target", 0.4)
  claims.append(
    Claim(
      "At 40 % gross errors of the target the convex robust losses are 50 % above the clean fit or "
      "more, the bounded ones within 5 %.",
      min(convex.values()) > 1.5 and max(bounded.values()) < 1.05,
      convex | bounded,
    )
  )
  convex, bounded = ratios(CONVEX, "leverage", 0.1), ratios(BOUNDED, "leverage", 0.2)
  claims.append(
    Claim(
      "10 % leverage points break the convex robust losses; the bounded ones stay within 10 % of "
      "the clean fit up to a share of 20 %.",
      min(convex.values()) > _BROKEN and max(bounded.values()) < 1.1,
      {f"{n}, 10 %": v for n, v in convex.items()} | {f"{n}, 20 %": v for n, v in bounded.items()},
    )
  )
  everything = ratios(METHODS, "leverage", 0.4)
  claims.append(
    Claim(
      "40 % leverage points break every method, the bounded losses and RANSAC included.",
      min(everything.values()) > _BROKEN,
      everything,
    )
  )
  change = {n: metrics["checks"][n]["largest_change"] for n in BOUNDED}
  claims.append(
    Claim(
      "On the bounded losses ADMM does not settle, but ends below the objective of its start in "
      "every problem.",
      max(change.values()) < 0,
      change,
    )
  )
  return claims


_STYLES = {
  "least squares": ("0.55", "-", "s"),
  "scikit-learn Huber": ("C4", ":", "v"),
  "scikit-learn RANSAC": ("C5", ":", "^"),
  "least absolute deviations": ("C0", "-", "o"),
  "Huber": ("C1", "-", "o"),
  "trimmed start": ("C7", "--", "x"),
  "MCP loss": ("C2", "-", "D"),
  "capped l1 loss": ("C3", "-", "D"),
}


def figure(record: dict[str, Any]) -> Any:
  """Error on clean rows over the share of outliers, a panel for each kind and strength."""
  metrics, settings = record["metrics"], record["settings"]
  strengths, shares = settings["strengths"], np.asarray(settings["shares"]) * 100
  fig, axes = new_figure(len(KINDS), len(strengths), width=4.6, height=3.3)
  titles = {"target": "Gross errors of the target", "leverage": "Leverage points"}
  clean = np.asarray(metrics["clean fit"]["rmse"])
  for index, (a, b) in enumerate(itertools.product(range(len(KINDS)), range(len(strengths)))):
    ax = axes[index]
    for name, (color, line, marker) in _STYLES.items():
      values = np.asarray(metrics[name]["rmse"])[a, b]
      style = {"color": color, "ls": line, "marker": marker, "ms": 4, "label": name}
      ax.plot(shares, values.mean(-1), **style)
      if name in BOUNDED:
        spread = values.std(-1)
        mean = values.mean(-1)
        ax.fill_between(shares, mean - spread, mean + spread, color=color, alpha=0.12, lw=0)
    ax.axhline(clean[a, b].mean(), color="k", lw=0.8)
    ax.set(
      title=f"{titles[KINDS[a]]}, {strengths[b]:g} deviations",
      xlabel="share of outliers (%)",
      ylabel="RMSE on clean rows (deviations)",
      ylim=(0.65, 2.05),
      xticks=shares,
    )
  handles, labels = axes[0].get_legend_handles_labels()
  handles.append(axes[0].lines[-1])
  labels.append("fit without outliers (bands: one deviation)")
  fig.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
  return fig
