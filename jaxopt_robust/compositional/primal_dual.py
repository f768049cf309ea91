"""Convex compositional problems by a single-loop primal-dual method (ALEXR)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.compositional import _examples
from jaxopt_robust.prox import prox_conjugate
from jaxopt_robust.typing import Array, ArrayLike, Penalty, PyTree

__all__ = ["AlexrInfo", "AlexrState", "alexr_init", "alexr_value_and_grad"]


class AlexrState(NamedTuple):
  """State of ``alexr_value_and_grad``.

  Attributes:
    dual: float[num_examples, ...], the dual variables y_i.
    previous: parameters of the last step.
    count: int32, steps done.
  """

  dual: Array
  previous: PyTree
  count: Array  # type: ignore[assignment]


class AlexrInfo(NamedTuple):
  """What a step of ``alexr_value_and_grad`` saw.

  Attributes:
    objective: float scalar, (1/B) sum_i f(g_i(w; xi)); biased like every plug-in, for plots.
    dual: float[batch, ...], the new y_i.
    values: float[batch, ...], g_i(w; xi).
  """

  objective: Array
  dual: Array
  values: Array


def alexr_init(
  num_examples: int,
  params: PyTree,
  *,
  shape: tuple[int, ...] = (),
  dual: ArrayLike = 0.0,
  dtype: Any = jnp.float32,
) -> AlexrState:
  r"""State of ALEXR before the first step: every y_i = dual, previous point = params.

  Args:
    num_examples: static integer n >= 1.
    params: pytree of parameters, the starting point.
    shape: static, the shape of one inner value.
    dual: start of the dual variables, in the domain of the conjugate f*.
    dtype: of the dual variables.

  Returns:
    AlexrState.

  Raises:
    ValueError: num_examples < 1.
    TypeError: num_examples is not an integer.

  Example:
    >>> alexr_init(2, jnp.zeros(3)).dual
    Array([0., 0.], dtype=float32)

  Reference:
    Wang and Yang, A near-optimal single-loop stochastic algorithm for convex finite-sum coupled
    compositional optimization, 2024, algorithm 1 (recalled, not verified).
  """
  size = _checks.check_int("num_examples", num_examples, minimum=1)
  params = _checks.check_float_tree("params", params)
  full = jnp.broadcast_to(jnp.asarray(dual, dtype), (size, *shape))
  return AlexrState(jnp.array(full), jax.tree.map(jnp.array, params), jnp.zeros((), jnp.int32))


def alexr_value_and_grad(
  inner_fn: Callable[..., Array],
  penalty: Penalty,
  hyperparams: Any = None,
  *,
  stepsize: ArrayLike,
  extrapolation: ArrayLike = 1.0,
) -> Callable[..., tuple[tuple[Array, AlexrInfo], PyTree, AlexrState]]:
  r"""One step of ALEXR for min_w (1/n) sum_i f(g_i(w)) = min_w max_y (1/n) sum_i y_i g_i - f*(y_i).

  With g_i, g'_i the inner values of one sample at the current and at the previous parameters:

    z_i = g_i + extrapolation (g_i - g'_i),    y_i <- prox_{stepsize f*}(y_i + stepsize z_i),

  and the gradient is (1/B) sum_i y_i grad g_i(w; xi') on an independent sample xi'.

  Args:
    inner_fn: ``inner_fn(params, index, sample) -> float[batch, ...]``, inner values of the examples
      ``index`` on a sample.
    penalty: the convex f as ``Penalty(value, prox)`` of one example's value.
    hyperparams: of the penalty; may be traced.
    stepsize: > 0, the dual step alpha; may be traced.
    extrapolation: theta in [0, 1]; may be traced.

  Returns:
    ``fn(params, state, index, sample, other_sample, *, where=None) -> ((objective, info), grads,
    state)`` with state from ``alexr_init``, ``index`` int[batch], ``sample`` and ``other_sample``
    pytrees that are drawn independently, ``where`` bool[batch] the rows that count. Any optax
    optimizer makes the step in the parameters.

  Raises:
    TypeError: inner_fn is not a function or penalty is no ``Penalty``.
    ValueError: stepsize <= 0, extrapolation outside [0, 1], inner values of the wrong shape, a
      known index out of range.

  Note:
    f convex and, unless the g_i are linear, non-decreasing. Duplicated indices count once, with the
    mean of their values. NaN values leave the dual variable as it was and make the gradient NaN.

  Example:
    >>> # mean_i max(w + c_i, 0)
    >>> hinge = jr.prox.precompose_affine(jr.prox.hinge, scale=-1.0, shift=1.0)
    >>> inner = lambda w, index, c: w + c[index]
    >>> step = alexr_value_and_grad(inner, hinge, 1.0, stepsize=1.0)
    >>> w, c = jnp.array(1.0), jnp.array([0.0, -5.0])
    >>> state = alexr_init(2, w)
    >>> (objective, info), grad, state = step(w, state, jnp.array([0, 1]), c, c)
    >>> float(objective), float(grad), state.dual.tolist()
    (0.5, 0.5, [1.0, 0.0])

  Reference:
    Wang and Yang, A near-optimal single-loop stochastic algorithm for convex finite-sum coupled
    compositional optimization, 2024, algorithm 1 with the squared distance as divergence (recalled,
    not verified).
  """
  _arguments.check_callable("inner_fn", inner_fn)
  _arguments.check_penalty("penalty", penalty)
  _checks.check_positive("stepsize", stepsize)
  _checks.check_interval("extrapolation", extrapolation, 0.0, 1.0)
  dual_step = prox_conjugate(penalty.prox)

  def fn(
    params: PyTree,
    state: AlexrState,
    index: ArrayLike,
    sample: Any,
    other_sample: Any,
    *,
    where: ArrayLike | None = None,
  ) -> tuple[tuple[Array, AlexrInfo], PyTree, AlexrState]:
    state = _arguments.check_state("state", state, AlexrState)
    mask = _checks.check_mask("where", where, shape=jnp.shape(index))
    size = state.dual.shape[0]
    row = _checks.check_index("index", index, shape=jnp.shape(index), num_examples=size, where=mask)
    index = jnp.asarray(index)
    values = inner_fn(params, index, sample)
    if jnp.shape(values) != (*index.shape, *state.dual.shape[1:]):
      raise ValueError(
        f"inner_fn must return shape {(*index.shape, *state.dual.shape[1:])}; "
        f"got {jnp.shape(values)}."
      )
    before = inner_fn(state.previous, index, sample)
    dtype = state.dual.dtype
    theta, alpha = jnp.asarray(extrapolation, dtype), jnp.asarray(stepsize, dtype)
    ahead = _examples.merge(row, (values + theta * (values - before)).astype(dtype))
    old = _examples.read(state.dual, row)
    dual = jax.vmap(lambda z: dual_step(z, hyperparams, alpha))(old + alpha * ahead)
    dual = jnp.where(jnp.isnan(ahead), jnp.nan, dual)  # a prox may hide a NaN
    new_dual = _examples.write(state.dual, row, dual)
    if mask is not None:
      dual = jnp.where(_examples.shaped(mask, dual), dual, 0)
    dual = jax.lax.stop_gradient(dual)

    def lagrangian(params: PyTree) -> Array:
      other = inner_fn(params, index, other_sample)
      if mask is not None:
        other = jnp.where(_examples.shaped(mask, other), other, 0)
      per_row = jnp.sum((dual * other).reshape(*index.shape, -1), axis=1)
      return numerics.masked_mean(per_row, mask)

    grads = jax.grad(lagrangian)(params)
    plug_in = jax.vmap(lambda g: penalty.value(g, hyperparams))(values)
    info = AlexrInfo(numerics.masked_mean(plug_in, mask), dual, values)
    new_state = AlexrState(new_dual, params, state.count + 1)
    out = jax.lax.stop_gradient((info, new_state))
    return (out[0].objective, out[0]), grads, out[1]

  return fn
