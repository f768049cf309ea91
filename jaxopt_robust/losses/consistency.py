"""Losses of augmented copies: consistency of features or predictions, soft Dice, their mixture.

One value an example: the mean over features or pixels is taken, the mean over the batch is not.
"""

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.losses import _classification as base
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "adaptive_consistency_loss",
  "feature_consistency_loss",
  "prediction_consistency_loss",
  "soft_dice_loss",
]


def feature_consistency_loss(
  first: ArrayLike, second: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
  r"""Mean squared difference between the features of two copies of an example.

  Computes (1/d) ||z_1 - z_2||^2 for each example, over all d features.

  Args:
    first: float[batch, ...] features of the first augmented copies, such as the outputs of an
      encoder.
    second: float[batch, ...] features of the second copies, of the same shape.
    where: bool[batch]; examples where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[batch], in the dtype of ``first``.

  Raises:
    ValueError: there is no batch axis, shapes do not agree, or the mask has another shape.
    TypeError: features are not floating-point, or the mask is not boolean.

  Note:
    The loss can be driven to zero by shrinking the features; keep another loss on them, or
    normalise them. Copies that differ by a flip or a rotation must be turned back (or share it)
    before their feature maps are compared.

  Example:
    >>> feature_consistency_loss(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 2.0]]))
    Array([2.5], dtype=float32)

  Reference:
    Dong, Xie and Ward, Adaptively weighted data augmentation consistency regularization for robust
    optimization under concept shift, 2023; the mean over features as in the authors' code.
  """
  one = _checks.check_float_array("first", first, min_rank=1)
  two = _checks.check_float_array("second", second, min_rank=1)
  _checks.check_same_shape("first", one, "second", two)
  mask = _checks.check_mask("where", where, shape=one.shape[:1])
  difference = (numerics.upcast(one) - numerics.upcast(two)).reshape(one.shape[0], -1)
  if mask is not None:
    difference = jnp.where(mask[:, None], difference, 0)
  return jnp.mean(difference * difference, axis=1).astype(one.dtype)


def prediction_consistency_loss(
  logits: ArrayLike,
  *,
  kl_weight: ArrayLike = 10.0,
  entropy_weight: ArrayLike = 0.5,
  where: ArrayLike | None = None,
) -> Array:
  r"""Distance of the predictions for several copies of an example from their mean, and its entropy.

  Computes lam (1/m) sum_i KL(q, q_i) + eta H(q) for each example, q_i the softmax of the scores of
  copy i, q = (1/m) sum_i q_i, KL(q, q_i) = sum_c q_c log(q_c / q_ic), H(q) = -sum_c q_c log q_c,
  lam = kl_weight and eta = entropy_weight.

  Args:
    logits: float[copies, ..., classes], the m copies first, at least two classes.
    kl_weight: >= 0, lam, a scalar; may be traced.
    entropy_weight: >= 0, eta, a scalar; may be traced.
    where: bool[...] without the axes of copies and classes; examples where it is false have value 0
      and gradient 0, whatever they hold.

  Returns:
    float[...] one value an example, in the dtype of ``logits``; eta H(q) where all copies agree.

  Raises:
    ValueError: there are no copies or classes, the mask has another shape, or a weight is negative.
    TypeError: logits are not floating-point, or the mask is not boolean.

  Example:
    >>> logits = jnp.log(jnp.array([[[0.9, 0.1]], [[0.5, 0.5]]]))
    >>> values = prediction_consistency_loss(logits, kl_weight=1.0, entropy_weight=0.0)
    >>> print(f"{values[0]:.3f}")
    0.118

  Reference:
    Jeong and Shin, Consistency regularization for certified robustness of smoothed classifiers,
    2020; the direction of KL as in the code of Lei, Wang, Chen, Ba, Ren, Zhu and Anandkumar, Robust
    representation consistency model via contrastive denoising, 2025.
  """
  scores = _checks.check_float_array("logits", logits, min_rank=2)
  if scores.shape[-1] < 2:
    raise ValueError(f"logits must have at least two classes; got shape {scores.shape}.")
  mask = _checks.check_mask("where", where, shape=scores.shape[1:-1])
  wide = numerics.upcast(scores)
  if mask is not None:
    wide = jnp.where(mask[None, ..., None], wide, 0)
  weights = []
  for name, weight in (("kl_weight", kl_weight), ("entropy_weight", entropy_weight)):
    _checks.check_non_negative(name, weight, scalar=True)
    weights.append(jnp.asarray(weight, wide.dtype))
  log_each = jax.nn.log_softmax(wide, axis=-1)
  log_mean = numerics.log_mean_exp(log_each, axis=0)
  mean = jnp.exp(log_mean)
  apart = jnp.sum(mean * (log_mean - jnp.mean(log_each, axis=0)), axis=-1)
  entropy = -jnp.sum(mean * log_mean, axis=-1)
  value = weights[0] * apart + weights[1] * entropy
  return (value if mask is None else jnp.where(mask, value, 0)).astype(scores.dtype)


def soft_dice_loss(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  smoothing: ArrayLike = 1e-5,
  where: ArrayLike | None = None,
) -> Array:
  r"""One minus the soft Dice coefficient of each example, averaged over the classes.

  Computes (1/K) sum_k [1 - (2 sum_p p_pk t_pk + s) / (sum_p p_pk^2 + sum_p t_pk^2 + s)] with p the
  softmax of the logits, t the one-hot labels, sums over the pixels p of one example, K classes
  (the background is one of them) and s = smoothing.

  Args:
    logits: float[batch, ..., classes], at least two classes.
    labels: int[batch, ...] class of each pixel, in [0, classes).
    smoothing: > 0, a scalar; may be traced. A class that neither occurs nor is predicted has loss 0
      because of it.
    where: bool[batch, ...], which pixels count; an example without any has value 0 and gradient 0,
      whatever it holds.

  Returns:
    float[batch] in [0, 1], in the dtype of ``logits``. Under ``jit`` an example with a label out of
    range is NaN.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, or smoothing <= 0.
    TypeError: logits are not floating-point, labels are not integers, or the mask is not boolean.

  Note:
    Squares in the denominator make the loss 0 at a perfect prediction; other definitions have the
    sums of p and t there.

  Example:
    >>> labels = jnp.array([[0, 1]])
    >>> soft_dice_loss(100.0 * jax.nn.one_hot(labels, 2), labels)
    Array([0.], dtype=float32)

  Reference:
    Milletari, Navab and Ahmadi, V-Net: fully convolutional neural networks for volumetric medical
    image segmentation, 2016, section 3; smoothing and the average over classes as in the code of
    Dong, Xie and Ward, 2023.
  """
  scores = _checks.check_float_array("logits", logits, min_rank=2)
  prepared = base.prepare(scores, labels, where)
  _checks.check_positive("smoothing", smoothing)
  s = _checks.check_array("smoothing", smoothing, rank=0).astype(prepared.logits.dtype)
  p = jax.nn.softmax(prepared.logits, axis=-1)
  t = prepared.is_label.astype(p.dtype)
  if prepared.where is not None:
    p, t = (jnp.where(prepared.where[..., None], x, 0) for x in (p, t))
  pixels = tuple(range(1, p.ndim - 1))
  total = jnp.sum(p * p, axis=pixels) + jnp.sum(t * t, axis=pixels)
  # 1 - (2 overlap + s) / (total + s), without the difference of two numbers near one
  distance = jnp.sum((p - t) * (p - t), axis=pixels)
  return jnp.mean(distance / (total + s), axis=-1).astype(prepared.dtype)


def adaptive_consistency_loss(
  supervised: ArrayLike,
  consistency: ArrayLike,
  weight: ArrayLike,
  *,
  where: ArrayLike | None = None,
) -> Array:
  r"""Mixture of a supervised and a consistency loss with a weight for each example.

  Computes beta l + (1 - beta) c with l the supervised loss, c the consistency loss and beta the
  weight, which is held fixed by the derivative.

  Args:
    supervised: float[...] losses of the examples with their labels.
    consistency: float[...] losses without labels, already multiplied by their coefficient.
    weight: in [0, 1], a scalar or float[...] one an example; may be traced.
    where: bool[...]; examples where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss an example, in the dtype of ``supervised``.

  Raises:
    ValueError: shapes do not agree, or a known weight is not in [0, 1].
    TypeError: losses are not floating-point, or the mask is not boolean.

  Example:
    >>> losses = jnp.array([2.0, 2.0]), jnp.array([1.0, 1.0])
    >>> adaptive_consistency_loss(*losses, jnp.array([1.0, 0.5]))
    Array([2. , 1.5], dtype=float32)

  Reference:
    Dong, Xie and Ward, Adaptively weighted data augmentation consistency regularization for robust
    optimization under concept shift, 2023, equation 4 (number recalled, not verified).
  """
  one = _checks.check_float_array("supervised", supervised)
  two = _checks.check_float_array("consistency", consistency)
  _checks.check_same_shape("supervised", one, "consistency", two)
  mask = _checks.check_mask("where", where, shape=one.shape)
  wide, other = numerics.upcast(one), numerics.upcast(two)
  beta = _checks.check_array("weight", weight).astype(wide.dtype)
  if beta.ndim and beta.shape != one.shape:
    raise ValueError(f"weight must be a scalar or have shape {one.shape}; got {beta.shape}.")
  beta = jnp.broadcast_to(beta, one.shape)
  if mask is not None:
    wide, other, beta = (jnp.where(mask, x, 0) for x in (wide, other, beta))
  _checks.check_interval("weight", beta, 0, 1)
  beta = jax.lax.stop_gradient(beta)
  return (beta * wide + (1 - beta) * other).astype(one.dtype)
