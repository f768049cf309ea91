"""Choosing Lasso and elastic-net strengths on held-out data by implicit gradients."""

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import datasets
from experiments._earlier import Claim, Outcome, Row
from experiments._protocol import Paper, Progress, new_figure
from jaxopt_robust import prox, solvers, sweeps

PAPER = Paper(
  title="Implicit differentiation for fast hyperparameter selection in non-smooth convex learning",
  authors="Bertrand, Klopfenstein, Massias, Blondel, Vaiter, Gramfort and Salmon",
  year=2022,
  claim="Descent along the implicit gradient of the validation error finds strengths as good as "
  "those of a grid with a fraction of the solves, and goes on working where there are too many "
  "strengths for a grid.",
  section="Section 4 (Lasso, elastic net), weighted Lasso of section 2",
  url="https://jmlr.org/papers/v23/21-0486.html",
)
DEMO = True


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings.

  Attributes:
    seeds: number of random splits into training, validation and test rows.
    interactions: whether squares and products of the features are added.
    grid: strengths of the grid search; the elastic net's grid has about as many pairs.
    steps: hyper-gradient steps, one solve each, also the number of random trials.
    learning_rate: step size of Adam on the logarithms of the strengths.
    depth: the search range reaches from the largest useful strength down to exp(-depth) of it.
    tol: bound on the gradient mapping at a solution.
    max_steps: limit of FISTA steps.
  """

  seeds: int = 5
  interactions: bool = True
  grid: int = 100
  steps: int = 25
  learning_rate: float = 0.3
  depth: float = 7.0
  tol: float = 1e-11
  max_steps: int = 20_000


SIZES = {
  "toy": Config(seeds=1, interactions=False, grid=9, steps=5),
  "desk": Config(),
  "large": Config(seeds=20, steps=50),
}


class Data(NamedTuple):
  """Standardised rows and centred targets of one split; ``step`` is 1/L of the squared error."""

  x_train: jax.Array
  y_train: jax.Array
  x_val: jax.Array
  y_val: jax.Array
  x_test: jax.Array
  y_test: jax.Array
  step: jax.Array


def load_split(seed: int, interactions: bool) -> Data:
  """The diabetes data with squares and products, half for training, a quarter each for the rest."""
  table = datasets.load("diabetes")
  x, y = table["x"], table["y"]
  if interactions:
    first, second = np.triu_indices(x.shape[1])
    products = x[:, first] * x[:, second]
    # The square of the two-valued feature (sex) repeats the feature itself.
    two_valued = np.array([len(np.unique(column)) == 2 for column in x.T])
    products = products[:, ~((first == second) & two_valued[first])]
    x = np.concatenate([x, products], axis=1)
  train, val, test = datasets.split(len(x), (0.5, 0.25, 0.25), seed)
  x_train, x_val, x_test = datasets.standardise(x[train], x[val], x[test])
  mean, scale = y[train].mean(), y[train].std()
  y_train, y_val, y_test = ((y[rows] - mean) / scale for rows in (train, val, test))
  lipschitz = np.linalg.norm(x_train, 2) ** 2 / len(x_train)
  arrays = (x_train, y_train, x_val, y_val, x_test, y_test, 1 / lipschitz)
  return Data(*(jnp.asarray(a, jnp.float64) for a in arrays))


def squared_error(w: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
  """1/(2n) ||x w - y||^2, scikit-learn's scaling."""
  return 0.5 * jnp.mean((x @ w - y) ** 2)


def mean_square(w: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
  """Mean squared error."""
  return jnp.mean((x @ w - y) ** 2)


# The penalties as functions of the logarithms of their strengths.


def lasso(w: Any, log_strength: jax.Array, scaling: Any) -> Any:
  """One strength, or one for each feature."""
  return prox.prox_lasso(w, jnp.exp(log_strength), scaling)


def elastic_net(w: Any, log_strengths: jax.Array, scaling: Any) -> Any:
  """a_1 ||w||_1 + a_2/2 ||w||^2."""
  l1, l2 = jnp.exp(log_strengths[0]), jnp.exp(log_strengths[1])
  return prox.prox_elastic_net(w, (l1, l2 / l1), scaling)


class Search(NamedTuple):
  """Compiled searches over the strengths of one penalty, for all splits at once.

  Each is a sweep: its arguments have a leading axis of splits.

  Attributes:
    evaluate: ``evaluate(log_strengths[splits, k, ...], data)``, k solves a split.
    descend: ``descend(log_strength[splits, ...], data)``, the paths of the hyper-gradient descent.
    gradient: ``gradient(log_strength[splits, ...], data)`` of the validation errors.
  """

  evaluate: Callable[..., Any]
  descend: Callable[..., Any]
  gradient: Callable[..., Any]


def make_search(prox_fn: Callable[..., Any], config: Config) -> Search:
  """Builds the three sweeps."""

  def fit(w0: jax.Array, log_strength: jax.Array, data: Data) -> tuple[jax.Array, Any]:
    solver = solvers.fista(squared_error, prox_fn, stepsize=data.step)
    run = functools.partial(solvers.run_until, solver, tol=config.tol, max_steps=config.max_steps)
    residual = solvers.proximal_residual(squared_error, prox_fn)
    solve = solvers.implicit(run, residual, linear_solve=solvers.solve_dense)
    return solve(w0, log_strength, data.x_train, data.y_train)

  def validation(
    log_strength: jax.Array, w0: jax.Array, data: Data
  ) -> tuple[jax.Array, tuple[jax.Array, Any]]:
    w, info = fit(w0, log_strength, data)
    return mean_square(w, data.x_val, data.y_val), (w, info)

  def start(data: Data) -> jax.Array:
    return jnp.zeros(data.x_train.shape[1], data.x_train.dtype)

  def evaluate(log_strengths: jax.Array, data: Data) -> Any:
    def one(log_strength: jax.Array) -> Any:
      error, (w, info) = validation(log_strength, start(data), data)
      return error, mean_square(w, data.x_test, data.y_test), w, info.status

    return jax.vmap(one)(log_strengths)

  def descend(log_strength: jax.Array, data: Data) -> Any:
    optimizer = optax.adam(config.learning_rate)

    def step(carry: Any, _: None) -> Any:
      theta, opt_state, w0 = carry
      (error, (w, info)), grad = jax.value_and_grad(validation, has_aux=True)(theta, w0, data)
      updates, opt_state = optimizer.update(grad, opt_state)
      test = mean_square(w, data.x_test, data.y_test)
      record = (theta, error, test, w, info.status, info.steps)
      return (optax.apply_updates(theta, updates), opt_state, w), record

    carry = (log_strength, optimizer.init(log_strength), start(data))
    return jax.lax.scan(step, carry, None, length=config.steps)[1]

  def gradient(log_strength: jax.Array, data: Data) -> Any:
    return jax.grad(lambda t: validation(t, start(data), data)[0])(log_strength)

  return Search(*(jax.jit(sweeps.sweep(fn)) for fn in (evaluate, descend, gradient)))


def largest_strength(data: Data) -> np.ndarray:
  """Logarithm of max_j |x_j^T y| / n of each split, above which the Lasso is zero."""
  correlations = np.einsum("snp,sn->sp", data.x_train, data.y_train) / data.y_train.shape[1]
  return np.log(np.abs(correlations).max(axis=1))


def compare_with_scikit_learn(
  log_strengths: np.ndarray, w: np.ndarray, data: Data
) -> dict[str, float]:
  """Differences between our Lasso solutions and those of scikit-learn's coordinate descent.

  The products of the features are nearly collinear, so that some of scikit-learn's solves end at
  its step limit: coefficients are compared where it reached its tolerance, objectives everywhere.
  """
  from sklearn.exceptions import ConvergenceWarning
  from sklearn.linear_model import lasso_path

  x, y = np.asarray(data.x_train), np.asarray(data.y_train)
  alphas, tol = np.exp(log_strengths), 1e-12
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", ConvergenceWarning)
    _, coefficients, gaps = lasso_path(x, y, alphas=alphas, tol=tol, max_iter=100_000)
  peer = coefficients.T

  def objective(w: np.ndarray) -> np.ndarray:
    return 0.5 * np.mean((w @ x.T - y) ** 2, axis=1) + alphas * np.abs(w).sum(axis=1)

  # lasso_path scales its gap by n, as it does its tolerance.
  reached = gaps * len(y) <= tol * (y @ y)
  return {
    "coefficients": float(np.abs(w - peer)[reached].max(initial=0.0)),
    "ours_above": float((objective(w) - objective(peer)).max()),
    "peer_not_converged": int(np.count_nonzero(~reached)),
  }


def run(config: Config, progress: Progress) -> Outcome:
  """Runs every search on every split."""
  with jax.enable_x64(True):
    return _run(config, progress)


def _run(config: Config, progress: Progress) -> Outcome:
  one, two = make_search(lasso, config), make_search(elastic_net, config)
  call = progress.clock.call
  side = max(2, round(config.grid**0.5))
  names = (
    "grid", "random", "hypergradient", "net grid", "net random", "net hypergradient",
    "weighted hypergradient",
  )  # fmt: skip
  keys = ("validation", "test", "used", "solves_to_goal")
  metrics: dict[str, dict[str, Any]] = {n: {k: [] for k in keys} for n in names}
  checks: dict[str, list[Any]] = {"peer": [], "gradient": [], "unsolved": []}
  drawing: dict[str, Any] = {}

  def book(name: str, seed: int, validation: Any, test: Any, w: Any, status: Any) -> int:
    """One search's best solve on the validation rows of one split."""
    validation, test, w, status = (leaf[seed] for leaf in (validation, test, w, status))
    best = int(np.argmin(validation))
    metrics[name]["validation"].append(float(validation[best]))
    metrics[name]["test"].append(float(test[best]))
    metrics[name]["used"].append(int(np.count_nonzero(w[best])))
    checks["unsolved"].append(int(np.count_nonzero(status)))
    # Solves until 1 % above the best of the grid with the same penalty; one more than all if never.
    grid_name = "net grid" if name.startswith("net") else "grid"
    good = np.asarray(validation) <= 1.01 * metrics[grid_name]["validation"][seed]
    metrics[name]["solves_to_goal"].append(
      int(np.argmax(good)) + 1 if good.any() else len(good) + 1
    )
    return best

  seeds = range(config.seeds)
  splits = [load_split(seed, config.interactions) for seed in seeds]
  data = jax.tree.map(lambda *leaves: jnp.stack(leaves), *splits)
  top = largest_strength(data)
  grid = np.linspace(top, top - config.depth, config.grid, axis=1)
  draws = np.stack([np.random.default_rng(s).random((config.steps, 2)) for s in seeds])
  trials = top[:, None, None] - config.depth * draws
  middle = jnp.asarray(top - 0.5 * config.depth)
  axis = np.linspace(0.0, -config.depth, side)
  pairs = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(1, -1, 2)

  # One strength, two strengths, then one for each feature from the best common one.
  found = {}
  stages = {
    "grid": lambda: call(one.evaluate, jnp.asarray(grid), data, name="grid"),
    "random": lambda: call(one.evaluate, jnp.asarray(trials[..., 0]), data, name="random"),
    "hypergradient": lambda: call(one.descend, middle, data, name="hypergradient"),
    "net grid": lambda: call(
      two.evaluate, jnp.asarray(top[:, None, None] + pairs), data, name="net grid"
    ),
    "net random": lambda: call(two.evaluate, jnp.asarray(trials), data, name="net random"),
    "net hypergradient": lambda: call(
      two.descend, jnp.stack([middle, middle], axis=1), data, name="net hypergradient"
    ),
    "weighted hypergradient": lambda: call(
      one.descend, weighted_start(), data, name="weighted hypergradient"
    ),
  }

  def weighted_start() -> jax.Array:
    best = np.argmin(found["grid"][0], axis=1)
    common = jnp.asarray(np.take_along_axis(grid, best[:, None], axis=1))
    return jnp.broadcast_to(common, (config.seeds, data.x_train.shape[2]))

  for name in progress.track(names, "searches"):
    out = stages[name]()
    theta, out = (out[0], out[1:5]) if "hypergradient" in name else (None, out)
    found[name] = out
    for seed in seeds:
      book(name, seed, *out)
    if name == "grid":
      drawing |= {"strengths": grid[0] - top[0], "grid_validation": out[0][0]}
      drawing |= {"grid_test": out[1][0]}
    if name == "hypergradient":
      drawing |= {"path": theta[0] - top[0], "path_validation": out[0][0]}
    if name == "net hypergradient":
      drawing |= {"net_path_validation": out[0][0]}
    if name == "weighted hypergradient":
      drawing |= {"weighted_path_validation": out[0][0], "weighted_path_test": out[1][0]}

  for seed in progress.track(seeds, "scikit-learn"):
    checks["peer"].append(
      compare_with_scikit_learn(grid[seed], np.asarray(found["grid"][2][seed]), splits[seed])
    )

  # The implicit gradient against central differences of the solved problem.
  exact = np.asarray(call(one.gradient, middle, data, name="gradient"))
  width = 1e-4
  around, *_ = one.evaluate(jnp.stack([middle - width, middle + width], axis=1), data)
  numeric = np.asarray(around[:, 1] - around[:, 0]) / (2 * width)
  checks["gradient"] = (np.abs(exact - numeric) / np.maximum(np.abs(numeric), 1e-12)).tolist()

  solves = {
    "grid": config.grid, "random": config.steps, "hypergradient": config.steps,
    "net grid": side**2, "net random": config.steps, "net hypergradient": config.steps,
    "weighted hypergradient": config.grid + config.steps,
  }  # fmt: skip
  for name in names:
    metrics[name]["solves"] = solves[name]
  metrics["checks"] = {**checks, "features": int(data.x_train.shape[2])}
  metrics["drawing"] = drawing
  return Outcome(metrics, _table(metrics), _claims(metrics))


def _mean(metrics: dict[str, Any], name: str, key: str) -> float:
  return float(np.mean(metrics[name][key]))


def _table(metrics: dict[str, Any]) -> list[Row]:
  rows = []
  for ours, base, what in (
    ("hypergradient", "grid", "Lasso"),
    ("net hypergradient", "net grid", "elastic net"),
    ("weighted hypergradient", "grid", "Lasso, a strength a feature"),
  ):
    for key in ("validation", "test"):
      rows.append(
        Row(
          method=f"{what}: implicit gradient ({metrics[ours]['solves']} solves)",
          metric=f"{key} MSE",
          ours=_mean(metrics, ours, key),
          baseline=_mean(metrics, base, key),
          baseline_name=f"{base} ({metrics[base]['solves']} solves)",
          better="lower",
          spread=float(np.std(metrics[ours][key])),
          note="One strength a feature fits the validation rows themselves: the test error does "
          "not follow the validation error down."
          if ours.startswith("weighted") and key == "test"
          else "",
        )
      )
  for ours, base, what in (
    ("hypergradient", "random", "Lasso"),
    ("net hypergradient", "net random", "elastic net"),
  ):
    rows.append(
      Row(
        method=f"{what}: implicit gradient",
        metric="solves until within 1 % of the grid's best",
        ours=_mean(metrics, ours, "solves_to_goal"),
        baseline=_mean(metrics, base, "solves_to_goal"),
        baseline_name=base,
        better="lower",
        spread=float(np.std(metrics[ours]["solves_to_goal"])),
      )
    )
  return rows


def _claims(metrics: dict[str, Any]) -> list[Claim]:
  checks = metrics["checks"]
  peer = {k: max(c[k] for c in checks["peer"]) for k in checks["peer"][0]}
  claims = [
    Claim(
      "The grid's Lasso solutions equal scikit-learn's, and none has a higher objective.",
      peer["coefficients"] < 1e-6 and peer["ours_above"] < 1e-12,
      peer,
    ),
    Claim(
      "The implicit gradient equals central differences of the validation error.",
      max(checks["gradient"]) < 1e-4,
      {"largest relative difference": max(checks["gradient"])},
    ),
    Claim(
      "Every solve reached its tolerance.",
      sum(checks["unsolved"]) == 0,
      {"unsolved": sum(checks["unsolved"])},
    ),
  ]
  for ours, base, what in (
    ("hypergradient", "grid", "a Lasso strength"),
    ("net hypergradient", "net grid", "two elastic-net strengths"),
  ):
    numbers = {n: _mean(metrics, n, "validation") for n in (ours, base)}
    claims.append(
      Claim(
        f"With {metrics[ours]['solves']} solves instead of {metrics[base]['solves']}, descent "
        f"finds {what} whose validation error is within 1 % of the grid's best.",
        numbers[ours] <= 1.01 * numbers[base],
        numbers,
      )
    )
  numbers = {n: _mean(metrics, n, "validation") for n in ("weighted hypergradient", "grid")}
  claims.append(
    Claim(
      f"With one strength for each of {checks['features']} features, where no grid is possible, "
      "descent lowers the validation error below the best common strength's.",
      numbers["weighted hypergradient"] < numbers["grid"],
      numbers,
    )
  )
  return claims


def figure(record: dict[str, Any]) -> Any:
  """Validation error over the strength with the descent on it, and the three descents."""
  drawing, metrics = record["metrics"]["drawing"], record["metrics"]
  fig, axes = new_figure(1, 3)
  left, middle, right = axes
  left.plot(drawing["strengths"], drawing["grid_validation"], label="grid, validation")
  left.plot(drawing["strengths"], drawing["grid_test"], "--", label="grid, test")
  left.plot(drawing["path"], drawing["path_validation"], "o-", ms=3, label="implicit gradient")
  left.set(xlabel="log(strength / largest)", ylabel="mean squared error", title="Lasso, one split")
  left.legend(fontsize=8)
  for key, label in (
    ("path_validation", "1 strength"),
    ("net_path_validation", "2 strengths"),
    ("weighted_path_validation", f"{metrics['checks']['features']} strengths"),
  ):
    middle.plot(drawing[key], label=label)
  middle.plot(drawing["weighted_path_test"], "--", color="C2", label="the same, test")
  middle.set(xlabel="hyper-gradient step", ylabel="mean squared error", title="Descents")
  middle.legend(fontsize=8, loc=(0.5, 0.22))
  names = [n for n in metrics if n not in ("checks", "drawing")]
  for shift, key in ((-0.15, "validation"), (0.15, "test")):
    values = [metrics[n][key] for n in names]
    right.errorbar(
      [np.mean(v) for v in values], np.arange(len(names)) + shift,
      xerr=[np.std(v) for v in values], fmt="o", capsize=3, label=key,
    )  # fmt: skip
  right.set_yticks(
    np.arange(len(names)), [f"{n} ({metrics[n]['solves']})" for n in names], fontsize=8
  )
  right.invert_yaxis()
  right.set(xlabel="mean squared error", title="All splits (number of solves)")
  right.legend(fontsize=8, loc="upper left")
  return fig
