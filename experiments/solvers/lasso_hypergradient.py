"""Choosing Lasso and elastic-net strengths on held-out data by implicit gradients."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _figures, datasets
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
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
class Config(Settings):
  """Settings.

  Attributes:
    interactions: whether squares and products of the features are added.
    grid: strengths of the grid search; the elastic net's grid has about as many pairs.
    steps: hyper-gradient steps, one solve each, also the number of random trials.
    learning_rate: step size of Adam on the logarithms of the strengths.
    depth: the search range reaches from the largest useful strength down to exp(-depth) of it.
    tol: bound on the gradient mapping at a solution.
    max_steps: limit of FISTA steps.
  """

  seeds: int = 24
  interactions: bool = True
  grid: int = 100
  steps: int = 25
  learning_rate: float = 0.3
  depth: float = 7.0
  tol: float = 1e-11
  max_steps: int = 20_000


SIZES = {
  "toy": Size(
    Config(seeds=2, interactions=False, grid=4, steps=4, tol=1e-9),
    "10 features, 4 steps of descent.",
  ),
  "desk": Size(Config(), "Diabetes data with 64 features instead of sparse text and genes."),
  "large": Size(Config(seeds=48, steps=50), "The same data, more splits and steps."),
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


def lasso(w: Any, log_strength: jax.Array, scaling: Any) -> Any:
  """The penalty by the logarithm of its strength: one, or one for each feature."""
  return prox.prox_lasso(w, jnp.exp(log_strength), scaling)


def elastic_net(w: Any, log_strengths: jax.Array, scaling: Any) -> Any:
  """a_1 ||w||_1 + a_2/2 ||w||^2."""
  l1, l2 = jnp.exp(log_strengths[0]), jnp.exp(log_strengths[1])
  return prox.prox_elastic_net(w, (l1, l2 / l1), scaling)


def make_search(prox_fn: Callable[..., Any], config: Config) -> tuple[Callable, Callable]:
  """Two sweeps over the splits: solves at given strengths, and descent along implicit gradients.

  ``evaluate(log_strengths[splits, k, ...], data)`` and ``descend(log_strength[splits, ...], data)``
  both return validation errors, test errors and statuses, [splits, k or steps]; descent the path of
  strengths as well.
  """
  residual = solvers.proximal_residual(squared_error, prox_fn)

  def validation(log_strength: jax.Array, w0: jax.Array, data: Data) -> tuple[jax.Array, Any]:
    solver = solvers.fista(squared_error, prox_fn, stepsize=data.step)
    run = functools.partial(solvers.run_until, solver, tol=config.tol, max_steps=config.max_steps)
    solve = solvers.implicit(run, residual, linear_solve=solvers.solve_dense)
    w, info = solve(w0, log_strength, data.x_train, data.y_train)
    test = mean_square(w, data.x_test, data.y_test)
    return mean_square(w, data.x_val, data.y_val), (w, test, info.status)

  def start(data: Data) -> jax.Array:
    return jnp.zeros(data.x_train.shape[1], data.x_train.dtype)

  def evaluate(log_strengths: jax.Array, data: Data) -> Any:
    def one(log_strength: jax.Array) -> Any:
      error, (_, test, status) = validation(log_strength, start(data), data)
      return error, test, status

    return jax.vmap(one)(log_strengths)

  def descend(log_strength: jax.Array, data: Data) -> Any:
    optimizer = optax.adam(config.learning_rate)

    def step(carry: Any, _: None) -> Any:
      theta, opt_state, w0 = carry
      loss = jax.value_and_grad(validation, has_aux=True)
      (error, (w, test, status)), grad = loss(theta, w0, data)
      updates, opt_state = optimizer.update(grad, opt_state)
      return (optax.apply_updates(theta, updates), opt_state, w), (error, test, status, theta)

    carry = (log_strength, optimizer.init(log_strength), start(data))
    return jax.lax.scan(step, carry, None, length=config.steps)[1]

  return tuple(jax.jit(sweeps.sweep(fn)) for fn in (evaluate, descend))


def largest_strength(data: Data) -> np.ndarray:
  """Logarithm of max_j |x_j^T y| / n of each split, above which the Lasso is zero."""
  correlations = np.einsum("snp,sn->sp", data.x_train, data.y_train) / data.y_train.shape[1]
  return np.log(np.abs(correlations).max(axis=1))


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Runs every search on every split."""
  with jax.enable_x64(True):
    return _run(config, progress)


def _run(config: Config, progress: Progress) -> dict[str, Any]:
  (evaluate, descend), (net_evaluate, net_descend) = (
    make_search(penalty, config) for penalty in (lasso, elastic_net)
  )
  call = progress.clock.call
  splits = [load_split(seed, config.interactions) for seed in config.seed_numbers()]
  data = jax.tree.map(lambda *leaves: jnp.stack(leaves), *splits)
  top = largest_strength(data)
  grid = np.linspace(top, top - config.depth, config.grid, axis=1)
  draws = np.stack(
    [np.random.default_rng(s).random((config.steps, 2)) for s in config.seed_numbers()]
  )
  trials = top[:, None, None] - config.depth * draws
  middle = jnp.asarray(top - 0.5 * config.depth)
  axis = np.linspace(0.0, -config.depth, max(2, round(config.grid**0.5)))
  pairs = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(1, -1, 2)
  searches = {
    "grid": (evaluate, grid),
    "random": (evaluate, trials[..., 0]),
    "descent": (descend, middle),
    "net grid": (net_evaluate, top[:, None, None] + pairs),
    "net random": (net_evaluate, trials),
    "net descent": (net_descend, jnp.stack([middle, middle], axis=1)),
  }
  found = {
    name: call(search, jnp.asarray(where), data, name=name)
    for name, (search, where) in progress.track(searches.items(), "searches", total=6)
  }
  # One strength for each feature, from the best common one on.
  best = np.argmin(found["grid"][0], axis=1)[:, None]
  common = jnp.asarray(np.take_along_axis(grid, best, axis=1))
  common = jnp.broadcast_to(common, (config.seeds, data.x_train.shape[2]))
  found["weighted descent"] = call(descend, common, data, name="weighted descent")

  metrics: dict[str, Any] = {}
  for name, (validation, test, status, *_) in found.items():
    validation, test = np.asarray(validation), np.asarray(test)
    best = np.argmin(validation, axis=1)
    goal = np.min(found["net grid" if name.startswith("net") else "grid"][0], axis=1)
    good = validation <= 1.01 * goal[:, None]
    never = validation.shape[1] + 1
    metrics[name] = {
      "validation": validation.min(axis=1),
      "test": np.take_along_axis(test, best[:, None], axis=1)[:, 0],
      "solves": validation.shape[1],
      "solves_to_goal": np.where(good.any(axis=1), np.argmax(good, axis=1) + 1, never),
      "unsolved": np.count_nonzero(status, axis=1),
    }
  first = lambda name: found[name][0][0]
  drawing = {
    "strengths": grid[0] - top[0], "grid": first("grid"), "grid_test": found["grid"][1][0],
    "path": found["descent"][3][0] - top[0],
    "errors": {name: first(name) for name in found if "descent" in name},
    "weighted_test": found["weighted descent"][1][0],
  }  # fmt: skip
  return {"searches": metrics, "features": int(data.x_train.shape[2]), "drawing": drawing}


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Validation errors beside the grid's, solves beside random search, and the test errors."""
  found = metrics["searches"]
  side = lambda name, key: Side(f"{name} ({found[name]['solves']} solves)", found[name][key])
  error, count = "validation error", "solves until within 1 % of the grid's best"
  made = []
  for prefix, what in (("", "one Lasso strength"), ("net ", "two elastic-net strengths")):
    ours, key = prefix + "descent", prefix.strip() or "lasso"
    made += [
      Claim(
        f"{key}_grid", f"For {what} a quarter of the solves of a grid gives a validation error "
        "within 1 % of its best.", "paper", error, side(ours, "validation"),
        side(prefix + "grid", "validation"), better="lower", scale="ratio", margin=1 / 1.01,
      ),
      Claim(
        f"{key}_random", f"For {what} descent is there after fewer solves than random search.",
        "paper", count, side(ours, "solves_to_goal"), side(prefix + "random", "solves_to_goal"),
        better="lower",
      ),
    ]  # fmt: skip
  weighted = side("weighted descent", "validation")
  text = "With a strength for each feature, where no grid is possible, the validation error falls"
  made.append(
    Claim(
      "weighted", f"{text} below that of the best common strength.", "paper", error, weighted,
      side("grid", "validation"), better="lower", scale="ratio",
    )
  )  # fmt: skip
  made.append(
    Claim(
      "test_rows", "On test rows one strength found by descent is worth that of the grid.",
      "control", "test error (variance of the targets 1)", side("descent", "test"),
      side("grid", "test"), better="lower", margin=0.01,
    )
  )  # fmt: skip
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Errors and solves of every search beside the grid of its penalty."""
  found, note = metrics["searches"], "One strength a feature fits the validation rows themselves."
  labels = {"validation": "validation MSE", "test": "test MSE", "unsolved": "unfinished solves"}
  return [
    Row(what, Side(name, entry[key]), Side(base, found[base][key]), better="lower", note=note)
    for name, entry in found.items()
    if "grid" not in name
    for base in ["net grid" if name.startswith("net") else "grid"]
    for key, what in labels.items()
  ]


def figure(record: dict[str, Any]) -> Any:
  """Validation error over the strength with the descent on it, three descents, all searches."""
  drawing, found = record["metrics"]["drawing"], record["metrics"]["searches"]
  fig, (left, middle, right) = new_figure(1, 3)
  left.plot(drawing["strengths"], drawing["grid"], label="grid, validation")
  left.plot(drawing["strengths"], drawing["grid_test"], "--", label="grid, test")
  left.plot(drawing["path"], drawing["errors"]["descent"], "o-", ms=3, label="descent")
  left.set(xlabel="log(strength / largest)", ylabel="mean squared error", title="Lasso, one split")
  left.legend(fontsize=8)
  labels = ("1 strength", "2 strengths", f"{record['metrics']['features']} strengths")
  lines = dict(zip(labels, drawing["errors"].values(), strict=True))
  lines["the same, test"] = drawing["weighted_test"]
  _figures.curves(
    middle, lines, xlabel="hyper-gradient step", ylabel="mean squared error", title="Descents"
  )
  errors = {key: {n: v[key] for n, v in found.items()} for key in ("validation", "test")}
  _figures.dots(right, errors, ylabel="mean squared error", title="All splits, 95 % intervals")
  return fig
