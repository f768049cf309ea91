"""Classes as mean features, and their calibration where examples are few."""

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust._units import exponent_of, power
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["calibrate_prototypes", "class_prototypes", "prototype_logits"]


def class_prototypes(
  features: ArrayLike,
  labels: ArrayLike,
  *,
  num_classes: int,
  where: ArrayLike | None = None,
) -> Array:
  r"""Unit vectors along the mean feature of each class, c_k = m_k / ||m_k||_2.

  Args:
    features: float[n, d].
    labels: int[n], in [0, num_classes).
    num_classes: K >= 1, static.
    where: bool[n]; examples where it is false are ignored.

  Returns:
    float[K, d]; zeros for classes without examples. A feature that is NaN or infinite spoils its
    own class alone.

  Raises:
    TypeError: features hold no real numbers, labels no integers, or where no booleans.
    ValueError: shapes do not agree, or a known label or num_classes is out of range.

  Example:
    >>> class_prototypes(jnp.array([[3.0, 0.0], [1.0, 0.0], [0.0, 2.0]]), jnp.array([0, 0, 1]),
    ...                  num_classes=2)
    Array([[1., 0.],
           [0., 1.]], dtype=float32)

  Reference:
    Snell, Swersky and Zemel, Prototypical networks for few-shot learning, 2017, equation 1.
  """
  array = _checks.check_float_array("features", features, rank=2)
  num_classes = _checks.check_int("num_classes", num_classes, minimum=1)
  mask = _checks.check_mask("where", where, shape=array.shape[:1])
  index = _checks.check_labels(
    "labels", labels, shape=array.shape[:1], num_classes=num_classes, where=mask
  )
  wide = numerics.upcast(array)
  if mask is not None:
    wide = jnp.where(mask[:, None], wide, 0)
  member = jax.nn.one_hot(index, num_classes, dtype=wide.dtype)
  if mask is not None:
    member = jnp.where(mask[:, None], member, 0)
  finite = jnp.isfinite(wide)
  rows = jnp.where(finite, wide, 0)  # a zero of ``member`` times NaN would be NaN
  sizes = jnp.max(jnp.where(member > 0, jnp.max(jnp.abs(rows), axis=1)[:, None], 0), axis=0)
  unit = power(exponent_of(sizes), wide.dtype)  # of a class: its sum may be out of range
  rows = rows / unit[index][:, None]
  sums = jnp.matmul(member.T, rows, precision=jax.lax.Precision.HIGHEST)  # point as means do
  spoilt = jnp.matmul(member.T, (~finite).astype(wide.dtype)) > 0
  return _unit(jnp.where(spoilt, jnp.nan, sums)).astype(array.dtype)


def calibrate_prototypes(
  new: ArrayLike,
  base: ArrayLike,
  *,
  temperature: ArrayLike = 16.0,
  weight: ArrayLike = 0.5,
  where: ArrayLike | None = None,
) -> Array:
  r"""Moves the prototypes of classes with few examples towards those of similar known classes.

  With all prototypes scaled to unit length, w_nb = softmax_b(temperature <c_n, c_b>) and

    c_n' = (1 - weight) c_n + weight d_n / ||d_n||_2,    d_n = sum_b w_nb c_b.

  Where d_n = 0 there is nowhere to go and c_n' = c_n. Nothing is trained.

  Args:
    new: float[n, d], prototypes of the new classes; their lengths do not matter.
    base: float[b, d], of the classes with many examples.
    temperature: tau >= 0, finite, a scalar; may be traced. 0 takes the mean of the base
      prototypes, a large one takes the nearest.
    weight: in [0, 1], a scalar; may be traced. 0 changes nothing (but lengths).
    where: bool[b], which base prototypes there are; without any, directions do not change.

  Returns:
    float[n, d]; not of unit length, which ``prototype_logits`` does not mind.

  Raises:
    TypeError: an array holds no real numbers, or where no booleans.
    ValueError: shapes do not agree, or a number is out of range and known.

  Note:
    New prototypes come nearer to base ones, so that answers for base classes get a little worse.

  Example:
    >>> new, base = jnp.array([[3.0, 4.0]]), jnp.array([[2.0, 0.0], [-1.0, 0.0]])
    >>> calibrate_prototypes(new, base)
    Array([[0.8, 0.4]], dtype=float32)

  Reference:
    Wang, Zhou, Zhang, Zhan and Ye, Few-shot class-incremental learning via training-free prototype
    calibration, 2023 (TEEN); used by Yu, Lu and Zhang, Generalized incremental learning under
    concept drift across evolving data streams, 2025.
  """
  new_array = _checks.check_float_array("new", new, rank=2)
  base_array = _checks.check_float_array("base", base, rank=2)
  _check_same_features("new", new_array, "base", base_array)
  _checks.check_interval("temperature", temperature, 0.0, float("inf"), closed="left", scalar=True)
  _checks.check_interval("weight", weight, 0.0, 1.0, scalar=True)
  mask = _checks.check_mask("where", where, shape=base_array.shape[:1])
  c_new, c_base = _unit(numerics.upcast(new_array)), _unit(numerics.upcast(base_array))
  tau, a = (jnp.asarray(v, c_new.dtype) for v in (temperature, weight))
  if mask is not None:
    c_base = jnp.where(mask[:, None], c_base, 0)  # the others may hold anything
  scores = tau * _products(c_new, c_base)
  if mask is not None:
    scores = jnp.where(mask[None], scores, jnp.finfo(scores.dtype).min)
  shares = jax.nn.softmax(scores, axis=-1)
  towards = _unit(jnp.matmul(shares, c_base, precision=jax.lax.Precision.HIGHEST))
  towards = jnp.where(jnp.all(towards == 0, axis=1, keepdims=True), c_new, towards)
  return ((1 - a) * c_new + a * towards).astype(new_array.dtype)


def prototype_logits(
  features: ArrayLike,
  prototypes: ArrayLike,
  *,
  temperature: ArrayLike = 16.0,
  where: ArrayLike | None = None,
) -> Array:
  r"""Logits of a classifier by angles, temperature * cos(feature, prototype).

  Args:
    features: float[n, d].
    prototypes: float[classes, d].
    temperature: > 0, finite, a scalar; may be traced.
    where: bool[classes], which classes there are.

  Returns:
    float[n, classes] in [-temperature, temperature]; 0 where a vector is zero, -inf for the classes
    that there are not.

  Raises:
    TypeError: an array holds no real numbers, or where no booleans.
    ValueError: shapes do not agree, or a known temperature is out of range.

  Example:
    >>> prototype_logits(jnp.array([[0.0, 5.0]]), jnp.eye(2))
    Array([[ 0., 16.]], dtype=float32)

  Reference:
    Wang, Zhou, Zhang, Zhan and Ye, Few-shot class-incremental learning via training-free prototype
    calibration, 2023 (cosine classifier).
  """
  array = _checks.check_float_array("features", features, rank=2)
  centers = _checks.check_float_array("prototypes", prototypes, rank=2)
  _check_same_features("features", array, "prototypes", centers)
  _checks.check_interval(
    "temperature", temperature, 0.0, float("inf"), closed="neither", scalar=True
  )
  mask = _checks.check_mask("where", where, shape=centers.shape[:1])
  wide = numerics.upcast(centers)
  if mask is not None:
    wide = jnp.where(mask[:, None], wide, 0)  # what is left out may be anything
  cosines = _products(_unit(numerics.upcast(array)), _unit(wide))
  logits = jnp.asarray(temperature, cosines.dtype) * cosines
  if mask is not None:
    logits = jnp.where(mask[None], logits, -jnp.inf)
  return logits.astype(array.dtype)


def _check_same_features(name_a: str, a: Array, name_b: str, b: Array) -> None:
  if a.shape[1] != b.shape[1]:
    raise ValueError(
      f"{name_a} and {name_b} must have the same number of columns; got shapes {a.shape} and "
      f"{b.shape}."
    )


def _unit(rows: Array) -> Array:
  norms = numerics.safe_norm(rows, axis=-1)[:, None]
  return numerics.safe_divide(rows, norms)


def _products(a: Array, b: Array) -> Array:
  dtype = jnp.promote_types(a.dtype, b.dtype)
  return jnp.matmul(a.astype(dtype), b.T.astype(dtype), precision=jax.lax.Precision.HIGHEST)
