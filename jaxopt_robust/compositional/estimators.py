"""Estimates of inner expectations g_i(w) = E g_i(w; xi), one number or vector an example."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.compositional import _examples
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "InnerEstimator",
  "InnerState",
  "inner_batch",
  "inner_ema",
  "inner_msvr",
  "inner_scent",
  "inner_storm",
]

Rate = ArrayLike | Callable[[Array], ArrayLike]


class InnerState(NamedTuple):
  """State of an inner estimator.

  Attributes:
    value: float[num_examples, ...], the estimates u_i, or log u_i in the log domain; -inf or 0
      where an example was not seen yet.
    seen: bool[num_examples], which examples have a value.
    previous: parameters of the last update, for the estimators that compare two points; else None.
    count: int32, updates done; rates that are schedules read it.
  """

  value: Array
  seen: Array
  previous: PyTree | None
  count: Array  # type: ignore[assignment]


class InnerEstimator(NamedTuple):
  """How inner values become estimates.

  Attributes:
    init: ``init(num_examples, params=None, *, shape=(), dtype=jnp.float32) -> InnerState``;
      ``shape`` is that of one inner value.
    update: ``update(state, index, values, previous=None, *, where=None) -> (InnerState,
      estimates)``, with ``values`` float[batch, ...] the inner values of the batch at the current
      parameters and ``previous`` those of the same sample at the parameters of the last update.
      Rows where bool[batch] ``where`` is false change nothing and have the estimate NaN. The
      parameters in the state are set by the caller (``fcco_value_and_grad`` does).
    needs_previous: whether ``previous`` is used.
    domain: "log" (values and estimates are logarithms) or "linear".
  """

  init: Callable[..., InnerState]
  update: Callable[..., tuple[InnerState, Array]]
  needs_previous: bool
  domain: str


# (old estimates, seen, values, previous values, size of the state, count) -> new estimates
_Rule = Callable[[Array, Array, Array, Array | None, int, Array], Array]


def inner_batch(*, domain: str = "log") -> InnerEstimator:
  r"""The batch's own value, without memory: u_i = g_i(w; xi).

  The plug-in of BSGD and of in-batch contrastive losses; biased, whatever the step size.

  Args:
    domain: "log" or "linear", what the values are.

  Returns:
    InnerEstimator.

  Raises:
    ValueError: an unknown domain.

  Example:
    >>> estimator = inner_batch()
    >>> state, u = estimator.update(estimator.init(3), jnp.array([1]), jnp.array([0.5]))
    >>> u
    Array([0.5], dtype=float32)

  Reference:
    Hu, Zhang, Chen and He, Biased stochastic first-order methods for conditional stochastic
    optimization and applications in meta learning, 2020.
  """
  return _make(lambda old, seen, g, before, n, count: g, domain)


def inner_ema(rate: Rate, *, domain: str = "log") -> InnerEstimator:
  r"""Moving average of an example's values: u_i <- (1 - gamma) u_i + gamma g_i(w; xi).

  The estimator of SCGD, NASA, SOAP, SogCLR and SOX; with one example it is a plain moving average.
  The first value of an example is taken whole. In the log domain values and estimates are
  logarithms, log u <- logaddexp(log(1 - gamma) + log u, log gamma + log g), without overflow.

  Args:
    rate: gamma in (0, 1], a number (may be traced) or a schedule ``count -> number``.
    domain: "log" (positive scalars) or "linear" (vectors and signed numbers too).

  Returns:
    InnerEstimator.

  Raises:
    ValueError: a known rate is not in (0, 1], or an unknown domain.

  Note:
    Too small a rate with fast moving parameters ties u to the past: keep gamma well above the
    learning rate times the drift; 0.1 to 0.9 is usual.

  Example:
    >>> estimator = inner_ema(0.5, domain="linear")
    >>> state, u = estimator.update(estimator.init(3), jnp.array([1]), jnp.array([2.0]))
    >>> state, u = estimator.update(state, jnp.array([1]), jnp.array([4.0]))
    >>> u, state.seen
    (Array([3.], dtype=float32), Array([False,  True, False], dtype=bool))

  Reference:
    Wang, Fang and Liu, Stochastic compositional gradient descent, 2017, algorithm 1; Wang and Yang,
    Finite-sum coupled compositional stochastic optimization, 2022, algorithm 1.
  """
  _check_rate(rate)

  def rule(old: Array, seen: Array, g: Array, before: Array | None, n: int, count: Array) -> Array:
    gamma = _at(rate, count, g)
    if domain == "log":
      return numerics.log_average(old, g, gamma)
    return jnp.where(seen, old + gamma * (g - old), g)

  return _make(rule, domain)


def inner_storm(
  rate: Rate, *, clip: tuple[ArrayLike, ArrayLike] | None = None, domain: str = "log"
) -> InnerEstimator:
  r"""Recursive variance reduction of values: u_i <- g_i + (1 - b) (u_i - g'_i).

  g'_i is the value of the same sample at the previous parameters. The same recursion is known as
  SCSC, (1 - b) (u + g - g') + b g, and as the inner loop of COVER and RECOVER.

  Args:
    rate: b in (0, 1], a number (may be traced) or a schedule ``count -> number``; 1 is
      ``inner_batch``.
    clip: (low, high), bounds of u (of u itself, not of its logarithm), or None. In the log domain a
      lower bound > 0 is needed, since the recursion may leave the positive numbers.
    domain: "log" (positive scalars; ``clip`` is needed) or "linear".

  Returns:
    InnerEstimator that needs the previous values.

  Raises:
    ValueError: a known rate is not in (0, 1], an unknown domain, or no usable ``clip``.

  Example:
    >>> estimator = inner_storm(0.1, domain="linear")
    >>> state, u = estimator.update(estimator.init(1), jnp.array([0]), jnp.array([2.0]))
    >>> state, u = estimator.update(state, jnp.array([0]), jnp.array([3.0]), jnp.array([2.0]))
    >>> u
    Array([3.], dtype=float32)

  Reference:
    Chen, Sun and Yin, Solving stochastic compositional optimization is nearly as easy as solving
    stochastic optimization, 2021, equation 8 (number recalled, not verified); Qi, Guo, Xu, Jin and
    Yang, An online method for a class of distributionally robust optimization with non-convex
    objectives, 2021.
  """
  _check_rate(rate)
  keep = lambda b, size, batch: 1 - b
  return _make_difference(rate, keep, clip, domain)


def inner_msvr(
  rate: Rate, *, clip: tuple[ArrayLike, ArrayLike], domain: str = "log"
) -> InnerEstimator:
  r"""Multi-block-single-probe variance reduction (MSVR).

  u_i <- (1 - b) u_i + b g_i + theta (g_i - g'_i), theta = (n - B) / (B (1 - b)) + 1 - b, for n
  examples and batches of B; the correction makes up for the moves that an example misses while it
  is not drawn. With B = n it is ``inner_storm``.

  Args:
    rate: b in (0, 1), a number (may be traced) or a schedule ``count -> number``.
    clip: (low, high), bounds of u itself. Mandatory: theta is about n / B, and multiplies
      differences that may be large.
    domain: "log" (positive scalars; low > 0) or "linear".

  Returns:
    InnerEstimator that needs the previous values.

  Raises:
    ValueError: a known rate is not in (0, 1), an unknown domain, or no usable ``clip``.

  Note:
    With exponential inner functions and n / B above 10 it diverges even when clipped, unless the
    steps are very small; ``inner_ema`` is the better first choice.

  Example:
    >>> estimator = inner_msvr(0.5, clip=(-10.0, 10.0), domain="linear")
    >>> state, u = estimator.update(estimator.init(2), jnp.array([0]), jnp.array([2.0]))
    >>> state, u = estimator.update(state, jnp.array([0]), jnp.array([3.0]), jnp.array([2.0]))
    >>> u
    Array([5.], dtype=float32)

  Reference:
    Jiang, Li, Wang, Zhang and Yang, Multi-block-single-probe variance reduced estimator for coupled
    compositional optimization, 2022, equation 3 (recalled, not verified; reduces to the recursion
    of ``inner_storm`` at B = n).
  """
  if not callable(rate):
    _checks.check_interval("rate", rate, 0.0, 1.0, closed="neither")
  if clip is None:
    raise ValueError("clip must be a pair (low, high) of bounds of the estimates; got None.")
  keep = lambda b, size, batch: (size - batch) / (batch * (1 - b)) + 1 - b
  return _make_difference(rate, keep, clip, domain)


def inner_scent(log_alpha: ArrayLike) -> InnerEstimator:
  r"""Mirror-descent step on the logarithm (SCENT), for averages of exponentials.

  nu_i <- nu_i + log(1 + a g_i) - log(1 + a exp(nu_i)) with nu = log u and a = exp(log_alpha): a
  moving average of u with the rate a u / (1 + a u), which is small for small u. For states whose
  sizes differ by orders of magnitude.

  Args:
    log_alpha: log a, a finite number; may be traced. The published code has 10.

  Returns:
    InnerEstimator in the log domain.

  Raises:
    ValueError: log_alpha is known and not finite.

  Example:
    >>> estimator = inner_scent(0.0)
    >>> state, nu = estimator.update(estimator.init(1), jnp.array([0]), jnp.array([0.0]))
    >>> state, nu = estimator.update(state, jnp.array([0]), jnp.log(jnp.array([3.0])))
    >>> jnp.exp(nu).round(3)  # rate 1/2: (1 + 3) / 2
    Array([2.], dtype=float32)

  Reference:
    Wei and co-authors, SCENT / SPMD, 2026 (arXiv 2602.02877); constants from the published code.
  """
  _checks.check_interval("log_alpha", log_alpha, float("-inf"), float("inf"), closed="neither")

  def rule(old: Array, seen: Array, g: Array, before: Array | None, n: int, count: Array) -> Array:
    log_a = jnp.asarray(log_alpha, g.dtype)
    moved = old + jax.nn.softplus(log_a + g) - jax.nn.softplus(log_a + old)
    return jnp.where(jnp.isneginf(old), g, moved)

  return _make(rule, "log")


def _make_difference(
  rate: Rate,
  factor: Callable[[Array, int, int], Array],
  clip: tuple[ArrayLike, ArrayLike] | None,
  domain: str,
) -> InnerEstimator:
  """u <- (1 - b) u + b g + factor (g - g'), clipped."""
  _arguments.check_option("domain", domain, ("log", "linear"))
  low, high = (None, None) if clip is None else _arguments.parts(clip, "low", "high", name="clip")
  if domain == "log":
    if clip is None:
      raise ValueError("clip must be a pair (low, high) in the log domain; got None.")
    _checks.check_positive("the lower bound of clip", low)
  if clip is not None:
    _checks.check_holds(
      jnp.asarray(low) < jnp.asarray(high), f"clip must have low < high; got ({low}, {high})."
    )

  def rule(old: Array, seen: Array, g: Array, before: Array | None, n: int, count: Array) -> Array:
    if before is None:
      raise ValueError("this estimator needs the values at the previous parameters; got None.")
    b = _at(rate, count, g)
    theta = factor(b, n, g.shape[0])
    if domain == "linear":
      new = jnp.where(seen, (1 - b) * old + b * g + theta * (g - before), g)
      return new if clip is None else jnp.clip(new, low, high).astype(g.dtype)
    # Relative to the largest of the three, so that no exponential overflows.
    old, before = (jnp.where(seen, v, g) for v in (old, before))
    top = jnp.maximum(jnp.maximum(old, g), before)
    top = jnp.where(jnp.isneginf(top), 0, top)
    u, now, then = (jnp.exp(v - top) for v in (old, g, before))
    new = (1 - b) * u + b * now + theta * (now - then)
    log_low, log_high = (jnp.log(jnp.asarray(v, g.dtype)) for v in (low, high))
    positive = new > 0  # False for NaN, which must stay
    log_new = jnp.where(positive, jnp.log(jnp.where(positive, new, 1)) + top, log_low)
    log_new = jnp.where(jnp.isnan(new), new, log_new)
    return jnp.where(seen, jnp.clip(log_new, log_low, log_high), jnp.clip(g, log_low, log_high))

  return _make(rule, domain, needs_previous=True)


def _make(rule: _Rule, domain: str, *, needs_previous: bool = False) -> InnerEstimator:
  _arguments.check_option("domain", domain, ("log", "linear"))
  merge = _examples.merge_log if domain == "log" else _examples.merge

  def init(
    num_examples: int,
    params: PyTree | None = None,
    *,
    shape: tuple[int, ...] = (),
    dtype: Any = jnp.float32,
  ) -> InnerState:
    size = _checks.check_int("num_examples", num_examples, minimum=1)
    if needs_previous and params is None:
      # Without parameters of its own the state serves callers that bring the previous values.
      params = ()
    start = -jnp.inf if domain == "log" else 0.0
    return InnerState(
      jnp.full((size, *shape), start, dtype),
      jnp.zeros(size, bool),
      # A copy, so that parameters and state can both be donated.
      jax.tree.map(jnp.array, params) if needs_previous else None,
      jnp.zeros((), jnp.int32),
    )

  def update(
    state: InnerState,
    index: ArrayLike,
    values: ArrayLike,
    previous: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
  ) -> tuple[InnerState, Array]:
    state = _arguments.check_state("state", state, InnerState)
    values = _checks.check_float_array("values", values, min_rank=1)
    size = state.value.shape[0]
    if values.shape[1:] != state.value.shape[1:]:
      raise ValueError(
        f"values must have shape (batch, {', '.join(map(str, state.value.shape[1:]))}); "
        f"got {values.shape}."
      )
    mask = _checks.check_mask("where", where, shape=values.shape[:1])
    row = _checks.check_index("index", index, shape=values.shape[:1], num_examples=size, where=mask)
    fixed = jax.lax.stop_gradient(values).astype(state.value.dtype)
    before = None
    if previous is not None:
      _checks.check_same_shape("values", values, "previous", previous)
      before = merge(row, jax.lax.stop_gradient(jnp.asarray(previous, fixed.dtype)))
    old, seen = _examples.read(state.value, row), _examples.read(state.seen, row)
    touched = _examples.shaped(seen, fixed)
    if before is None and needs_previous:
      before = jnp.full_like(fixed, jnp.nan)  # allowed at the first visit, where it is not used
    new = rule(old, touched, merge(row, fixed), before, size, state.count)
    new = jnp.where((row == size).reshape(touched.shape), jnp.nan, new)
    return InnerState(
      _examples.write(state.value, row, new),
      _examples.mark(state.seen, row, new),
      state.previous,
      state.count + 1,
    ), new

  return InnerEstimator(init, update, needs_previous, domain)


def _check_rate(rate: Rate) -> None:
  if not callable(rate):
    _checks.check_interval("rate", rate, 0.0, 1.0, closed="right")


def _at(rate: Rate, count: Array, like: Array) -> Array:
  return jnp.asarray(rate(count) if callable(rate) else rate, like.dtype)
