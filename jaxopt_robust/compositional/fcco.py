"""Gradients of finite-sum coupled compositional objectives, (1/n) sum_i f_i(E g_i(w; xi))."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.compositional import _examples
from jaxopt_robust.compositional.estimators import InnerEstimator, InnerState
from jaxopt_robust.compositional.outer import OuterFn
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["FccoInfo", "fcco_value_and_grad"]


class FccoInfo(NamedTuple):
  """What a step of ``fcco_value_and_grad`` saw.

  Attributes:
    objective: float scalar, (1/B) sum_i f(u_i) with the updated estimates; what to plot.
    surrogate: float scalar whose gradient is the one returned; its value has no meaning.
    estimates: float[batch, ...], u_i (log u_i in the log domain) after the update.
    values: float[batch, ...], g_i(w; xi) (their logarithms in the log domain) of this batch.
  """

  objective: Array
  surrogate: Array
  estimates: Array
  values: Array


def fcco_value_and_grad(
  inner_fn: Callable[..., Array],
  outer: OuterFn,
  estimator: InnerEstimator,
  *,
  use: str = "new",
) -> Callable[..., tuple[tuple[Array, FccoInfo], PyTree, InnerState]]:
  r"""Stochastic gradient of F(w) = (1/n) sum_i f(g_i(w)), g_i(w) = E g_i(w; xi).

  The estimator keeps u_i ~ g_i(w); the gradient is (1/B) sum_i J g_i(w; xi)^T grad f(u_i) over the
  batch. In the log domain, with v_i = log g_i(w; xi), it is that of
  (1/B) sum_i (u_i f'(u_i)) exp(v_i - log u_i) with the u_i fixed. SOX, MSVR and SCENT are choices
  of the estimator, SONEX is MSVR with ``outer_moreau``; f(E g) is the case n = 1.

  Args:
    inner_fn: ``inner_fn(params, index, *batch) -> float[batch, ...]``, inner values of the examples
      ``index`` on this sample, or their logarithms when the estimator is in the log domain. Called
      a second time, at the previous parameters, for estimators that need it: it must draw the same
      sample from the same ``batch`` (pass keys inside ``batch``).
    outer: OuterFn f, such as ``outer_log(0.1)``.
    estimator: InnerEstimator, such as ``inner_ema(0.9)``.
    use: which estimate enters the gradient: "new" (after the update with this batch, as published
      code does) or "old" (before it, independent of the batch, as analyses do; the new one at the
      first visit).

  Returns:
    ``fn(params, state, index, *batch, where=None) -> ((objective, info), grads, state)`` with
    ``state`` from ``estimator.init(num_examples, params)``, ``index`` int[batch] the positions of
    the examples (None for n = 1), ``where`` bool[batch] the rows that count, and ``info`` FccoInfo.
    ``grads`` is like ``params``.

  Raises:
    TypeError: inner_fn is not a function, or outer or estimator is of the wrong kind.
    ValueError: an unknown ``use``; inner values of the wrong shape; a known index out of range.

  Note:
    The objective is an estimate of F from the batch's examples; it lags behind fast moving
    parameters by about 1/rate visits. An index that occurs twice counts as one example with the
    mean of its values. An index out of range under ``jit``, and a NaN value, make objective and
    gradient NaN and leave the state of that row as it was. With an all-false ``where`` they are 0.
    Rows that are masked out still pass through inner_fn, so that their data must be finite.
    With use="old" exp(v_i - log u_i) is not bounded by 1/rate.

  Example:
    >>> # F(w) = mean_i log mean_j exp((w x_ij)) from samples of two of the five j
    >>> x = jnp.arange(15.0).reshape(3, 5) / 10
    >>> inner = lambda w, i, columns: jr.numerics.log_mean_exp(w * x[i[:, None], columns])
    >>> sox = jr.compositional.inner_ema(0.5)
    >>> step = fcco_value_and_grad(inner, jr.compositional.outer_log(), sox)
    >>> state = sox.init(3)
    >>> index, columns = jnp.array([0, 2]), jnp.array([[0, 3], [1, 4]])
    >>> (objective, info), grad, state = step(jnp.array(1.0), state, index, columns)
    >>> round(float(objective), 3), round(float(grad), 3)
    (0.711, 0.722)

  Reference:
    Wang and Yang, Finite-sum coupled compositional stochastic optimization: theory and
    applications, 2022, algorithm 1 (SOX); the log domain is ours.
  """
  _arguments.check_callable("inner_fn", inner_fn)
  _arguments.check_option("use", use, ("new", "old"))
  for name, value, kind in (("outer", outer, OuterFn), ("estimator", estimator, InnerEstimator)):
    if not isinstance(value, kind):
      raise TypeError(f"{name} must be an {kind.__name__}; got {type(value).__name__}.")
  in_logs = estimator.domain == "log"
  outer_value = outer.log_value if in_logs else outer.value

  def fn(
    params: PyTree,
    state: InnerState,
    index: ArrayLike | None,
    *batch: Any,
    where: ArrayLike | None = None,
  ) -> tuple[tuple[Array, FccoInfo], PyTree, InnerState]:
    state = _arguments.check_state("state", state, InnerState)
    rows = jnp.zeros(1, jnp.int32) if index is None else _checks.check_integers("index", index)
    mask = _checks.check_mask("where", where, shape=rows.shape)
    before = None
    if estimator.needs_previous:
      if not jax.tree.leaves(state.previous):
        raise ValueError(
          "this estimator compares two points: make its state with estimator.init(n, params)."
        )
      before = jax.lax.stop_gradient(inner_fn(state.previous, rows, *batch))

    def surrogate(params: PyTree) -> tuple[Array, tuple[InnerState, FccoInfo]]:
      values = inner_fn(params, rows, *batch)
      if jnp.shape(values)[:1] != rows.shape:
        raise ValueError(
          f"inner_fn must return one value an example, shape ({rows.shape[0]}, ...); "
          f"got {jnp.shape(values)}."
        )
      if mask is not None:  # masked rows may hold anything, and have the gradient 0
        values = jnp.where(_examples.shaped(mask, values), values, 0)
      new_state, new = estimator.update(state, rows, values, before, where=mask)
      base = _chosen(state, rows, new, use)
      if mask is not None:
        base, new = (jnp.where(_examples.shaped(mask, v), v, 0) for v in (base, new))
      slope = _slope(outer_value, base)
      if in_logs:
        empty = jnp.isneginf(base)  # a mean that is zero: nothing to move
        terms = slope * jnp.exp(jnp.where(empty, 0, values - jnp.where(empty, 0, base)))
        terms = jnp.where(empty, 0, terms)
      else:
        terms = slope * values
      per_row = jnp.sum(terms.reshape(rows.shape[0], -1), axis=1)
      total = numerics.masked_mean(per_row, mask)
      objective = numerics.masked_mean(outer_value(new), mask)
      info = FccoInfo(objective, total, new, values)
      return total, jax.lax.stop_gradient((new_state, info))

    grads, (new_state, info) = jax.grad(surrogate, has_aux=True)(params)
    if estimator.needs_previous:
      new_state = new_state._replace(previous=jax.lax.stop_gradient(params))
    return (info.objective, info), grads, new_state

  return fn


def _chosen(state: InnerState, rows: Array, new: Array, use: str) -> Array:
  """The estimates that enter the gradient."""
  if use == "new":
    return new
  size = state.value.shape[0]
  inside = jnp.where((rows < 0) | (rows >= size), size, rows)
  seen = _examples.shaped(_examples.read(state.seen, inside), new)
  return jnp.where(seen, _examples.read(state.value, inside), new)


def _slope(outer_value: Callable[[Array], Array], at: Array) -> Array:
  """Derivative of the outer function, row by row, with nothing flowing through it."""
  at = jax.lax.stop_gradient(at)
  return jax.lax.stop_gradient(jax.grad(lambda u: jnp.sum(outer_value(u)))(at))
