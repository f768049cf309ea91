"""Gradients of expectations by the score function (REINFORCE), and a search of designs by them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust._units import exponent_of, power
from jaxopt_robust.surrogates._searches import Bounds, confine_to, one_a_design
from jaxopt_robust.surrogates.gaussian_designs import (
  GaussianDesigns,
  check_designs,
  design_log_prob,
  sample_designs,
)
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["ReinforceInfo", "reinforce_search", "score_function_surrogate"]

BASELINES = ("leave_one_out", "standardized", "none")


class ReinforceInfo(NamedTuple):
  """What a search saw, a number a step.

  Attributes:
    predictions: float[num_steps], mean prediction of the designs drawn.
    spreads: float[num_steps], mean standard deviation of the distribution that they were drawn of.
  """

  predictions: Array
  spreads: Array


def score_function_surrogate(
  log_probs: ArrayLike,
  losses: ArrayLike,
  *,
  baseline: str = "leave_one_out",
  where: ArrayLike | None = None,
) -> Array:
  r"""A scalar whose gradient estimates that of an expected loss of samples (REINFORCE).

  Computes (1/n) sum_i a_i log p(x_i) with the advantages a held fixed:

    "leave_one_out":  a_i = l_i - (1/(n-1)) sum_{j != i} l_j,
    "standardized":   a_i = (l_i - mean l) / sqrt(mean (l - mean l)^2),
    "none":           a_i = l_i.

  Its gradient has the mean grad E_p[l(x)] for "leave_one_out" and "none", which varies more;
  "standardized" is that up to a factor, and biased for few samples, but does not know units.

  Args:
    log_probs: float[n], log p(x_i) of samples that are held fixed, a function of the parameters
      that are differentiated.
    losses: float[n], l_i, to be minimised.
    baseline: "leave_one_out", "standardized" or "none"; static.
    where: bool[n]; samples where it is false count for nothing.

  Returns:
    float scalar of the dtype of ``log_probs``. Its value means nothing. NaN that is not masked
    stays NaN.

  Raises:
    ValueError: shapes differ, an unknown baseline, or fewer than 2 samples with a baseline.
    TypeError: an array is not floating-point, or the mask is not boolean.

  Note:
    Equal losses have the gradient 0 with a baseline, and so has a single one that a mask leaves.

  Example:
    >>> x, losses = jnp.array([-1.0, 1.0]), jnp.array([3.0, 5.0])
    >>> log_prob = lambda mean: -0.5 * (x - mean) ** 2  # of N(mean, 1), up to a constant
    >>> jax.grad(lambda mean: score_function_surrogate(log_prob(mean), losses))(0.0)
    Array(2., dtype=float32, weak_type=True)

  Reference:
    Williams, Simple statistical gradient-following algorithms for connectionist reinforcement
    learning, 1992; Kool, van Hoof and Welling, Buy 4 REINFORCE samples, get a baseline for free,
    2019 (leave one out).
  """
  logs = _checks.check_float_array("log_probs", log_probs, rank=1)
  costs = _checks.check_float_array("losses", losses, rank=1)
  _checks.check_same_shape("losses", costs, "log_probs", logs)
  _arguments.check_option("baseline", baseline, BASELINES)
  if baseline != "none" and len(logs) < 2:
    raise ValueError(f"log_probs must hold at least 2 samples for a baseline; got {len(logs)}.")
  mask = _checks.check_mask("where", where, shape=logs.shape)
  keep = jnp.ones(logs.shape, bool) if mask is None else mask
  wide = jnp.where(keep, numerics.upcast(costs), 0)
  count = jnp.sum(keep).astype(wide.dtype)
  if baseline == "none":
    advantages = wide
  else:
    # From the largest: what is left of equal losses is exactly 0.
    below = jnp.where(keep, wide - jnp.max(jnp.where(keep, wide, -jnp.inf)), 0)
    unit = power(exponent_of(jnp.max(jnp.abs(below))), below.dtype)  # their sum may be out of range
    below = below / unit
    center = jnp.where(keep, below - jnp.sum(below) / jnp.maximum(count, 1), 0)
    if baseline == "leave_one_out":
      advantages = unit * (center * jnp.where(count > 1, count / jnp.maximum(count - 1, 1), 0))
    else:
      root = numerics.safe_norm(center) / jnp.sqrt(jnp.maximum(count, 1))
      advantages = numerics.safe_divide(center, root)
  products = jax.lax.stop_gradient(advantages) * jnp.where(keep, numerics.upcast(logs), 0)
  return (jnp.sum(products) / jnp.maximum(count, 1)).astype(logs.dtype)


def reinforce_search(
  objective: Callable[[Array], Array],
  designs: GaussianDesigns,
  key: Array,
  *,
  optimizer: optax.GradientTransformation | None = None,
  num_samples: int = 2048,
  num_steps: int = 200,
  baseline: str = "standardized",
  bounds: Bounds = None,
) -> tuple[GaussianDesigns, ReinforceInfo]:
  r"""Moves a distribution over designs to where a model predicts most, by samples alone.

  Maximises E[objective(x)] over the mean and the log_std of x ~ N(mean, diag(std^2)): a step draws
  ``num_samples`` designs and hands the gradient of ``score_function_surrogate`` (of -objective) to
  an optimizer. The model needs no derivative.

  Args:
    objective: maps float[num_samples, ...] to float[num_samples], the model's prediction.
    designs: GaussianDesigns to start from, such as ``fit_gaussian_designs`` of the best data.
    key: typed PRNG key.
    optimizer: any optax chain that needs gradients alone (no line search); None takes
      ``optax.adam(0.01)``, which suits designs of unit variance.
    num_samples: static integer >= 2.
    num_steps: static integer >= 1.
    baseline: as in ``score_function_surrogate``.
    bounds: (low, high) of every entry, or None: the objective sees clipped designs.

  Returns:
    ``(designs, info)``: the GaussianDesigns after the last step and a ReinforceInfo. Designs are
    drawn of it by ``sample_designs``, and clipped by the caller. No derivative in the model.

  Raises:
    ValueError: a number is out of range, or an objective that does not return one number a design.
    TypeError: as the arguments say.

  Note:
    Designs whose prediction is not finite count for nothing.

  Example:
    >>> peak = lambda x: -jnp.sum((x - 2.0) ** 2, axis=1)
    >>> start = GaussianDesigns(jnp.zeros(2), jnp.zeros(2))
    >>> found, info = reinforce_search(
    ...   peak, start, jax.random.key(0), optimizer=optax.adam(0.1), num_samples=64, num_steps=100)
    >>> bool(jnp.all(jnp.abs(found.mean - 2.0) < 0.2))
    True

  Reference:
    Williams, Simple statistical gradient-following algorithms for connectionist reinforcement
    learning, 1992; Trabucco, Geng, Kumar and Levine, Design-Bench: benchmarks for data-driven
    offline model-based optimization, 2022 (the baseline REINFORCE).
  """
  _arguments.check_callable("objective", objective)
  start = check_designs("designs", designs)
  key = _checks.check_key("key", key)
  chain = optax.adam(0.01) if optimizer is None else optimizer
  _arguments.check_optimizer("optimizer", chain)
  num_samples = _checks.check_int("num_samples", num_samples, minimum=2)
  num_steps = _checks.check_int("num_steps", num_steps, minimum=1)
  _arguments.check_option("baseline", baseline, BASELINES)
  confine, predict = confine_to(bounds, start.mean), one_a_design(objective, num_samples)

  def step(carry: tuple, key: Array) -> tuple[tuple, ReinforceInfo]:
    now, state = carry
    x = jax.lax.stop_gradient(sample_designs(key, now, num=num_samples))
    values = jax.lax.stop_gradient(predict(confine(x)))
    finite = jnp.isfinite(values)

    def loss(search: GaussianDesigns) -> Array:
      logs = design_log_prob(search, x)
      return score_function_surrogate(logs, -values, baseline=baseline, where=finite)

    updates, state = chain.update(jax.grad(loss)(now), state, now)
    seen = ReinforceInfo(numerics.masked_mean(values, finite), jnp.mean(jnp.exp(now.log_std)))
    return (optax.apply_updates(now, updates), state), seen

  (found, _), info = jax.lax.scan(
    step, (start, chain.init(start)), jax.random.split(key, num_steps)
  )
  return found, info
