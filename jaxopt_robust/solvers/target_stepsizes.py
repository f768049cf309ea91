"""Step sizes in the space of a model's outputs: schedules, AdaGrad, curvatures."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust._units import in_units
from jaxopt_robust.numerics import safe_divide
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "TargetBatch",
  "TargetPoint",
  "TargetStepsize",
  "inverse_sqrt_schedule",
  "target_adagrad",
  "target_curvature",
  "target_example_adagrad",
]

Schedule = ArrayLike | Callable[[Array], ArrayLike]


class TargetBatch(NamedTuple):
  """A batch of examples.

  Attributes:
    inputs: what ``apply_fn(params, inputs)`` takes.
    targets: what the oracle takes beside the outputs, such as labels; None where it needs nothing.
    index: int32[batch], numbers of the examples, for steps that remember each; None for others.
  """

  inputs: PyTree
  targets: PyTree = None
  index: ArrayLike | None = None  # type: ignore[assignment]


class TargetPoint(NamedTuple):
  """What a step size may depend on: one call of the oracle.

  Attributes:
    count: int32, steps done before.
    outputs: z_t, float[batch, ...].
    gradient: u_t, like the outputs.
    value: l(z_t), scalar.
    value_fn: ``value_fn(outputs) -> scalar``, l on this batch.
    batch: the ``TargetBatch``.
  """

  count: Array  # type: ignore[assignment]
  outputs: Array
  gradient: Array
  value: Array
  value_fn: Callable[[Array], Array]
  batch: TargetBatch


class TargetStepsize(NamedTuple):
  """A rule for the step size eta and the weights w of a surrogate.

  Attributes:
    init: ``init(outputs) -> memory``, of the first outputs or their shape and dtype.
    update: ``update(memory, point) -> (stepsize, weights, memory, evaluations)`` with a
      ``TargetPoint``: a scalar eta, w that broadcasts against the outputs (None: 1), and int32 of
      the values of the loss that it took.
  """

  init: Callable[[Any], PyTree]
  update: Callable[[PyTree, TargetPoint], tuple[Array, Array | None, PyTree, Array]]


def inverse_sqrt_schedule(init_value: ArrayLike) -> Callable[[Array], Array]:
  r"""Step sizes init_value / sqrt(count + 1), for stochastic gradients of convex objectives.

  Args:
    init_value: > 0, the first step; may be traced.

  Returns:
    A schedule ``count -> float``, as optax has others: ``optax.exponential_decay(eta, T, 1 / T)``
    goes from eta to eta / T in T steps.

  Raises:
    ValueError: ``init_value`` is not positive and known.

  Example:
    >>> inverse_sqrt_schedule(2.0)(jnp.array(3))
    Array(1., dtype=float32)

  Reference:
    Lavington, Vaswani, Babanezhad, Schmidt and Le Roux, Target-based surrogates for stochastic
    optimization, 2023 (step sizes of the convex setting).
  """
  _checks.check_positive("init_value", init_value, scalar=True)

  def schedule(count: Array) -> Array:
    steps = jnp.asarray(count + 1, jnp.result_type(float))
    return jnp.asarray(init_value) * jax.lax.rsqrt(steps)

  return schedule


def stepsize_rule(stepsize: Schedule | TargetStepsize) -> TargetStepsize:
  """A rule from a number, a schedule or a rule."""
  if isinstance(stepsize, TargetStepsize):
    return stepsize
  if not callable(stepsize):
    _checks.check_positive("stepsize", stepsize, scalar=True)

  def update(memory: PyTree, point: TargetPoint) -> tuple:
    return _at(stepsize, point), None, memory, jnp.zeros((), jnp.int32)

  return TargetStepsize(lambda outputs: (), update)


def target_adagrad(stepsize: Schedule = 1.0) -> TargetStepsize:
  r"""One step size that shrinks with all gradients seen: eta / sqrt(sum_s ||u_s||_2^2).

  Args:
    stepsize: eta > 0 (may be traced), or a schedule ``count -> number``.

  Returns:
    ``TargetStepsize`` for ``sso``. The sum holds the present gradient too.

  Raises:
    ValueError: ``stepsize`` is not positive and known.

  Example:
    >>> solver = jr.solvers.sso(lambda w, x: x @ w, jax.value_and_grad(lambda z, y: jnp.sum(z * y)),
    ...                         stepsize=target_adagrad(3.0), inner=optax.sgd(1.0))
    >>> batch = jr.solvers.TargetBatch(jnp.eye(2), jnp.array([3.0, 4.0]))
    >>> state, info = solver.step(solver.init(jnp.zeros(2), None, batch), None, batch)
    >>> round(float(info.stepsize), 3)  # 3 / 5
    0.6

  Reference:
    Lavington, Vaswani, Babanezhad, Schmidt and Le Roux, Target-based surrogates for stochastic
    optimization, 2023; Ward, Wu and Bottou, AdaGrad stepsizes, 2019 (the norm version).
  """
  _check_stepsize(stepsize)

  def init(outputs: Any) -> Array:
    return jnp.zeros((), outputs.dtype)

  def update(memory: Array, point: TargetPoint) -> tuple:
    root = _hypot(memory, point.gradient)  # of the sum of squares, which may overflow
    eta = _at(stepsize, point)
    # Without any gradient any step does: the surrogate is a distance alone.
    return safe_divide(eta, root, default=eta), None, root, jnp.zeros((), jnp.int32)

  return TargetStepsize(init, update)


def target_example_adagrad(
  stepsize: Schedule = 1.0, *, num_examples: int, initial: ArrayLike = 1e-5
) -> TargetStepsize:
  r"""A step size for each output of each example: eta / sqrt(sum_s u_{s,i}^2).

  The weights of the surrogate are the roots of the sums, so that examples with large gradients so
  far move less.

  Args:
    stepsize: eta > 0 (may be traced), or a schedule ``count -> number``.
    num_examples: >= 1, static, rows of the memory; ``TargetBatch.index`` says which a batch has,
      each once at most.
    initial: >= 0, what the sums start from, in units of squared gradients.

  Returns:
    ``TargetStepsize`` for ``sso``. The sums hold the present gradients too.

  Raises:
    TypeError: ``num_examples`` is no static integer.
    ValueError: a number is out of its range, or a batch has no index.

  Example:
    >>> solver = jr.solvers.sso(lambda w, x: x @ w, jax.value_and_grad(lambda z, y: jnp.sum(z * y)),
    ...                         stepsize=target_example_adagrad(1.0, num_examples=2, initial=0.0),
    ...                         inner=optax.sgd(1.0), num_inner=2)
    >>> batch = jr.solvers.TargetBatch(jnp.eye(2), jnp.array([3.0, -4.0]), jnp.arange(2))
    >>> state, _ = solver.step(solver.init(jnp.zeros(2), None, batch), None, batch)
    >>> state.memory.tolist()
    [9.0, 16.0]

  Reference:
    Lavington, Vaswani, Babanezhad, Schmidt and Le Roux, Target-based surrogates for stochastic
    optimization, 2023 (public code, diagonal AdaGrad, whose sums are kept in [1e-5, 1e5]).
  """
  _check_stepsize(stepsize)
  num_examples = _checks.check_int("num_examples", num_examples, minimum=1)
  _checks.check_non_negative("initial", initial, scalar=True)

  def init(outputs: Any) -> Array:
    shape = (num_examples, *outputs.shape[1:])
    return jnp.full(shape, jnp.asarray(initial, outputs.dtype), outputs.dtype)

  def update(memory: Array, point: TargetPoint) -> tuple:
    if point.batch.index is None:
      raise ValueError("target_example_adagrad needs the index of the examples in TargetBatch.")
    index = _checks.check_index(
      "index", point.batch.index, shape=point.outputs.shape[:1], num_examples=num_examples
    )
    memory = memory.at[index].add(point.gradient**2, mode="drop")
    sums = memory.at[index].get(mode="fill", fill_value=0)
    roots = jnp.where(sums == 0, 0, jnp.sqrt(jnp.where(sums == 0, 1, sums)))
    return _at(stepsize, point), roots, memory, jnp.zeros((), jnp.int32)

  return TargetStepsize(init, update)


def target_curvature(
  curvature: Callable[[Array, PyTree], ArrayLike], stepsize: Schedule = 1.0
) -> TargetStepsize:
  r"""Weights from the curvature of the loss in its outputs: a Newton step in their space.

  Args:
    curvature: ``curvature(outputs, targets) -> weights >= 0`` that broadcast against the outputs,
      such as p (1 - p) + 1e-5 with p = sigmoid(z) for the logistic loss.
    stepsize: eta > 0 (may be traced), or a schedule ``count -> number``.

  Returns:
    ``TargetStepsize`` for ``sso``.

  Raises:
    TypeError: ``curvature`` is not a function.
    ValueError: ``stepsize`` is not positive and known.

  Example:
    >>> logistic = lambda z, y: jnp.sum(jax.nn.softplus(z) - y * z)
    >>> def curvature(z, y):
    ...   return jax.nn.sigmoid(z) * jax.nn.sigmoid(-z) + 1e-5
    >>> solver = jr.solvers.sso(lambda w, x: x @ w, jax.value_and_grad(logistic),
    ...                         stepsize=target_curvature(curvature),
    ...                         inner=optax.sgd(4.0))
    >>> batch = jr.solvers.TargetBatch(jnp.ones((4, 1)), jnp.array([1.0, 1.0, 1.0, 0.0]))
    >>> w, _ = jr.solvers.run_steps(solver, jnp.zeros(1), None, batch, num_steps=1)
    >>> w  # one step of size 4 along the sum of y - 1/2
    Array([4.], dtype=float32)

  Reference:
    Lavington, Vaswani, Babanezhad, Schmidt and Le Roux, Target-based surrogates for stochastic
    optimization, 2023 (public code, online Newton).
  """
  _arguments.check_callable("curvature", curvature)
  _check_stepsize(stepsize)

  def update(memory: PyTree, point: TargetPoint) -> tuple:
    weights = jnp.asarray(curvature(point.outputs, point.batch.targets), point.outputs.dtype)
    return _at(stepsize, point), weights, memory, jnp.zeros((), jnp.int32)

  return TargetStepsize(lambda outputs: (), update)


def _hypot(a: Array, vector: Array) -> Array:
  """sqrt(a^2 + ||vector||_2^2) of any scale; the derivative by a zero vector is 0."""
  scaled, unit = in_units(vector)
  square = jnp.sum(scaled**2)
  is_zero = square == 0
  size = (unit * jnp.sqrt(jnp.where(is_zero, 1, square))).astype(a.dtype)
  return jnp.where(is_zero, a, jnp.hypot(a, size))


def _check_stepsize(stepsize: Schedule) -> None:
  if not callable(stepsize):
    _checks.check_positive("stepsize", stepsize, scalar=True)


def _at(stepsize: Schedule, point: TargetPoint) -> Array:
  """The number, or what a schedule says of it now, in the dtype of the outputs."""
  eta = stepsize(point.count) if callable(stepsize) else stepsize
  eta = jnp.asarray(eta, point.outputs.dtype)
  if eta.shape != ():
    raise ValueError(f"stepsize(count) must return a scalar; got shape {eta.shape}.")
  return eta
