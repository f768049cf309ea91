"""Newton steps with any positive semidefinite model of the curvature, as an optax optimizer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import upcast
from jaxopt_robust.solvers._common import scalar_dtype, value_of
from jaxopt_robust.solvers._gns_search import Point, Rules, check_rules, search
from jaxopt_robust.solvers._regularized import (
  Metric,
  check_metric,
  dual_norm,
  make_metric,
  regularized_steps,
)
from jaxopt_robust.transforms._links import check_like, given
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["GnsLinkState", "scale_by_gns"]


class GnsLinkState(NamedTuple):
  """State of ``scale_by_gns``.

  Attributes:
    gamma: radius from which the next search starts.
    metric: B and its root.
    value: the objective at the parameters that the last update led to (inf before the first);
      ``optax.value_and_grad_from_state`` takes it, and the gradient, from here.
    grad: the gradient there, like the parameters.
    trials: int32, linear solves of the last update, each with a value and a gradient.
    found: bool, whether the last search accepted a step; otherwise its update was 0.
  """

  gamma: Array
  metric: Metric
  value: Array
  grad: PyTree
  trials: Array
  found: Array


def scale_by_gns(
  curvature: Callable[..., Any],
  *,
  metric: ArrayLike | None = None,
  gamma: ArrayLike = 1.0,
  growth: ArrayLike = 2.0,
  shrink: ArrayLike = 0.5,
  decrease: ArrayLike = 0.125,
  min_gamma: ArrayLike = 1e-9,
  max_trials: int = 40,
  cg_tol: ArrayLike = 1e-4,
  cg_max_steps: int | None = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Turns gradients into the steps of gradient-normalized Newton, ``solvers.gns_newton``.

    u = -(H(x) + lambda B)^{-1} g,   lambda = ||g||_* / gamma,

  with the first gamma of gamma_k, shrink gamma_k, ... for which f falls by at least
  decrease ||grad f(x + u)||_*^2 / lambda. The update is complete: it has its sign and needs no
  learning rate, and nothing may follow it in a chain. Where no trial is accepted it is 0.

  Args:
    curvature: ``curvature(params, *curvature_data)``, H in one of the forms of
      ``solvers.gns_newton``. ``optax.inject_hyperparams`` needs
      ``static_args=("curvature", "max_trials")``.
    metric: B, positive definite: float[d, d], its diagonal float[d], or None for the identity.
    gamma: gamma_0 > 0, in the units of the parameters; may be traced, as all other numbers.
    growth: >= 1.
    shrink: in (0, 1).
    decrease: in (0, 1/2).
    min_gamma: >= 0, in the units of the parameters.
    max_trials: >= 1, static.
    cg_tol: > 0, residual of conjugate gradients relative to the gradient.
    cg_max_steps: >= 1, static; 10 d by default.

  Returns:
    ``optax.GradientTransformationExtraArgs`` with state ``GnsLinkState``. ``update`` needs the
    parameters and the extra arguments ``value`` (f at them) and ``value_fn`` (f); it takes
    ``curvature_data``, a tuple, for curvatures of a batch.

  Raises:
    TypeError: ``curvature`` or ``value_fn`` is not a function, or a count no static integer.
    ValueError: a number is out of its range, ``update`` lacks an argument, or a shape does not fit.

  Note:
    On batches the search judges each one alone: the noise of their gradients stays in the step. For
    data in one batch ``solvers.gns_newton`` with ``run_until`` stops early and tells a status.

  Example:
    >>> f = lambda x: jnp.sum(jnp.array([1.0, 100.0]) * x**2)
    >>> tx, x = scale_by_gns(jr.solvers.exact_curvature(f)), jnp.array([3.0, -1.0])
    >>> state, value_and_grad = tx.init(x), optax.value_and_grad_from_state(f)
    >>> for _ in range(8):
    ...   value, grad = value_and_grad(x, state=state)
    ...   updates, state = tx.update(grad, state, x, value=value, value_fn=f)
    ...   x = optax.apply_updates(x, updates)
    >>> bool(f(x) < 1e-6)
    True

  Reference:
    Semenov, Jaggi and Doikov, Gradient-normalized smoothness for optimization with approximate
    Hessians, 2025, algorithm 1.
  """
  if isinstance(curvature, jax.Array):
    raise TypeError(
      "curvature must be callable; got an array: optax.inject_hyperparams takes functions for "
      "schedules, so call it with static_args=('curvature', 'max_trials')."
    )
  _arguments.check_callable("curvature", curvature)
  if callable(metric):
    raise TypeError(f"metric must be an array or None; got {_checks.describe(metric)}.")
  check_metric(metric)
  rules = check_rules(
    Rules(gamma, growth, shrink, decrease, min_gamma, max_trials, cg_tol, cg_max_steps)
  )

  def init(params: PyTree) -> GnsLinkState:
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params)
    size = sum(leaf.size for leaf in jax.tree.leaves(zeros))
    dtype = jnp.promote_types(scalar_dtype(params), jnp.float32)
    return GnsLinkState(
      jnp.asarray(gamma, dtype), make_metric(metric, size, dtype, (), {}),
      jnp.full((), jnp.inf, dtype), zeros, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.bool_),
    )  # fmt: skip

  def update(
    updates: PyTree,
    state: GnsLinkState,
    params: PyTree | None = None,
    *,
    value: ArrayLike | None = None,
    value_fn: Callable[[PyTree], Array] | None = None,
    curvature_data: tuple = (),
    **extra_args: Any,
  ) -> tuple[PyTree, GnsLinkState]:
    del extra_args
    state = _arguments.check_state("state", state, GnsLinkState)
    params = given(params, "scale_by_gns")
    if value is None or value_fn is None:
      raise ValueError(
        "scale_by_gns needs the value of the objective and the objective: call "
        "tx.update(grads, state, params, value=value, value_fn=fun)."
      )
    _arguments.check_callable("value_fn", value_fn)
    check_like("updates", updates, params)
    if not isinstance(curvature_data, tuple | list):
      raise TypeError(
        f"curvature_data must be a tuple, such as (x, y); got {_checks.describe(curvature_data)}."
      )
    scalar, (flat, unravel) = value_of(value_fn, False), ravel_pytree(params)
    dtype = upcast(flat).dtype

    def evaluate(x: Array) -> tuple[Array, Array]:
      with _arguments.within("value_fn"):
        value, grad = jax.value_and_grad(lambda x: scalar(unravel(x)))(x)
      return value.astype(dtype), grad.astype(dtype)

    back = lambda v: unravel(v.astype(flat.dtype))
    grad = ravel_pytree(updates)[0].astype(dtype)
    now = _checks.check_float_array("value", value, rank=0).astype(dtype)
    steps = regularized_steps(
      curvature(params, *curvature_data), state.metric, grad, back, cg_tol=cg_tol,
      cg_max_steps=rules.cg_max_steps,
    )  # fmt: skip
    here = Point(flat, now, grad, dual_norm(state.metric, grad))
    end = search(evaluate, steps, state.metric, here, state.gamma, rules)
    return back(end.step), GnsLinkState(
      end.gamma, state.metric, end.point.value, back(end.point.grad), end.trials, end.found
    )

  return optax.GradientTransformationExtraArgs(init, update)
