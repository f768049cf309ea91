"""Training of unfolded networks: end to end, or layer after layer (incremental)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import tree_all_finite
from jaxopt_robust.solvers.types import CONVERGED, NON_FINITE
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["Trained", "from_positive", "to_positive", "train_end_to_end", "train_incremental"]


class Trained(NamedTuple):
  """A finished training.

  Attributes:
    params: the parameters after the last step.
    history: the loss of each step's batch before its update: float[num_steps], or
      float[num_layers, num_steps] where layers were added one after the other.
    evaluations: what ``evaluate`` returned after each stage, with a leading axis of stages; None
      without one.
    status: int32, 0, or 2 where a loss or a parameter is NaN or infinite.

  Example:
    >>> Trained._fields
    ('params', 'history', 'evaluations', 'status')

  Reference:
    Ito, Takabe and Wadayama, Trainable ISTA for sparse signal recovery, 2019.
  """

  params: PyTree
  history: Array
  evaluations: PyTree
  status: Array


def to_positive(free: PyTree, *, scale: ArrayLike = 1.0) -> PyTree:
  r"""Positive parameters out of free ones: scale softplus(z) = scale log(1 + exp(z)).

  Steps and thresholds must stay positive. Train z instead of them: far below ``scale`` an update of
  z is relative, far above it is absolute, and there is always a gradient.

  Args:
    free: pytree of float arrays, z.
    scale: > 0, a scalar, the size that softplus turns at; may be traced.

  Returns:
    pytree like ``free`` of positive numbers.

  Raises:
    TypeError: when ``free`` holds anything but real numbers.
    ValueError: when ``scale`` is not positive.

  Note:
    Below z = -103 (float32) the result is 0.

  Example:
    >>> to_positive(jnp.zeros(1), scale=2.0).round(4)
    Array([1.3863], dtype=float32)

  Reference:
    Dugas, Bengio, Belisle, Nadeau and Garcia, Incorporating second-order functional knowledge for
    better option pricing, 2001 (softplus).
  """
  free = _checks.check_float_tree("free", free)
  _checks.check_positive("scale", scale, scalar=True)
  return jax.tree.map(lambda z: jnp.asarray(scale, z.dtype) * jax.nn.softplus(z), free)


def from_positive(values: PyTree, *, scale: ArrayLike = 1.0) -> PyTree:
  r"""The free parameters of given positive ones: z with scale softplus(z) = v.

  z = u + log(1 - exp(-u)) with u = v / scale, without cancellation or overflow for any u.

  Args:
    values: pytree of float arrays > 0.
    scale: > 0, a scalar, as in ``to_positive``.

  Returns:
    pytree like ``values``.

  Raises:
    TypeError: when ``values`` holds anything but real numbers.
    ValueError: when a number is not positive.

  Example:
    >>> values = jnp.array([0.01, 1.0, 50.0])
    >>> bool(jnp.allclose(to_positive(from_positive(values)), values))
    True

  Reference:
    The inverse of softplus, as for ``to_positive``.
  """
  values = _checks.check_float_tree("values", values)
  for leaf in jax.tree.leaves(values):
    _checks.check_positive("values", leaf)
  _checks.check_positive("scale", scale, scalar=True)

  def one(value: Array) -> Array:
    u = value / jnp.asarray(scale, value.dtype)
    return u + jnp.log(-jnp.expm1(-u))

  return jax.tree.map(one, values)


class _Setup(NamedTuple):
  """What a stage of training needs besides its key, its start and its depth."""

  loss: Callable[..., Array]
  optimizer: optax.GradientTransformation
  sampler: Callable[[Array], PyTree]
  num_steps: int


def _setup(key: Any, loss: Any, optimizer: Any, sampler: Any, num_steps: Any) -> _Setup:
  _checks.check_key("key", key)
  _arguments.check_callable("loss", loss)
  _arguments.check_callable("sampler", sampler)
  if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", 0))):
    raise TypeError(
      f"optimizer must be an optax transformation; got {_checks.describe(optimizer)}."
    )
  num_steps = _checks.check_int("num_steps", num_steps, minimum=1)
  return _Setup(loss, optimizer, sampler, num_steps)


def _stage(setup: _Setup, key: Array, params: PyTree, depth: Any) -> tuple[PyTree, Array]:
  """``num_steps`` updates from a fresh optimizer state, each on a fresh batch: one scan."""

  def objective(params: PyTree, batch: PyTree) -> Array:
    value = setup.loss(params, batch, depth)
    if not hasattr(value, "shape") or value.shape != ():
      raise ValueError(f"loss must return a scalar; got {_checks.describe(value)}.")
    return value

  def step(carry: tuple, key: Array) -> tuple[tuple, Array]:
    params, state = carry
    value, grads = jax.value_and_grad(objective)(params, setup.sampler(key))
    updates, state = setup.optimizer.update(grads, state, params)
    return (optax.apply_updates(params, updates), state), value

  start = (params, setup.optimizer.init(params))
  (params, _), values = jax.lax.scan(step, start, jax.random.split(key, setup.num_steps))
  return params, values


def _finished(params: PyTree, history: Array, evaluations: PyTree) -> Trained:
  finite = jnp.all(jnp.isfinite(history)) & tree_all_finite(params)
  status = jnp.where(finite, CONVERGED, NON_FINITE).astype(jnp.int32)
  return Trained(params, history, evaluations, status)


def train_end_to_end(
  key: Array,
  loss: Callable[..., Array],
  params: PyTree,
  *,
  optimizer: optax.GradientTransformation,
  sampler: Callable[[Array], PyTree],
  num_steps: int,
) -> Trained:
  r"""Trains all layers at once, each step on a fresh batch: one ``lax.scan``.

  Args:
    key: typed PRNG key; each step's batch has a key of its own.
    loss: ``loss(params, batch, depth) -> scalar``; ``depth`` is None here: all layers.
    params: pytree of float arrays, the start.
    optimizer: any optax chain; its numbers may be traced.
    sampler: ``sampler(key) -> batch``, a pure function.
    num_steps: >= 1, static.

  Returns:
    ``Trained`` with ``history`` float[num_steps].

  Raises:
    TypeError: when an argument is of another kind.
    ValueError: when ``num_steps`` is below 1 or the loss is no scalar.

  Note:
    Deep thresholding networks hardly train this way: the gradient vanishes where entries are
    dropped. ``train_incremental`` adds one layer after the other. Jit the call: nothing is cached.

  Example:
    >>> matrix = jnp.eye(4)
    >>> def loss(params, batch, depth):
    ...   data = jr.unfolding.Measurements(batch.y, matrix)
    ...   x, _ = jr.unfolding.unfold(
    ...     jr.unfolding.ista_cell, params, jnp.zeros((8, 4)), data, depth=depth)
    ...   return jr.unfolding.supervised_loss(x, batch.truth).mean()
    >>> trained = train_end_to_end(
    ...   jax.random.key(0), loss, jr.unfolding.ista_layers(matrix, 0.5, num_layers=2),
    ...   optimizer=optax.adam(0.05),
    ...   sampler=lambda key: jr.unfolding.sample_sparse_batch(key, matrix, batch=8),
    ...   num_steps=20)
    >>> trained.history.shape, int(trained.status)
    ((20,), 0)

  Reference:
    Gregor and LeCun, Learning fast approximations of sparse coding, 2010.
  """
  setup = _setup(key, loss, optimizer, sampler, num_steps)
  params = _checks.check_float_tree("params", params)
  params, history = _stage(setup, key, params, None)
  return _finished(params, history, None)


def train_incremental(
  key: Array,
  loss: Callable[..., Array],
  params: PyTree,
  *,
  optimizer: optax.GradientTransformation,
  sampler: Callable[[Array], PyTree],
  num_layers: int,
  num_steps: int,
  evaluate: Callable[..., PyTree] | None = None,
) -> Trained:
  r"""Trains the first layer, then the first two, and so on: each stage from the last one's end.

  Stage k = 1, ..., K minimises the loss of the first k layers over the parameters of all of them,
  from a fresh state of the optimizer; layer k starts at its initial value. The stages are one
  ``lax.scan`` around that over the steps: one program, in which layers behind k are skipped.

  Args:
    key: typed PRNG key; each step's batch has a key of its own.
    loss: ``loss(params, batch, depth) -> scalar`` of the first ``depth`` layers, an int32 scalar
      that is traced: hand it to ``unfold``. Layers behind it must get no gradient.
    params: pytree of float arrays, the start of all layers.
    optimizer: any optax chain; its numbers may be traced. What moves parameters without a gradient
      (weight decay) moves the layers behind the stage as well.
    sampler: ``sampler(key) -> batch``, a pure function.
    num_layers: K >= 1, static.
    num_steps: >= 1, static, of each stage.
    evaluate: ``evaluate(params, depth) -> pytree`` after each stage, for example
      ``lambda params, depth: params``.

  Returns:
    ``Trained`` with ``history`` float[num_layers, num_steps].

  Raises:
    TypeError: when an argument is of another kind.
    ValueError: when a number is below 1 or the loss is no scalar.

  Note:
    Under ``vmap`` over seeds or settings the depth is common to all, and layers are still skipped.
    Jit the call: nothing is cached.

  Example:
    >>> matrix = jnp.eye(4)
    >>> def loss(params, batch, depth):
    ...   data = jr.unfolding.Measurements(batch.y, matrix)
    ...   x, _ = jr.unfolding.unfold(
    ...     jr.unfolding.ista_cell, params, jnp.zeros((8, 4)), data, depth=depth)
    ...   return jr.unfolding.l1_objective(x, data, strength=0.5).mean()
    >>> trained = train_incremental(
    ...   jax.random.key(0), loss, jr.unfolding.ista_layers(matrix, 0.4, num_layers=2),
    ...   optimizer=optax.adam(0.01),
    ...   sampler=lambda key: jr.unfolding.sample_sparse_batch(key, matrix, batch=8),
    ...   num_layers=2, num_steps=10)
    >>> trained.history.shape, int(trained.status)
    ((2, 10), 0)

  Reference:
    Ito, Takabe and Wadayama, Trainable ISTA for sparse signal recovery, 2019 (incremental
    training).
  """
  setup = _setup(key, loss, optimizer, sampler, num_steps)
  params = _checks.check_float_tree("params", params)
  num_layers = _checks.check_int("num_layers", num_layers, minimum=1)
  if evaluate is not None:
    _arguments.check_callable("evaluate", evaluate)

  def stage(params: PyTree, item: tuple) -> tuple[PyTree, tuple]:
    key, depth = item
    params, values = _stage(setup, key, params, depth)
    seen = None if evaluate is None else evaluate(params, depth)
    return params, (values, seen)

  depths = jnp.arange(1, num_layers + 1, dtype=jnp.int32)
  keys = jax.random.split(key, num_layers)
  params, (history, evaluations) = jax.lax.scan(stage, params, (keys, depths))
  return _finished(params, history, evaluations)
