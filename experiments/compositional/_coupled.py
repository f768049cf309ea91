"""Two finite sums of functions of expectations, with their exact values and minima."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import numerics

WEIGHT_DECAY = 0.005  # of the partial AUC problem, times ||w||^2


class Problem(NamedTuple):
  """Functions of one problem; ``data`` is a tuple of arrays.

  Attributes:
    draw: ``draw(seed) -> data``.
    inner: ``inner(w, index, columns, data) -> float[batch]``.
    true_values: ``true_values(w, data) -> float[num_examples]``, exact inner values.
    exact: ``exact(w, data) -> scalar``, the objective.
    regulariser: ``regulariser(w) -> scalar``, its part outside of the composition.
    domain: "log" or "linear".
    examples: number of outer examples.
    columns: number of inner samples.
    steps: of a run.
  """

  draw: Callable[[int], Any]
  inner: Callable[..., jax.Array]
  true_values: Callable[..., jax.Array]
  exact: Callable[..., jax.Array]
  regulariser: Callable[[jax.Array], jax.Array]
  domain: str
  examples: int
  columns: int
  steps: int


def partial_auc(config: Any) -> Problem:
  """Two Gaussian classes; lam mean_i log mean_j exp(softplus(-(s_i - s_j)) / lam)."""
  lam = config.temperature

  def draw(seed: int) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(seed)
    positive = rng.standard_normal((config.positives, config.dimension)) + 0.4
    negative = rng.standard_normal((config.negatives, config.dimension)) - 0.1
    return jnp.asarray(positive, jnp.float32), jnp.asarray(negative, jnp.float32)

  def true_values(w: jax.Array, data: Any) -> jax.Array:
    gap = (data[0] @ w)[:, None] - (data[1] @ w)[None, :]
    return numerics.log_mean_exp(jax.nn.softplus(-gap) / lam)

  regulariser = lambda w: WEIGHT_DECAY * jnp.sum(w * w)
  return Problem(
    draw,
    lambda w, index, columns, data: true_values(w, (data[0][index], data[1][columns])),
    true_values,
    lambda w, data: lam * jnp.mean(true_values(w, data)) + regulariser(w),
    regulariser,
    "log", config.positives, config.negatives, config.steps,
  )  # fmt: skip


def bounded(config: Any) -> Problem:
  """mean_i (mean_j 2 tanh(a_ij w + b_ij) - c_i)^2, a regression on expectations that fits exactly.

  The inner values are bounded, whatever the parameters. A plug-in also minimises their variance.
  """
  n, m, d = 50, 200, config.dimension

  def draw(seed: int) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(seed)
    slopes = rng.standard_normal((n, m, d)) + rng.standard_normal((n, 1, d))
    shifts, truth = rng.standard_normal((n, m)), rng.standard_normal(d) / np.sqrt(d)
    targets = np.mean(2 * np.tanh(slopes @ truth + shifts), axis=1)
    return tuple(jnp.asarray(v, jnp.float32) for v in (slopes, shifts, targets))

  def true_values(w: jax.Array, data: Any) -> jax.Array:
    return jnp.mean(2 * jnp.tanh(data[0] @ w + data[1]), axis=1) - data[2]

  def inner(w: jax.Array, index: jax.Array, columns: jax.Array, data: Any) -> jax.Array:
    place = (index[:, None], columns[None, :])
    return true_values(w, (data[0][place], data[1][place], data[2][index]))

  return Problem(
    draw, inner, true_values, lambda w, data: jnp.mean(true_values(w, data) ** 2),
    lambda w: jnp.zeros((), w.dtype), "linear", n, m, config.bounded_steps,
  )  # fmt: skip


def least_values(problem: Problem, dimension: int, data: list[Any]) -> np.ndarray:
  """Minimum of the exact objective on each seed's data, by L-BFGS in float64."""
  from scipy.optimize import minimize

  found = []
  with jax.enable_x64(True):
    value_and_grad = jax.jit(jax.value_and_grad(problem.exact))
    for seed in data:
      arrays = [jnp.asarray(np.asarray(v, np.float64)) for v in seed]
      fun = lambda w, arrays=arrays: jax.tree.map(np.asarray, value_and_grad(w, arrays))
      found.append(minimize(fun, np.zeros(dimension), jac=True, method="L-BFGS-B", tol=1e-12).fun)
  return np.array(found)
