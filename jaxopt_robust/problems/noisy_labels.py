"""Class labels of which some are wrong."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["NoisyLabels", "make_class_dependent_label_noise", "make_uniform_label_noise"]


class NoisyLabels(NamedTuple):
  """Labels after noise.

  Attributes:
    labels: int[...], noisy labels, of the dtype of the clean ones.
    flipped: bool[...], where they differ from the clean ones.

  Example:
    >>> noisy = make_uniform_label_noise(jax.random.key(0), jnp.arange(3), num_classes=3, rate=0.0)
    >>> bool(noisy.flipped.any())
    False

  Reference:
    Patrini et al., Making deep neural networks robust to label noise, 2017.
  """

  labels: Array
  flipped: Array


def _check(key: Array, labels: ArrayLike, num_classes: int, rate: ArrayLike) -> tuple[Array, int]:
  _checks.check_key("key", key)
  num_classes = _checks.check_int("num_classes", num_classes, minimum=2)
  shape = _checks.check_array("labels", labels).shape
  _checks.check_interval("rate", rate, 0.0, 1.0, scalar=True)
  return (
    _checks.check_labels("labels", labels, shape=shape, num_classes=num_classes),
    num_classes,
  )


def make_uniform_label_noise(
  key: Array, labels: ArrayLike, *, num_classes: int, rate: ArrayLike
) -> NoisyLabels:
  """Draws labels anew from all classes with one probability: uniform (symmetric) noise.

  With probability ``rate`` a label is replaced by a uniform draw from all K classes, the true one
  included, so that a fraction rate (1 - 1/K) of the labels ends up wrong.

  Args:
    key: typed PRNG key.
    labels: int[...], clean labels in [0, num_classes).
    num_classes: K >= 2, static.
    rate: in [0, 1]; may be traced.

  Returns:
    NoisyLabels(labels, flipped), each of the shape of ``labels``.

  Raises:
    TypeError: the key is not a typed key, or the labels are not integers.
    ValueError: a label, ``num_classes`` or ``rate`` is out of range.

  Example:
    >>> noisy = make_uniform_label_noise(
    ...   jax.random.key(0), jnp.zeros(1000, jnp.int32), num_classes=10, rate=0.5)
    >>> bool(abs(noisy.flipped.mean() - 0.45) < 0.05)
    True

  Reference:
    Zhang and Sabuncu, Generalized cross entropy loss for training deep neural networks with noisy
    labels, 2018, section 4.
  """
  labels, num_classes = _check(key, labels, num_classes, rate)
  redraw_key, value_key = jax.random.split(key)
  redraw = jax.random.bernoulli(redraw_key, jnp.asarray(rate, float), labels.shape)
  values = jax.random.randint(value_key, labels.shape, 0, num_classes).astype(labels.dtype)
  noisy = jnp.where(redraw, values, labels)
  return NoisyLabels(noisy, noisy != labels)


def make_class_dependent_label_noise(
  key: Array,
  labels: ArrayLike,
  *,
  num_classes: int,
  rate: ArrayLike,
  partner: ArrayLike | None = None,
) -> NoisyLabels:
  """Flips a label to the partner of its class with one probability: pair-flip (asymmetric) noise.

  Args:
    key: typed PRNG key.
    labels: int[...], clean labels in [0, num_classes).
    num_classes: K >= 2, static.
    rate: in [0, 1]; may be traced.
    partner: int[K], the class that each class is mistaken for, in [0, K); a class that is its own
      partner stays clean. None takes the next class, (k + 1) mod K.

  Returns:
    NoisyLabels(labels, flipped), each of the shape of ``labels``.

  Raises:
    TypeError: the key is not a typed key, or labels or partners are not integers.
    ValueError: a label, a partner, ``num_classes`` or ``rate`` is out of range.

  Example:
    >>> make_class_dependent_label_noise(
    ...   jax.random.key(0), jnp.array([0, 1, 2]), num_classes=3, rate=1.0).labels
    Array([1, 2, 0], dtype=int32)

  Reference:
    Patrini et al., Making deep neural networks robust to label noise, 2017, section 5.
  """
  labels, num_classes = _check(key, labels, num_classes, rate)
  if partner is None:
    partner = (jnp.arange(num_classes, dtype=labels.dtype) + 1) % num_classes
  partner = _checks.check_labels("partner", partner, shape=(num_classes,), num_classes=num_classes)
  flip = jax.random.bernoulli(key, jnp.asarray(rate, float), labels.shape)
  noisy = jnp.where(flip, partner.astype(labels.dtype)[labels], labels)
  return NoisyLabels(noisy, noisy != labels)
