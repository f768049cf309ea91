"""Adversarial training losses: PGD training, TRADES, smooth adversarial comp-sum."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.losses.comp_sum import margin_deviation, smooth_adversarial_comp_sum_loss
from jaxopt_robust.losses.noise_robust import cross_entropy_loss
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "pgd_adversarial_training_loss",
  "smooth_adversarial_comp_sum_training_loss",
  "trades_loss",
]

ApplyFn = Callable[[PyTree, Array], Array]
AttackFn = Callable[[Callable[[Array], Array], Array, Array], Array]


def pgd_adversarial_training_loss(
  apply_fn: ApplyFn,
  params: PyTree,
  x: ArrayLike,
  labels: ArrayLike,
  key: ArrayLike,
  *,
  attack: AttackFn,
  loss: Callable[..., Array] = cross_entropy_loss,
  where: ArrayLike | None = None,
) -> Array:
  r"""Loss at adversarial examples (adversarial training).

  Computes loss(apply_fn(params, x'), labels) with x' an approximate maximiser of the same loss.

  Args:
    apply_fn: ``apply_fn(params, x) -> float[batch, classes]``, row by row (no batch statistics).
    params: pytree of parameters.
    x: float[batch, ...] clean examples.
    labels: int[batch] classes.
    key: typed PRNG key for the attack.
    attack: ``attack(objective, x, key) -> x'``, for example ``functools.partial(pgd_attack,
      radius=8 / 255, stepsize=2 / 255, num_steps=10)``.
    loss: ``loss(logits, labels, where=...) -> float[batch]``.
    where: bool[batch]; rows where it is false have value 0 and gradient 0.

  Returns:
    float[batch] one loss an example, in the dtype of the logits.

  Raises:
    ValueError: shapes do not agree or a known label is out of range.
    TypeError: x is not floating-point, key is not a typed key, or a function is not callable.

  Note:
    The gradient in ``params`` holds x' fixed (Danskin); nothing is differentiated through the
    attack.

  Example:
    >>> import functools
    >>> attack = functools.partial(
    ...   jr.robustness.pgd_attack, radius=0.5, stepsize=0.2, num_steps=9
    ... )
    >>> linear = lambda weights, x: x @ weights
    >>> x, labels = jnp.array([[1.0, 0.0]]), jnp.array([0])
    >>> pgd_adversarial_training_loss(
    ...   linear, jnp.eye(2), x, labels, jax.random.key(0), attack=attack
    ... ).round(3)
    Array([0.693], dtype=float32)

  Reference:
    Madry, Makelov, Schmidt, Tsipras and Vladu, Towards deep learning models resistant to
    adversarial attacks, 2018, equation 2.1.
  """
  x, key = _check(apply_fn, attack, x, key, where)
  _arguments.check_callable("loss", loss)
  frozen = jax.lax.stop_gradient(params)
  attacked = attack(lambda point: loss(apply_fn(frozen, point), labels, where=where), x, key)
  return loss(apply_fn(params, jax.lax.stop_gradient(attacked)), labels, where=where)


def trades_loss(
  apply_fn: ApplyFn,
  params: PyTree,
  x: ArrayLike,
  labels: ArrayLike,
  key: ArrayLike,
  *,
  attack: AttackFn,
  beta: ArrayLike = 6.0,
  where: ArrayLike | None = None,
) -> Array:
  r"""TRADES: cross entropy at x plus beta times the KL divergence to the output at x'.

  Computes -log p_y(x) + beta KL( p(x), p(x') ) with p = softmax of the scores and x' an approximate
  maximiser of the divergence.

  Args:
    apply_fn: ``apply_fn(params, x) -> float[batch, classes]``, row by row (no batch statistics).
    params: pytree of parameters.
    x: float[batch, ...] clean examples.
    labels: int[batch] classes.
    key: typed PRNG key for the attack.
    attack: ``attack(objective, x, key) -> x'``, for example ``functools.partial(pgd_attack,
      radius=8 / 255, stepsize=2 / 255, num_steps=10)``.
    beta: >= 0, weight of the divergence (1 / lambda in the paper), a scalar; may be traced.
    where: bool[batch]; rows where it is false have value 0 and gradient 0.

  Returns:
    float[batch] one loss an example, in the dtype of the logits.

  Raises:
    ValueError: shapes do not agree, a known label is out of range or beta < 0.
    TypeError: x is not floating-point, key is not a typed key, or a function is not callable.

  Note:
    The divergence has gradient 0 at x' = x, so the attack must start at random. The gradient in
    ``params`` flows through both p(x) and p(x') and holds x' fixed.

  Example:
    >>> import functools
    >>> attack = functools.partial(
    ...   jr.robustness.pgd_attack, radius=0.5, stepsize=0.2, num_steps=9
    ... )
    >>> linear = lambda weights, x: x @ weights
    >>> x, labels = jnp.array([[1.0, 0.0]]), jnp.array([0])
    >>> loss = trades_loss(
    ...   linear, jnp.eye(2), x, labels, jax.random.key(0), attack=attack, beta=0.0
    ... )
    >>> round(float(loss[0]), 3)
    0.313

  Reference:
    Zhang, Yu, Jiao, Xing, El Ghaoui and Jordan, Theoretically principled trade-off between
    robustness and accuracy, 2019, equation 5 (recalled, not verified); the authors' code starts the
    attack from small Gaussian noise, here the attack chooses.
  """
  x, key = _check(apply_fn, attack, x, key, where)
  _checks.check_array("beta", beta, rank=0)
  _checks.check_non_negative("beta", beta)
  frozen = jax.lax.stop_gradient(params)
  frozen_clean = jax.lax.stop_gradient(apply_fn(frozen, x))
  attacked = attack(lambda point: _softmax_kl(frozen_clean, apply_fn(frozen, point)), x, key)
  clean = apply_fn(params, x)
  supervised = cross_entropy_loss(clean, labels, where=where)
  divergence = _softmax_kl(clean, apply_fn(params, jax.lax.stop_gradient(attacked)), where)
  return supervised + jnp.asarray(beta, divergence.dtype) * divergence


def smooth_adversarial_comp_sum_training_loss(
  apply_fn: ApplyFn,
  params: PyTree,
  x: ArrayLike,
  labels: ArrayLike,
  key: ArrayLike,
  *,
  attack: AttackFn,
  tau: ArrayLike = 1.0,
  rho: ArrayLike = 1.0,
  nu: ArrayLike = 1.0,
  where: ArrayLike | None = None,
) -> Array:
  r"""Smooth adversarial comp-sum loss (ADV-COMP-SUM), the largest deviation found by an attack.

  Computes comp_sum_loss(f(x), y) + nu ||D(x') - D(x)||_2 with f = apply_fn(params, .), margins
  D_k = f_y - f_k for k != y, and x' an approximate maximiser of the second term.

  Args:
    apply_fn: ``apply_fn(params, x) -> float[batch, classes]``, row by row (no batch statistics).
    params: pytree of parameters.
    x: float[batch, ...] clean examples.
    labels: int[batch] classes.
    key: typed PRNG key for the attack.
    attack: ``attack(objective, x, key) -> x'``, for example ``functools.partial(pgd_attack,
      radius=8 / 255, stepsize=2 / 255, num_steps=10)``.
    tau: >= 0, as in ``losses.comp_sum_loss``; may be traced.
    rho: > 0, scale of the scores in the comp-sum term; may be traced.
    nu: >= 0, weight of the deviation; may be traced.
    where: bool[batch]; rows where it is false have value 0 and gradient 0.

  Returns:
    float[batch] one loss an example, in the dtype of the logits.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, tau < 0, rho <= 0 or nu < 0.
    TypeError: x is not floating-point, key is not a typed key, or a function is not callable.

  Note:
    Large nu collapses the network to a constant, where the deviation is 0; raising nu slowly from 0
    helps. Scaling the scores by rho turns (rho, nu) into (1, nu rho): tune nu alone.

  Example:
    >>> import functools
    >>> attack = functools.partial(
    ...   jr.robustness.pgd_attack, radius=0.5, stepsize=0.2, num_steps=9
    ... )
    >>> linear = lambda weights, x: x @ weights
    >>> x, labels = jnp.array([[1.0, 0.0]]), jnp.array([0])
    >>> loss = smooth_adversarial_comp_sum_training_loss(
    ...   linear, jnp.eye(2), x, labels, jax.random.key(0), attack=attack, nu=1.0
    ... )
    >>> round(float(loss[0]), 3)
    1.313

  Reference:
    Mao, Mohri and Zhong, Cross-entropy loss functions: theoretical analysis and applications,
    2023, section 5 (recalled, not verified).
  """
  x, key = _check(apply_fn, attack, x, key, where)
  frozen = jax.lax.stop_gradient(params)
  frozen_clean = jax.lax.stop_gradient(apply_fn(frozen, x))
  attacked = attack(
    lambda point: margin_deviation(frozen_clean, apply_fn(frozen, point), labels, where=where),
    x,
    key,
  )
  return smooth_adversarial_comp_sum_loss(
    apply_fn(params, x),
    apply_fn(params, jax.lax.stop_gradient(attacked)),
    labels,
    tau=tau,
    rho=rho,
    nu=nu,
    where=where,
  )


def _check(
  apply_fn: Any, attack: Any, x: ArrayLike, key: ArrayLike, where: ArrayLike | None
) -> tuple[Array, Array]:
  """The examples, zero in rows that are masked out (they may hold NaN), and the key."""
  _arguments.check_callable("apply_fn", apply_fn)
  _arguments.check_callable("attack", attack)
  array = _checks.check_float_array("x", x, min_rank=1)
  mask = _checks.check_mask("where", where, shape=array.shape[:1])
  if mask is not None:
    array = jnp.where(mask.reshape(mask.shape + (1,) * (array.ndim - 1)), array, 0)
  return array, _checks.check_key("key", key)


def _softmax_kl(logits: Array, other: Array, where: ArrayLike | None = None) -> Array:
  """KL( softmax(logits), softmax(other) ) of each row."""
  dtype = logits.dtype
  logits, other = numerics.upcast(logits), numerics.upcast(other)
  mask = _checks.check_mask("where", where, shape=logits.shape[:-1])
  if mask is not None:
    logits, other = (jnp.where(mask[..., None], v, 0) for v in (logits, other))
  log_p = jax.nn.log_softmax(logits, axis=-1)
  log_q = jax.nn.log_softmax(other, axis=-1)
  return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1).astype(dtype)
