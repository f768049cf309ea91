"""Training for randomized smoothing: Gaussian augmentation and consistency of noisy copies."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.losses.consistency import prediction_consistency_loss
from jaxopt_robust.losses.noise_robust import cross_entropy_loss
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["consistency_smoothing_loss", "gaussian_augmentation_loss"]

ApplyFn = Callable[[PyTree, Array], Array]


def gaussian_augmentation_loss(
  apply_fn: ApplyFn,
  params: PyTree,
  x: ArrayLike,
  labels: ArrayLike,
  key: ArrayLike,
  *,
  sigma: ArrayLike,
  num_copies: int = 1,
  loss: Callable[..., Array] = cross_entropy_loss,
  where: ArrayLike | None = None,
) -> Array:
  r"""Loss at noisy copies of the examples (Gaussian augmentation).

  Computes (1/m) sum_{i=1}^m loss(f(x + sigma e_i), y) for each example, e_i ~ N(0, I), with
  m = num_copies.

  Args:
    apply_fn: ``apply_fn(params, x) -> float[rows, classes]``, f, called once on all copies.
    params: pytree of parameters.
    x: float[batch, ...] clean examples.
    labels: int[batch] classes y.
    key: typed PRNG key for the noise.
    sigma: >= 0, standard deviation of the noise in the units of ``x``, a scalar or float[batch];
      may be traced.
    num_copies: static integer >= 1, m.
    loss: ``loss(logits, labels, where=...) -> float[rows]``.
    where: bool[batch]; rows where it is false have value 0 and gradient 0.

  Returns:
    float[batch] one loss an example, in the dtype of the logits.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, num_copies < 1 or sigma < 0.
    TypeError: x is not floating-point, key is not a typed key, or a function is not callable.

  Example:
    >>> linear = lambda weights, x: x @ weights
    >>> x, labels = jnp.array([[1.0, 0.0]]), jnp.array([0])
    >>> noisy = gaussian_augmentation_loss(
    ...   linear, jnp.eye(2), x, labels, jax.random.key(0), sigma=0.5, num_copies=1000)
    >>> bool(noisy[0] > gaussian_augmentation_loss(
    ...   linear, jnp.eye(2), x, labels, jax.random.key(0), sigma=0.0)[0])  # it is convex
    True

  Reference:
    Cohen, Rosenfeld and Kolter, Certified adversarial robustness via randomized smoothing, 2019,
    section 3.3; Lecuyer, Atlidakis, Geambasu, Hsu and Jana, Certified robustness to adversarial
    examples with differential privacy, 2019.
  """
  _arguments.check_callable("loss", loss)
  scores, label, mask = _scores_of_copies(
    apply_fn, params, x, labels, key, sigma, num_copies, where
  )
  return jnp.mean(_losses(loss, scores, label, mask), axis=0)


def consistency_smoothing_loss(
  apply_fn: ApplyFn,
  params: PyTree,
  x: ArrayLike,
  labels: ArrayLike,
  key: ArrayLike,
  *,
  sigma: ArrayLike,
  num_copies: int = 2,
  kl_weight: ArrayLike = 10.0,
  entropy_weight: ArrayLike = 0.5,
  loss: Callable[..., Array] = cross_entropy_loss,
  where: ArrayLike | None = None,
) -> Array:
  r"""Gaussian augmentation whose noisy copies are to be answered alike.

  Computes (1/m) sum_i [ loss(f(x + sigma e_i), y) + lam KL(q, q_i) ] + eta H(q) for each example,
  with q_i the softmax of the scores of copy i, q their mean, H the entropy, lam = kl_weight and
  eta = entropy_weight.

  Args:
    apply_fn: ``apply_fn(params, x) -> float[rows, classes]``, f, called once on all copies.
    params: pytree of parameters.
    x: float[batch, ...] clean examples.
    labels: int[batch] classes y.
    key: typed PRNG key for the noise.
    sigma: >= 0, standard deviation of the noise in the units of ``x``, a scalar or float[batch];
      may be traced.
    num_copies: static integer >= 1, m.
    kl_weight: >= 0, lam, a scalar; may be traced. 10 and 20 are usual.
    entropy_weight: >= 0, eta, a scalar; may be traced.
    loss: ``loss(logits, labels, where=...) -> float[rows]``.
    where: bool[batch]; rows where it is false have value 0 and gradient 0.

  Returns:
    float[batch] one loss an example, in the dtype of the logits.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, num_copies < 1, or sigma or a
      weight is negative.
    TypeError: x is not floating-point, key is not a typed key, or a function is not callable.

  Example:
    >>> linear = lambda weights, x: x @ weights
    >>> x, labels = jnp.array([[1.0, 0.0]]), jnp.array([0])
    >>> values = consistency_smoothing_loss(  # without noise: cross entropy and entropy
    ...   linear, jnp.eye(2), x, labels, jax.random.key(0), sigma=0.0)
    >>> print(f"{values[0]:.3f}")
    0.604

  Reference:
    Jeong and Shin, Consistency regularization for certified robustness of smoothed classifiers,
    2020, equation 6 (number recalled, not verified).
  """
  _arguments.check_callable("loss", loss)
  scores, label, mask = _scores_of_copies(
    apply_fn, params, x, labels, key, sigma, num_copies, where
  )
  apart = prediction_consistency_loss(
    scores, kl_weight=kl_weight, entropy_weight=entropy_weight, where=mask
  )
  return jnp.mean(_losses(loss, scores, label, mask), axis=0) + apart


def _scores_of_copies(
  apply_fn: ApplyFn,
  params: PyTree,
  x: ArrayLike,
  labels: ArrayLike,
  key: ArrayLike,
  sigma: ArrayLike,
  num_copies: int,
  where: ArrayLike | None,
) -> tuple[Array, Array, Array | None]:
  """Scores float[copies, batch, classes], with the labels and the mask."""
  _arguments.check_callable("apply_fn", apply_fn)
  clean = _checks.check_float_array("x", x, min_rank=1)
  key = _checks.check_key("key", key)
  copies = _checks.check_int("num_copies", num_copies, minimum=1)
  _checks.check_non_negative("sigma", sigma)
  batch = clean.shape[0]
  mask = _checks.check_mask("where", where, shape=(batch,))
  if mask is not None:  # what is masked out would make gradients of parameters NaN
    clean = jnp.where(mask.reshape(mask.shape + (1,) * (clean.ndim - 1)), clean, 0)
  label = _checks.check_integers("labels", labels, shape=(batch,), bool_ok=True)
  wide = numerics.upcast(clean)
  scale = jnp.asarray(sigma, wide.dtype)
  if scale.ndim and scale.shape != (batch,):
    raise ValueError(f"sigma must be a scalar or have shape {(batch,)}; got {scale.shape}.")
  scale = scale.reshape(scale.shape + (1,) * (wide.ndim - 1 if scale.ndim else wide.ndim))
  noise = jax.random.normal(key, (copies, *wide.shape), wide.dtype)
  noisy = (wide[None] + scale[None] * noise).astype(clean.dtype)
  rows = noisy.reshape(copies * batch, *clean.shape[1:])
  scores = _checks.as_array("apply_fn(params, x)", apply_fn(params, rows))
  if scores.ndim != 2 or scores.shape[0] != copies * batch:
    raise ValueError(
      f"apply_fn must return scores of shape ({copies * batch}, classes); got {scores.shape}."
    )
  return scores.reshape(copies, batch, -1), label, mask


def _losses(loss: Callable[..., Array], scores: Array, labels: Array, where: Array | None) -> Array:
  """float[copies, batch]."""
  copies, batch, classes = scores.shape
  repeat = lambda v: jnp.broadcast_to(v, (copies, batch)).reshape(-1)
  values = loss(
    scores.reshape(-1, classes),
    repeat(
      _checks.check_labels("labels", labels, shape=(batch,), num_classes=classes, where=where)
    ),
    where=None if where is None else repeat(where),
  )
  if jnp.shape(values) != (copies * batch,):
    raise ValueError(
      f"loss must return one number a row, shape {(copies * batch,)}; got {jnp.shape(values)}."
    )
  return values.reshape(copies, batch)
