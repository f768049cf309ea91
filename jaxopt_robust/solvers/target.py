"""Surrogates in the space of a model's outputs: many cheap steps for one expensive gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.solvers._common import norm
from jaxopt_robust.solvers.target_stepsizes import (
  Schedule,
  TargetBatch,
  TargetPoint,
  TargetStepsize,
  stepsize_rule,
)
from jaxopt_robust.solvers.types import Solver
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["SSOInfo", "SSOState", "sso", "target_surrogate"]

Divergence = str | Callable[[Array, Array], Array]


class SSOState(NamedTuple):
  """State of target-based surrogate optimization.

  Attributes:
    params: the iterate.
    memory: of the rule for step sizes.
    inner: state of the inner optimizer.
    count: int32, outer steps done.
    num_oracle: int32, calls of the oracle: one an outer step.
    num_values: int32, values of the loss alone that line searches took.
    num_inner: int32, inner steps done.
  """

  params: PyTree
  memory: PyTree
  inner: Any
  count: Array  # type: ignore[assignment]
  num_oracle: Array
  num_values: Array
  num_inner: Array


class SSOInfo(NamedTuple):
  """What an outer step saw.

  Attributes:
    error: norm of the gradient of the batch's loss by the parameters, before the step.
    value: l(z_t), the loss of the batch before the step.
    stepsize: eta_t.
    decrease: by how much the inner steps lowered the surrogate.
  """

  error: Array
  value: Array
  stepsize: Array
  decrease: Array


def _squared(z: Array, anchor: Array) -> Array:
  return 0.5 * (z - anchor) ** 2


def _logistic(z: Array, anchor: Array) -> Array:
  change = jax.nn.softplus(z) - jax.nn.softplus(anchor)
  return change - jax.nn.sigmoid(anchor) * (z - anchor)


def _softmax(z: Array, anchor: Array) -> Array:
  change = jax.nn.logsumexp(z, axis=-1) - jax.nn.logsumexp(anchor, axis=-1)
  return change - jnp.sum(jax.nn.softmax(anchor, axis=-1) * (z - anchor), axis=-1)


def _kl(z: Array, anchor: Array) -> Array:
  return jax.scipy.special.kl_div(z, anchor)


DIVERGENCES = {"squared": _squared, "logistic": _logistic, "softmax": _softmax, "kl": _kl}


def target_surrogate(
  outputs: ArrayLike,
  anchor: ArrayLike,
  gradient: ArrayLike,
  *,
  stepsize: ArrayLike,
  weights: ArrayLike | None = None,
  value: ArrayLike = 0.0,
  divergence: Divergence = "squared",
) -> Array:
  r"""Model of a loss of outputs z around z_t, from one gradient u_t = grad l(z_t).

    q(z) = l(z_t) + <u_t, z - z_t> + (1 / eta) sum_i w_i D(z_i, z_{t,i})

  - ``"squared"``: D(a, b) = (a - b)^2 / 2. With eta <= 1/L of a loss whose gradient has Lipschitz
    constant L (2 for (z - y)^2, 1/4 logistic, 1/2 softmax), q >= l, with equality at z_t.
  - ``"logistic"``: the Bregman divergence of log(1 + e^z), the Kullback-Leibler divergence of
    the sigmoids, from b to a. With eta = 1 and the logistic loss, q = l.
  - ``"softmax"``: that of log sum exp over the last axis, the same for softmax; w then lacks that
    axis.
  - ``"kl"``: a log(a / b) - a + b of outputs > 0.

  Args:
    outputs: float[batch, ...], z.
    anchor: float[batch, ...], z_t; constant for derivatives.
    gradient: float[batch, ...], u_t; constant for derivatives.
    stepsize: eta > 0, scalar; may be traced.
    weights: w >= 0 that broadcast against D, or None for 1.
    value: l(z_t), scalar: the sum, not the mean, over the batch.
    divergence: one of these names, or a function ``(z, z_t) -> D``; static.

  Returns:
    Scalar.

  Raises:
    TypeError: an array is not floating-point, or ``divergence`` neither name nor function.
    ValueError: shapes that differ, an unknown name, or a step that is not positive and known.

  Example:
    >>> z, at = jnp.array([1.0, 2.0]), jnp.zeros(2)
    >>> target_surrogate(z, at, jnp.array([1.0, -1.0]), stepsize=0.5)  # -1 + (1 + 4) / 2 / 0.5
    Array(4., dtype=float32)

  Reference:
    Lavington, Vaswani, Babanezhad, Schmidt and Le Roux, Target-based surrogates for stochastic
    optimization, 2023, equations 3 to 5 for the squared distance; the other divergences are those
    of mirror descent.
  """
  if weights is not None:
    weights = jax.lax.stop_gradient(_checks.check_float_array("weights", weights))
  return _surrogate(
    outputs,
    jax.lax.stop_gradient(_checks.check_float_array("anchor", anchor)),
    jax.lax.stop_gradient(_checks.check_float_array("gradient", gradient)),
    stepsize=stepsize,
    weights=weights,
    value=value,
    divergence=divergence,
  )


def _surrogate(
  outputs: ArrayLike,
  anchor: ArrayLike,
  gradient: ArrayLike,
  *,
  stepsize: ArrayLike,
  weights: ArrayLike | None,
  value: ArrayLike,
  divergence: Divergence,
) -> Array:
  """``target_surrogate``, also as a function of the anchor, the gradient and the weights."""
  z = _checks.check_float_array("outputs", outputs)
  b = _checks.check_float_array("anchor", anchor).astype(z.dtype)
  u = _checks.check_float_array("gradient", gradient).astype(z.dtype)
  _checks.check_same_shape("outputs", z, "anchor", b)
  _checks.check_same_shape("outputs", z, "gradient", u)
  _checks.check_positive("stepsize", stepsize, scalar=True)
  eta = _checks.check_float_array("stepsize", stepsize, rank=0).astype(z.dtype)
  distance = _divergence(divergence)(z, b)
  if weights is not None:
    _checks.check_non_negative("weights", weights)
    w = _checks.check_float_array("weights", weights).astype(z.dtype)
    distance = _fitting(w, distance.shape) * distance
  constant = _checks.check_float_array("value", value, rank=0).astype(z.dtype)
  return constant + jnp.sum(u * (z - b)) + jnp.sum(distance) / eta


def sso(
  apply_fn: Callable[[PyTree, PyTree], Array],
  target_value_and_grad: Callable[[Array, PyTree], tuple[Array, Array]],
  *,
  stepsize: Schedule | TargetStepsize,
  inner: optax.GradientTransformation | Callable[[PyTree], optax.GradientTransformation],
  num_inner: int = 1,
  divergence: Divergence = "squared",
  restart: bool = True,
) -> Solver:
  r"""Target-based surrogate optimization: several parameter steps for each gradient by the outputs.

  Minimises l(f(theta)), f a model that is cheap, l a loss whose value and gradient are dear (a
  simulator, an expert, a measurement). An outer step on a batch b:

    z_t = f_b(theta_t),   u_t = grad l_b(z_t)                 (the oracle, once)
    theta_{t+1}: m inner steps, from theta_t, of an optax optimizer on
      q(theta) = l_b(z_t) + <u_t, f_b(theta) - z_t> + (1 / eta_t) D(f_b(theta), z_t)

  with ``target_surrogate`` for q. With m = 1 it is the inner optimizer on l_b(f_b(theta)) itself.
  With all data in the batch, D squared, eta <= 1/L and inner steps that lower q the loss never
  increases, for any m.

  Args:
    apply_fn: ``apply_fn(params, inputs) -> outputs``, float[batch, ...]; it must be the same
      function in all inner steps: fix random numbers and batch statistics.
    target_value_and_grad: ``(outputs, targets) -> (value, gradient)`` of the loss **summed** over
      the batch, such as ``jax.value_and_grad(loss)``; it may be a ``jax.pure_callback``.
    stepsize: eta > 0 (may be traced), a schedule ``count -> number`` (``inverse_sqrt_schedule``,
      those of optax) that stays above 0, or a ``TargetStepsize``. 1/(2 L) is a good constant for
      batches, 1/L for all data, with L that of one example.
    inner: an optax optimizer, or a function from ``hyper`` to one (then ``hyper`` can be swept).
      Line searches (``transforms.armijo_descent``, ``optax.lbfgs``) get ``value``, ``grad`` and
      ``value_fn``.
    num_inner: m >= 1, static.
    divergence: of ``target_surrogate``; static.
    restart: static; whether the inner optimizer begins anew with each surrogate.

  Returns:
    ``Solver`` with states ``SSOState`` and infos ``SSOInfo``; its data is one ``TargetBatch``.
    Batches change from step to step: scan its step over them,
    ``jax.lax.scan(lambda s, batch: solver.step(s, hyper, batch), state, batches)``. For all data
    in one batch there are ``run_until`` (its tolerance is one of the gradient's norm) and
    ``run_steps``.

  Raises:
    TypeError: an argument is of another kind, or the oracle returns no pair.
    ValueError: a number is out of its range, or a value or gradient has another shape.

  Note:
    With many inner steps on small batches the model fits the batch: let eta fall like 1/sqrt(t),
    rather than take fewer. ``error`` is of the parameters before the step: where it ends a run, the
    steps of an optimizer that do not shrink with the gradient (Adam's) have left that point.
    Their public code's step is 2 eta, and it takes means for sums.

  Example:
    >>> x, y = jnp.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]), jnp.array([1.0, 3.0, 5.0])
    >>> oracle = jax.value_and_grad(lambda z, y: 0.5 * jnp.sum((z - y) ** 2))
    >>> solver = sso(lambda w, x: x @ w, oracle, stepsize=1.0, inner=optax.lbfgs(), num_inner=8)
    >>> w, info = jr.solvers.run_steps(
    ...   solver, jnp.zeros(2), None, TargetBatch(x, y), num_steps=1)
    >>> w.round(2)  # one call of the oracle, the least-squares solution
    Array([1., 2.], dtype=float32)

  Reference:
    Lavington, Vaswani, Babanezhad, Schmidt and Le Roux, Target-based surrogates for stochastic
    optimization, 2023, algorithm 1.
  """
  _arguments.check_callable("apply_fn", apply_fn)
  _arguments.check_callable("target_value_and_grad", target_value_and_grad)
  rule = stepsize_rule(stepsize)
  fixed = isinstance(inner, optax.GradientTransformation)
  if not fixed and not callable(inner):
    _arguments.check_optimizer("inner", inner)
  num_inner = _checks.check_int("num_inner", num_inner, minimum=1)
  _divergence(divergence)

  def optimizer(hyper: PyTree) -> optax.GradientTransformationExtraArgs:
    made: Any = inner if fixed else inner(hyper)
    _arguments.check_optimizer("inner(hyper)", made)
    return optax.with_extra_args_support(made)

  def outputs_of(params: PyTree, batch: TargetBatch) -> Array:
    return _checks.check_float_array("outputs", apply_fn(params, batch.inputs), min_rank=1)

  def oracle(outputs: Array, targets: PyTree) -> tuple[Array, Array]:
    answer = target_value_and_grad(outputs, targets)
    if not isinstance(answer, tuple | list) or len(answer) != 2:
      raise TypeError(
        "target_value_and_grad must return a pair (value, gradient); got "
        f"{_checks.describe(answer)}."
      )
    value, gradient = jnp.asarray(answer[0]), jnp.asarray(answer[1])
    if value.shape != () or gradient.shape != outputs.shape:
      raise ValueError(
        "target_value_and_grad must return a scalar and a gradient of the outputs' shape "
        f"{outputs.shape}; got shapes {value.shape} and {gradient.shape}."
      )
    return value.astype(outputs.dtype), gradient.astype(outputs.dtype)

  def init(params: PyTree, hyper: PyTree, batch: TargetBatch) -> SSOState:
    batch = _check_batch(batch)
    shape = jax.eval_shape(lambda params: outputs_of(params, batch), params)
    none = [jnp.zeros((), jnp.int32) for _ in range(4)]
    return SSOState(params, rule.init(shape), optimizer(hyper).init(params), *none)

  def step(state: SSOState, hyper: PyTree, batch: TargetBatch) -> tuple[SSOState, SSOInfo]:
    batch, chain = _check_batch(batch), optimizer(hyper)
    # Constant for the inner derivatives, by parameters of their own, but not for outer ones.
    anchor = outputs_of(state.params, batch)
    value, gradient = oracle(anchor, batch.targets)
    value_fn = lambda outputs: oracle(outputs, batch.targets)[0]
    point = TargetPoint(state.count, anchor, gradient, value, value_fn, batch)
    eta, weights, memory, evaluations = rule.update(state.memory, point)

    def surrogate(params: PyTree) -> Array:
      return _surrogate(
        outputs_of(params, batch), anchor, gradient, stepsize=eta, weights=weights, value=value,
        divergence=divergence,
      )  # fmt: skip

    def move(carry: tuple, _: None) -> tuple[tuple, Array]:
      params, inner_state = carry
      now, grad = jax.value_and_grad(surrogate)(params)
      updates, inner_state = chain.update(
        grad, inner_state, params, value=now, grad=grad, value_fn=surrogate
      )
      return (optax.apply_updates(params, updates), inner_state), norm(grad)

    begin = chain.init(state.params) if restart else state.inner
    carry = (state.params, begin)
    (params, inner_state), norms = jax.lax.scan(move, carry, None, length=num_inner)
    new = SSOState(
      params, memory, inner_state, optax.safe_increment(state.count), state.num_oracle + 1,
      state.num_values + evaluations, state.num_inner + num_inner,
    )  # fmt: skip
    return new, SSOInfo(norms[0], value, eta, value - surrogate(params))

  return Solver(init, step)


def _divergence(divergence: Divergence) -> Callable[[Array, Array], Array]:
  if callable(divergence):
    return divergence
  _arguments.check_option("divergence", divergence, tuple(DIVERGENCES))
  return DIVERGENCES[divergence]


def _fitting(weights: Array, shape: tuple[int, ...]) -> Array:
  """Weights, broadcast to the shape of a divergence."""
  try:
    fits = np.broadcast_shapes(weights.shape, shape) == shape
  except ValueError:
    fits = False
  if not fits:
    raise ValueError(
      f"weights must broadcast to the shape of the divergence, {shape}; got {weights.shape}. "
      "Divergences over an axis of the outputs, as 'softmax', take weights without it."
    )
  return jnp.broadcast_to(weights, shape)


def _check_batch(batch: Any) -> TargetBatch:
  if not isinstance(batch, TargetBatch):
    raise TypeError(
      f"batch must be a TargetBatch(inputs, targets, index); got {_checks.describe(batch)}."
    )
  return batch
