"""Smooth problems with inexact models of their Hessians: synthetic ones, regression on tables."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets
from jaxopt_robust import solvers

OWN_DRAW = 3124  # seed of the public notebook of the authors of gradient-normalized smoothness
RIDGE = 1e-3


class Data(NamedTuple):
  """A problem: a matrix and a vector, a number (mu, p or ridge), a factor, B, f* and the start."""

  a: jax.Array
  b: jax.Array
  number: jax.Array
  factor: jax.Array
  metric: jax.Array
  best: jax.Array
  start: jax.Array


def scores(x: jax.Array, d: Data) -> jax.Array:
  return d.a @ x - d.b


def log_sum_exp(x: jax.Array, d: Data) -> jax.Array:
  return d.number * jax.nn.logsumexp(scores(x, d) / d.number)


def rosenbrock(x: jax.Array, d: Data) -> jax.Array:
  return jnp.stack([1 - x[0], 10 * (x[1] - x[0] ** 2)])


def chebyshev(x: jax.Array, d: Data) -> jax.Array:
  return jnp.concatenate([0.5 * (1 - x[:1]), x[1:] - 2 * x[:-1] ** 2 + 1])


def logistic(w: jax.Array, d: Data) -> jax.Array:
  return jax.nn.softplus(-d.b * (d.a @ w))


def softmax(w: jax.Array, d: Data) -> jax.Array:
  logits = d.a @ w.reshape(d.a.shape[1], -1)
  chosen = jnp.take_along_axis(logits, d.b[:, None], axis=1)[:, 0]
  return jax.nn.logsumexp(logits, axis=1) - chosen


class Family(NamedTuple):
  """An objective of (x, data), its inexact model, and whether there is a metric."""

  fun: Callable
  model: Callable
  name: str
  has_metric: bool = False
  real: bool = False


def powers(residual: Callable) -> tuple[Callable, Callable]:
  """c/p ||u||^p and its Gauss-Newton model."""

  def fun(x: jax.Array, d: Data) -> jax.Array:
    return d.factor / d.number * jnp.sum(residual(x, d) ** 2) ** (d.number / 2)

  def model(x: jax.Array, d: Data) -> jax.Array:
    return d.factor * solvers.power_norm_curvature(residual, power=d.number)(x, d)

  return fun, model


def means(losses: Callable) -> tuple[Callable, Callable]:
  """Mean loss with a ridge, and its empirical Fisher model with the same ridge."""

  def fun(w: jax.Array, d: Data) -> jax.Array:
    return jnp.mean(losses(w, d)) + 0.5 * RIDGE * jnp.sum(w**2)

  fisher = solvers.empirical_fisher(losses)
  return fun, lambda w, d: fisher(w, d) + RIDGE * jnp.eye(w.size)


FAMILIES = {
  "LogSumExp": Family(
    log_sum_exp, lambda x, d: solvers.log_sum_exp_curvature(scores, mu=d.number)(x, d),
    "weighted Gauss-Newton", has_metric=True,
  ),
  "equations": Family(
    powers(scores)[0], lambda x, d: solvers.power_norm_fisher(scores, power=d.number)(x, d),
    "Fisher, rank one", has_metric=True,
  ),
  "Rosenbrock": Family(*powers(rosenbrock), "Gauss-Newton"),
  "Chebyshev": Family(*powers(chebyshev), "Gauss-Newton"),
  "breast_cancer": Family(*means(logistic), "empirical Fisher", real=True),
  "digits": Family(*means(softmax), "empirical Fisher", real=True),
}  # fmt: skip


def _data(a: Any, b: Any, number: float, start: Any, best: float = 0.0, **more: Any) -> Data:
  d = Data(a, b, number, more.get("factor", 1.0), more.get("metric", 0.0), best, start)
  return Data(*(jnp.asarray(np.asarray(v)) for v in d))


def log_sum_exp_data(n: int, mu: float, seed: int) -> Data:
  """Uniform numbers, moved so that the optimum is at zero; the metric is that of the first ones."""
  rng = np.random.RandomState(seed)
  a, b = (rng.rand(n, n) * 2 - 1).T, rng.rand(n) * 2 - 1
  share = np.exp(-b / mu - np.max(-b / mu))
  best = mu * np.log(np.sum(np.exp(-b / mu)))
  moved = a - (share / share.sum()) @ a
  return _data(moved, b, mu, np.ones(n), best, metric=a.T @ a + 1e-10 * np.eye(n))


def equations_data(rows: int, columns: int, seed: int) -> Data:
  rng = np.random.RandomState(seed)
  a, b = rng.rand(rows, columns) * 2 - 1, rng.rand(rows) * 2 - 1
  metric = a.T @ a + 1e-8 * np.eye(columns)
  return _data(a, b, 4.0, np.ones(columns), metric=metric)


def table_data(name: str, components: int, seed: int) -> Data:
  """Four fifths of the rows, standardised, with a constant."""
  data = datasets.load(name)
  rows = datasets.split(len(data["y"]), (0.8,), seed)[0]
  (x,), y = datasets.standardise(data["x"][rows]), data["y"][rows]
  if name == "digits":
    x = x @ np.linalg.svd(x, full_matrices=False)[2][:components].T
  x = np.concatenate([x / x.std(0), np.ones((len(x), 1))], axis=1)
  size = x.shape[1] * (1 if name == "breast_cancer" else 10)
  return _data(x, y.astype(np.int32) if name == "digits" else 2.0 * y - 1, 0.0, np.zeros(size))


def tasks(name: str, config: Any) -> dict[str, list[Data]]:
  """The problems of a family, each with the authors' own draw first (real data: without)."""
  seeds = [OWN_DRAW, *config.seed_numbers()]
  if name == "LogSumExp":
    pairs = zip(config.sizes, config.mus, strict=True)
    return {
      f"LogSumExp, n = {n}, mu = {mu:g}": [log_sum_exp_data(n, mu, s) for s in seeds]
      for n, mu in pairs
    }
  if name == "equations":
    return {"equations, p = 4": [equations_data(config.rows, config.columns, s) for s in seeds]}
  if name == "Chebyshev":
    starts = [np.random.RandomState(s).rand(config.chain) for s in seeds]
    return {"Chebyshev, p = 4": [_data(0.0, 0.0, 4.0, start) for start in starts]}
  if name == "Rosenbrock":
    start = np.array([-2.0, 2.0])
    return {
      f"Rosenbrock{what}": [_data(0.0, 0.0, p, start, factor=c)]
      for what, p, c in ((", squares", 2.0, 2.0), (", p = 4", 4.0, 1.0), (", p = 5", 5.0, 1.0))
    }
  return {name: [table_data(name, config.components, s) for s in config.seed_numbers()]}
