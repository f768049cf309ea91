"""AutoPGD, which chooses its own step sizes, and robust accuracy by an ensemble of its attacks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _checks, numerics
from jaxopt_robust.robustness import _ascent, _balls
from jaxopt_robust.robustness.attack_losses import (
  cross_entropy_attack_loss,
  targeted_dlr_attack_loss,
  targeted_margin_attack_loss,
)
from jaxopt_robust.robustness.attacks import (
  ApplyFn,
  AttackInfo,
  Attempt,
  classification,
  search,
  worst_of,
)
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["RobustnessInfo", "apgd_attack", "robust_accuracy"]

_MOMENTUM = 0.75  # share of the new step; the rest is the move before
_ENOUGH = 0.75  # share of the steps of a window that must raise the loss
_FIRST, _LESS, _LEAST = 0.22, 0.03, 0.06  # windows: the first, by how much they shrink, to what


class _Memory(NamedTuple):
  """What AutoPGD carries; numbers and masks are [batch]."""

  before: Array  # the iterate before
  best: Array  # the best iterate, its gradient and its loss
  gradient: Array
  value: Array
  stepsize: Array
  last: Array  # the loss of the iterate before
  rises: Array  # int32, rises of the loss since the checkpoint
  at_checkpoint: Array  # the best loss then
  halved: Array  # whether the step was halved then


def _windows(num_steps: int) -> tuple[np.ndarray, np.ndarray]:
  """Whether each step, from 1 on, ends a window, and the length of the window that it is in."""
  share = lambda part: max(int(part * num_steps), 1)
  length, less, least = share(_FIRST), share(_LESS), share(_LEAST)
  ends, lengths = np.zeros(num_steps, bool), np.zeros(num_steps, np.int32)
  start = 0
  while start < num_steps:
    lengths[start : start + length] = length
    if start + length <= num_steps:
      ends[start + length - 1] = True
    start, length = start + length, max(length - less, least)
  return ends, lengths


def _make_rule(ball: _balls.Ball) -> _ascent.Rule:
  """The step of AutoPGD. What step k left behind is judged when step k + 1 begins."""

  def rule(
    point: Array, value: Array, gradient: Array, memory: _Memory, x: Any
  ) -> tuple[Array, _Memory]:
    is_first, is_end, length = x
    before = jnp.where(is_first, point, memory.before)
    better = is_first | (value > memory.value)
    best, best_gradient = (
      _ascent.choose(better, new, old)
      for new, old in ((point, memory.best), (gradient, memory.gradient))
    )
    top = jnp.where(better, value, memory.value)
    at_checkpoint = jnp.where(is_first, value, memory.at_checkpoint)
    rises = memory.rises + (~is_first & (value > memory.last)).astype(jnp.int32)
    poor = rises.astype(value.dtype) <= _ENOUGH * length.astype(value.dtype)
    # Not halved at the last checkpoint, and no better since: then the step is too long as well.
    idle = ~memory.halved & (at_checkpoint >= top)
    halve = is_end & (poor | idle)
    stepsize = jnp.where(_balls.over_batch(halve, point), memory.stepsize / 2, memory.stepsize)
    current = _ascent.choose(halve, best, point)
    slope = _ascent.choose(halve, best_gradient, gradient)
    kept = _Memory(
      before=current,
      best=best,
      gradient=best_gradient,
      value=top,
      stepsize=stepsize,
      last=value,
      rises=jnp.where(is_end, 0, rises),
      at_checkpoint=jnp.where(is_end, top, at_checkpoint),
      halved=jnp.where(is_end, halve, memory.halved),
    )
    # After a return to the best point the move is counted from there, as in the authors' code.
    return _momentum_step(ball, current, slope, stepsize, before, is_first), kept

  return rule


def _momentum_step(
  ball: _balls.Ball, point: Array, slope: Array, stepsize: Array, before: Array, is_first: Array
) -> Array:
  aim = ball.confine(point + stepsize * ball.direction(slope, point))
  share = jnp.where(is_first, 1.0, _MOMENTUM).astype(point.dtype)
  return point + share * (aim - point) + (1 - share) * (point - before)


def apgd_attack(
  apply_fn: ApplyFn,
  params: PyTree,
  x: ArrayLike,
  labels: ArrayLike,
  key: ArrayLike,
  *,
  radius: ArrayLike,
  num_steps: int = 100,
  restarts: int = 1,
  norm: str = "linf",
  bounds: tuple[ArrayLike, ArrayLike] | None = None,
  loss: Callable[..., Array] = cross_entropy_attack_loss,
) -> tuple[Array, AttackInfo]:
  r"""AutoPGD (APGD): projected ascent with momentum that halves its own step sizes.

  With P the projection on the ball and then the bounds, d(g) the direction of ``pgd_attack`` and
  the step a = 2 radius at first,

    u = P( x_k + a d(g_k) ),  x_{k+1} = P( x_k + 0.75 (u - x_k) + 0.25 (x_k - x_{k-1}) ).

  At checkpoints, known from num_steps, each example is judged by itself: where at most 3/4 of the
  steps since the last one raised the loss, or where a was not halved there and the best loss is the
  same, a is halved and the search goes on from the best point.

  Args:
    apply_fn: ``apply_fn(params, x) -> float[batch, classes]``, row by row (no batch statistics).
    params: pytree of parameters.
    x: float[batch, ...] clean examples.
    labels: int[batch] classes.
    key: typed PRNG key for the starts, on the surface of the ball.
    radius: >= 0, a scalar or float[batch]; may be traced.
    num_steps: static integer >= 1.
    restarts: static integer >= 1. More of them keep the first ones.
    norm: "linf", "l2" or "l1", over all axes but the first.
    bounds: (low, high) that every entry of x' must respect, scalars or arrays of one example's
      shape, or None. The clean examples must lie within them.
    loss: ``loss(logits, labels) -> float[batch]``, what is maximised: ``cross_entropy_attack_loss``
      (APGD-CE), ``dlr_attack_loss`` (APGD-DLR), ``margin_attack_loss``, or with targets
      ``lambda z, y: targeted_dlr_attack_loss(z, y, targets)`` (APGD-T).

  Returns:
    (float[batch, ...] of the dtype of ``x``, ``AttackInfo``). As in ``pgd_worst_case`` all points
    count, and the misclassified one with the largest loss is returned (theirs: the last one). No
    gradient flows through them.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, radius < 0, num_steps < 1,
      restarts < 1, an unknown norm, or bounds that are no pair or leave x out.
    TypeError: x is not floating-point, key is not a typed key, or a function is not callable.

  Note:
    The first loss is compared with that of the start (the authors' code: with 0). The l_1 ball with
    "l1" is attacked by the same scheme; AutoPGD for l_1 of Croce and Hein (2021) also adapts how
    many entries a step moves, and projects on ball and box at once, since both together shorten
    steps that ignore one of them.

  Example:
    >>> linear = lambda weights, x: x @ weights
    >>> x, labels = jnp.array([[1.0, 0.0]]), jnp.array([0])
    >>> found, info = apgd_attack(
    ...   linear, jnp.eye(2), x, labels, jax.random.key(0), radius=0.25, num_steps=10
    ... )
    >>> found
    Array([[0.75, 0.25]], dtype=float32)

  Reference:
    Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks, 2020, algorithm 1.
  """
  ball = _balls.make_ball(x, radius, norm, bounds)
  key = _checks.check_key("key", key)
  num_steps = _checks.check_int("num_steps", num_steps, minimum=1)
  objective, index = classification(apply_fn, params, ball.clean, labels, loss)
  ends, lengths = _windows(num_steps)
  shifted = [np.concatenate([np.zeros_like(a[:1]), a[:-1]]) for a in (ends, lengths)]
  xs = tuple(jnp.asarray(a) for a in (np.arange(num_steps) == 0, *shifted))
  dtype = jax.eval_shape(objective, ball.clean)[0].dtype
  number = jnp.zeros(ball.clean.shape[:1], dtype)
  count = jnp.zeros(ball.clean.shape[:1], jnp.int32)

  def attempt(key: Array) -> Attempt:
    start, nothing = ball.sphere(key), jnp.zeros_like(ball.clean)
    memory = _Memory(
      start, start, nothing, number, 2 * ball.radius, number, count, number, count == 0
    )
    rule = _make_rule(ball)
    return search(
      objective, index, start, rule, num_steps=num_steps, memory=memory, xs=xs, confine=ball.confine
    )

  return worst_of(attempt, objective, index, ball.clean, key, restarts)


class RobustnessInfo(NamedTuple):
  """Example by example, what an ensemble of attacks found.

  Attributes:
    clean: bool[batch], whether the clean example is right.
    robust: bool[batch], whether it is and no attack breaks it.
    survives: bool[attacks, batch], whether each attack alone leaves it right.
    x: float[batch, ...], a misclassified point where there is one.
    stalled: bool[batch], whether every attack met gradients of 0 only.

  Example:
    >>> RobustnessInfo._fields
    ('clean', 'robust', 'survives', 'x', 'stalled')

  Reference:
    Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks, 2020, section 5.
  """

  clean: Array
  robust: Array
  survives: Array
  x: Array
  stalled: Array


def robust_accuracy(
  apply_fn: ApplyFn,
  params: PyTree,
  x: ArrayLike,
  labels: ArrayLike,
  key: ArrayLike,
  *,
  radius: ArrayLike,
  num_steps: int = 100,
  num_targets: int = 9,
  restarts: int = 1,
  norm: str = "linf",
  bounds: tuple[ArrayLike, ArrayLike] | None = None,
  where: ArrayLike | None = None,
) -> tuple[Array, RobustnessInfo]:
  r"""Accuracy that is left after an ensemble of attacks: the gradient part of AutoAttack.

  Runs ``apgd_attack`` on the cross entropy (APGD-CE) and with ``targeted_dlr_attack_loss`` towards
  each of the ``num_targets`` wrong classes with the largest scores at x (APGD-T). An example counts
  if it is right and none of them breaks it: the union of failures.

  Args:
    apply_fn: ``apply_fn(params, x) -> float[batch, classes]``, row by row (no batch statistics).
    params: pytree of parameters.
    x: float[batch, ...] clean examples.
    labels: int[batch] classes.
    key: typed PRNG key for the starts.
    radius: >= 0, a scalar or float[batch]; may be traced.
    num_steps: static integer >= 1, of each attack.
    num_targets: static integer >= 0; with fewer wrong classes all of them.
    restarts: static integer >= 1, of each attack. More of them keep the first ones.
    norm: "linf", "l2" or "l1", over all axes but the first.
    bounds: (low, high) that every entry of x' must respect, scalars or arrays of one example's
      shape, or None. The clean examples must lie within them.
    where: bool[batch]; examples where it is false do not count.

  Returns:
    (float scalar, the share of the examples that count, at least float32, ``RobustnessInfo``).

  Raises:
    ValueError: shapes do not agree, a known label is out of range, radius < 0, num_steps < 1,
      num_targets < 0, restarts < 1, an unknown norm, or bounds that are no pair or leave x out.
    TypeError: x is not floating-point, key is not a typed key, or a function is not callable.

  Note:
    An upper bound: attacks may miss. Left out of AutoAttack are FAB and Square, the one without
    gradients, which reveals models whose gradients mislead; ``info.stalled`` shows those without
    gradients only. The ratio needs four classes: with two or three the attacks go for
    ``targeted_margin_attack_loss``. Labels out of range count as failures under ``jit``.

  Example:
    >>> linear = lambda weights, x: x @ weights
    >>> x, labels = jnp.array([[1.0, 0.0], [0.2, 0.0]]), jnp.array([0, 0])
    >>> accuracy, info = robust_accuracy(
    ...   linear, jnp.eye(2), x, labels, jax.random.key(0), radius=0.25, num_steps=5
    ... )
    >>> accuracy, info.robust
    (Array(0.5, dtype=float32), Array([ True, False], dtype=bool))

  Reference:
    Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks, 2020, section 5.
  """
  clean = _balls.make_ball(x, radius, norm, bounds).clean
  key = _checks.check_key("key", key)
  num_targets = _checks.check_int("num_targets", num_targets, minimum=0)
  mask = _checks.check_mask("where", where, shape=clean.shape[:1])
  objective, index = classification(apply_fn, params, clean, labels, cross_entropy_attack_loss)
  options: dict[str, Any] = {
    "radius": radius, "num_steps": num_steps, "restarts": restarts, "norm": norm, "bounds": bounds,
  }  # fmt: skip
  key_first, key_targets = jax.random.split(key)
  first, info = apgd_attack(apply_fn, params, clean, index, key_first, **options)
  logits = jax.lax.stop_gradient(objective(clean)[1])
  scores = numerics.upcast(logits)
  classes = scores.shape[1]
  targeted = targeted_dlr_attack_loss if classes > 3 else targeted_margin_attack_loss
  others = jnp.where(jax.nn.one_hot(index, classes, dtype=bool), -jnp.inf, scores)
  _, ranked = jax.lax.top_k(others, min(num_targets, classes - 1))

  def attack(carry: tuple[Array, Array, Array], x: tuple[Array, Array]) -> tuple[Any, Array]:
    point, broken, stalled = carry
    targets, number = x
    loss = lambda logits, labels: targeted(logits, labels, targets)
    key = jax.random.fold_in(key_targets, number)
    new, info = apgd_attack(apply_fn, params, clean, index, key, loss=loss, **options)
    point = _ascent.choose(info.broken & ~broken, new, point)
    return (point, broken | info.broken, stalled & info.stalled), ~info.broken

  survives = ~info.broken[None]
  carry = (first, info.broken, info.stalled)
  if ranked.shape[1]:
    carry, others = jax.lax.scan(attack, carry, (ranked.T, jnp.arange(ranked.shape[1])))
    survives = jnp.concatenate([survives, others])
  point, broken, stalled = carry
  right = ~_ascent.is_wrong(logits, index)
  accuracy = numerics.masked_mean((~broken).astype(jnp.result_type(float)), mask)
  return accuracy, RobustnessInfo(right, ~broken, survives, point, stalled)
