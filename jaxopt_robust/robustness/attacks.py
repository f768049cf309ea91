"""Gradient attacks on a batch: one step, projected ascent, and the worst point of many."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.robustness import _ascent, _balls
from jaxopt_robust.robustness.attack_losses import cross_entropy_attack_loss
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["AttackInfo", "fgsm_attack", "pgd_attack", "pgd_worst_case"]

ApplyFn = Callable[[PyTree, Array], Array]


class AttackInfo(NamedTuple):
  """What an attack on a classifier found.

  Attributes:
    value: float[batch], the loss at the point that is returned; at least float32.
    broken: bool[batch], whether any point that was looked at is misclassified (or has a NaN score),
      the clean example among them. Then the point that is returned is one of these.
    stalled: bool[batch], whether the gradient was 0 wherever it was computed: nothing was searched
      but the start, and an example that is not broken is not known to be robust.
    history: float[restarts, num_steps, batch], the largest loss of each restart so far at each
      step, which the restart's last point may still exceed.

  Example:
    >>> AttackInfo._fields
    ('value', 'broken', 'stalled', 'history')

  Reference:
    Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks, 2020, algorithm 1.
  """

  value: Array
  broken: Array
  stalled: Array
  history: Array


def fgsm_attack(
  objective: Callable[[Array], Array],
  x: ArrayLike,
  *,
  radius: ArrayLike,
  norm: str = "linf",
  bounds: tuple[ArrayLike, ArrayLike] | None = None,
) -> Array:
  r"""Fast gradient sign method (FGSM): one step to the surface of the ball.

  Computes x' = clip(x + radius * d), d the direction of norm 1 in which the objective rises most:
  sign(g) for "linf", g / ||g||_2 for "l2", the sign of the largest entry of g for "l1", with g the
  gradient at x.

  Args:
    objective: maps float[batch, ...] to float[batch]; entry i must depend on row i alone (no batch
      statistics), so that one call attacks the whole batch.
    x: float[batch, ...] clean examples.
    radius: >= 0, a scalar or float[batch]; may be traced.
    norm: "linf", "l2" or "l1", over all axes but the first.
    bounds: (low, high) that every entry of x' must respect, scalars or arrays of one example's
      shape, or None. The clean examples must lie within them.

  Returns:
    float[batch, ...] of the dtype of ``x``. No gradient flows through it.

  Raises:
    ValueError: x is empty or has rank 0, radius < 0, an unknown norm, bounds that are no pair or
      leave x out, or an objective that does not return one number an example.
    TypeError: x is not floating-point or objective is not callable.

  Note:
    Entries of a gradient that are not finite count as 0.

  Example:
    >>> towards = lambda v: v @ jnp.array([1.0, -2.0])
    >>> fgsm_attack(towards, jnp.zeros((1, 2)), radius=0.5)
    Array([[ 0.5, -0.5]], dtype=float32)

  Reference:
    Goodfellow, Shlens and Szegedy, Explaining and harnessing adversarial examples, 2015, section 4.
  """
  _arguments.check_callable("objective", objective)
  ball = _balls.make_ball(x, radius, norm, bounds)
  steepest = {"linf": _balls.sign, "l2": _balls.unit, "l1": _balls.one_hot}[norm]

  def rule(point: Array, value: Array, gradient: Array, memory: Any, x: Any) -> tuple[Array, Any]:
    return point + ball.radius * steepest(gradient), memory

  found = _ascent.ascend(
    lambda point: (objective(point), ()), ball.clean, rule, num_steps=1, confine=ball.confine
  )
  return jax.lax.stop_gradient(found.point)


def pgd_attack(
  objective: Callable[[Array], Array],
  x: ArrayLike,
  key: ArrayLike,
  *,
  radius: ArrayLike,
  stepsize: ArrayLike,
  num_steps: int,
  norm: str = "linf",
  bounds: tuple[ArrayLike, ArrayLike] | None = None,
) -> Array:
  r"""Projected gradient ascent in a ball around each example, from a random point of it.

  Computes an approximate maximiser of objective(x')_i over ||x'_i - x_i|| <= radius by
  x' <- P( x' + stepsize * g ) with g = sign(gradient) for "linf", gradient / ||gradient||_2 for
  "l2", and h / ||h||_1 for "l1", h the largest tenth of the entries of the gradient; P projects on
  the ball and then clips to the bounds. The start is uniform in the ball.

  Args:
    objective: maps float[batch, ...] to float[batch]; entry i must depend on row i alone (no batch
      statistics), so that one call attacks the whole batch.
    x: float[batch, ...] clean examples.
    key: typed PRNG key for the start.
    radius: >= 0, a scalar or float[batch]; may be traced.
    stepsize: > 0, a scalar or float[batch]; may be traced.
    num_steps: static integer >= 1.
    norm: "linf", "l2" or "l1", over all axes but the first.
    bounds: (low, high) that every entry of x' must respect, scalars or arrays of one example's
      shape, or None. The clean examples must lie within them.

  Returns:
    float[batch, ...] of the dtype of ``x``, the last iterate. No gradient flows through it.

  Raises:
    ValueError: x is empty or has rank 0, radius < 0, stepsize <= 0, num_steps < 1, an unknown norm,
      bounds that are no pair or leave x out, or an objective that does not return one number an
      example.
    TypeError: x is not floating-point, key is not a typed key, objective is not callable, or
      num_steps is not an integer.

  Note:
    Entries of a gradient that are not finite count as 0: the attack does not move along them. With
    radius 0 the clean examples come back unchanged. Distances are kept up to one rounding of x'.
    Where the softmax saturates, the cross entropy has gradient 0 and x' stays at its start:
    maximise ``cross_entropy_attack_loss`` or ``margin_attack_loss``. Clipping after the projection
    gives a point of both sets, for "l2" and "l1" not the nearest one. In the l_1 ball the steepest
    step moves one entry, which is slow; entries at a side of the box are passed over.

  Example:
    >>> x = jnp.zeros((1, 2))
    >>> towards = lambda v: v @ jnp.array([1.0, -2.0])
    >>> pgd_attack(towards, x, jax.random.key(0), radius=0.5, stepsize=0.2, num_steps=10)
    Array([[ 0.5, -0.5]], dtype=float32)

  Reference:
    Madry, Makelov, Schmidt, Tsipras and Vladu, Towards deep learning models resistant to
    adversarial attacks, 2018, section 2.1. Sparse steps in the l_1 ball: Tramer and Boneh,
    Adversarial training and robustness for multiple perturbations, 2019; that theirs are signs and
    ours in proportion is our choice.
  """
  _arguments.check_callable("objective", objective)
  ball = _balls.make_ball(x, radius, norm, bounds)
  key = _checks.check_key("key", key)
  num_steps = _checks.check_int("num_steps", num_steps, minimum=1)
  _checks.check_positive("stepsize", stepsize)
  length = _balls.per_example("stepsize", stepsize, ball.clean)

  def rule(point: Array, value: Array, gradient: Array, memory: Any, x: Any) -> tuple[Array, Any]:
    return point + length * ball.direction(gradient, point), memory

  start = ball.start(key)
  found = _ascent.ascend(
    lambda point: (objective(point), ()), start, rule, num_steps=num_steps, confine=ball.confine
  )
  return jax.lax.stop_gradient(found.point)


def pgd_worst_case(
  apply_fn: ApplyFn,
  params: PyTree,
  x: ArrayLike,
  labels: ArrayLike,
  key: ArrayLike,
  *,
  radius: ArrayLike,
  num_steps: int = 40,
  stepsize: ArrayLike | None = None,
  optimizer: optax.GradientTransformation | None = None,
  restarts: int = 1,
  norm: str = "linf",
  bounds: tuple[ArrayLike, ArrayLike] | None = None,
  loss: Callable[..., Array] = cross_entropy_attack_loss,
) -> tuple[Array, AttackInfo]:
  r"""The worst point that projected gradient ascent (PGD) with restarts meets, of a classifier.

  Runs ``pgd_attack`` of loss(apply_fn(params, x'), labels) from ``restarts`` random points and
  looks at every iterate, the starts and the clean examples: an example is broken if any of them is
  misclassified. Returned is the misclassified point with the largest loss, or else the point with
  the largest loss.

  Args:
    apply_fn: ``apply_fn(params, x) -> float[batch, classes]``, row by row (no batch statistics).
    params: pytree of parameters.
    x: float[batch, ...] clean examples.
    labels: int[batch] classes.
    key: typed PRNG key for the starts.
    radius: >= 0, a scalar or float[batch]; may be traced.
    num_steps: static integer >= 1.
    stepsize: > 0, a scalar or float[batch]; may be traced. 2.5 radius / num_steps by default.
    optimizer: in place of steps of one size: an optax optimizer that minimises minus the loss, such
      as ``optax.adam(0.01)``, with a state for each example.
    restarts: static integer >= 1. More of them keep the first ones.
    norm: "linf", "l2" or "l1", over all axes but the first.
    bounds: (low, high) that every entry of x' must respect, scalars or arrays of one example's
      shape, or None. The clean examples must lie within them.
    loss: ``loss(logits, labels) -> float[batch]``, what is maximised.

  Returns:
    (float[batch, ...] of the dtype of ``x``, ``AttackInfo``). No gradient flows through them.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, radius < 0, stepsize <= 0,
      num_steps < 1, restarts < 1, an unknown norm, bounds that are no pair or leave x out, or
      stepsize and optimizer at once.
    TypeError: x is not floating-point, key is not a typed key, a function is not callable, or
      optimizer is none.

  Note:
    An accuracy is what is left of several attacks: ``~info.broken`` of each, by ``&``. An optimizer
    takes the place of the directions of ``pgd_attack``: normalised steps in the l_2 ball with
    momentum are ``optax.chain(optax.normalize_by_update_norm(), optax.sgd(a, momentum=0.9))``. Its
    learning rate may be traced, and then is the same for all examples.

  Example:
    >>> linear = lambda weights, x: x @ weights
    >>> x, labels = jnp.array([[1.0, 0.0], [0.2, 0.0]]), jnp.array([0, 0])
    >>> found, info = pgd_worst_case(
    ...   linear, jnp.eye(2), x, labels, jax.random.key(0), radius=0.25, num_steps=10
    ... )
    >>> info.broken
    Array([False,  True], dtype=bool)

  Reference:
    Madry, Makelov, Schmidt, Tsipras and Vladu, Towards deep learning models resistant to
    adversarial attacks, 2018, sections 2.1 and 4.
  """
  ball = _balls.make_ball(x, radius, norm, bounds)
  key = _checks.check_key("key", key)
  num_steps = _checks.check_int("num_steps", num_steps, minimum=1)
  objective, index = classification(apply_fn, params, ball.clean, labels, loss)
  if optimizer is not None and stepsize is not None:
    raise ValueError("stepsize must be None where an optimizer is given: it has its own.")
  if optimizer is not None:
    _arguments.check_optimizer("optimizer", optimizer)
  if stepsize is None:
    length = 2.5 / num_steps * ball.radius
  else:
    _checks.check_positive("stepsize", stepsize)
    length = _balls.per_example("stepsize", stepsize, ball.clean)

  def fixed(point: Array, value: Array, gradient: Array, memory: Any, x: Any) -> tuple[Array, Any]:
    return point + length * ball.direction(gradient, point), memory

  def attempt(key: Array) -> Attempt:
    start, memory = ball.start(key), ()
    rule: _ascent.Rule = fixed
    if optimizer is not None:
      rule, memory = _ascent.optax_rule(optimizer, start)
    return search(
      objective, index, start, rule, num_steps=num_steps, memory=memory, confine=ball.confine
    )

  return worst_of(attempt, objective, index, ball.clean, key, restarts)


class Attempt(NamedTuple):
  """One restart: the worst point, whether the gradient was always 0, and the losses."""

  worst: _ascent.Worst
  stalled: Array
  history: Array


def classification(
  apply_fn: ApplyFn, params: PyTree, clean: Array, labels: ArrayLike, loss: Callable[..., Array]
) -> tuple[_ascent.Objective, Array]:
  """The objective ``x -> (losses, scores)`` and the labels, after their checks."""
  _arguments.check_callable("apply_fn", apply_fn)
  _arguments.check_callable("loss", loss)
  shape = jax.eval_shape(apply_fn, params, clean).shape
  if len(shape) != 2 or shape[0] != clean.shape[0] or shape[1] < 2:
    raise ValueError(
      f"apply_fn must return scores of shape ({clean.shape[0]}, classes), at least two classes; "
      f"got {shape}."
    )
  index = _checks.check_labels("labels", labels, shape=shape[:1], num_classes=shape[1])

  def objective(point: Array) -> tuple[Array, Array]:
    logits = apply_fn(params, point)
    return numerics.upcast(loss(logits, index)), logits

  return objective, index


def search(
  objective: _ascent.Objective, labels: Array, start: Array, rule: _ascent.Rule, **options: Any
) -> Attempt:
  """Ascends, and keeps the worst of all points and whether a gradient was ever there."""

  def look(seen: Any, point: Array, value: Array, gradient: Array, logits: Array) -> Any:
    worst, stalled, top = seen
    now = _ascent.Worst(point, value, _ascent.is_wrong(logits, labels))
    is_flat = jnp.all(gradient.reshape(gradient.shape[0], -1) == 0, axis=1)
    return _ascent.worse(worst, now), stalled & is_flat, jnp.fmax(top, value)

  none = jnp.zeros(start.shape[:1], bool)
  dtype = jax.eval_shape(objective, start)[0].dtype
  lowest = jnp.full(start.shape[:1], -jnp.inf, dtype)
  seen = (_ascent.Worst(start, lowest, none), ~none, lowest)
  found = _ascent.ascend(
    objective, start, rule, look=look, seen=seen, emit=lambda seen: seen[2], **options
  )
  worst, stalled, _ = found.seen
  value, logits = objective(found.point)
  last = _ascent.Worst(found.point, value, _ascent.is_wrong(logits, labels))
  return Attempt(_ascent.worse(worst, last), stalled, found.history)


def worst_of(
  attempt: Callable[[Array], Attempt],
  objective: _ascent.Objective,
  labels: Array,
  clean: Array,
  key: Array,
  restarts: int,
) -> tuple[Array, AttackInfo]:
  """The worst of the clean examples and of all restarts."""
  restarts = _checks.check_int("restarts", restarts, minimum=1)
  # By fold_in and not by split, so that more restarts begin with the same ones.
  keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(restarts))

  def step(carry: Any, key: Array) -> Any:
    worst, stalled = carry
    one = attempt(key)
    return (_ascent.worse(worst, one.worst), stalled & one.stalled), one.history

  value, logits = objective(clean)
  first = _ascent.Worst(clean, value, _ascent.is_wrong(logits, labels))
  carry = (first, jnp.ones(clean.shape[:1], bool))
  (worst, stalled), history = jax.lax.scan(step, carry, keys)
  info = AttackInfo(worst.value, worst.broken, stalled, history)
  return jax.lax.stop_gradient((worst.x, info))
