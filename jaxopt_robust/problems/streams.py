"""Streams of labelled batches whose inputs drift."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["DriftingStream", "make_drifting_stream"]

DRIFTS = ("gradual", "abrupt", "recurring")


class DriftingStream(NamedTuple):
  """Batches in the order in which they arrive.

  Attributes:
    x: float[num_batches, batch, num_features], inputs.
    y: int32[num_batches, batch], classes.
    progress: float[num_batches] in [0, 1], how far the inputs have drifted.
    centers: float[num_classes, num_features], means of the classes before the drift.
    shift: float[num_features], what all inputs are moved by at progress 1.

  Example:
    >>> stream = make_drifting_stream(jax.random.key(0), num_batches=3, batch=5)
    >>> stream.x.shape, stream.progress.tolist()
    ((3, 5, 8), [0.0, 0.5, 1.0])

  Reference:
    Gama et al., A survey on concept drift adaptation, 2014, figure 2 (the kinds of drift).
  """

  x: Array
  y: Array
  progress: Array
  centers: Array
  shift: Array


def make_drifting_stream(
  key: Array,
  *,
  num_batches: int,
  batch: int,
  num_classes: int = 4,
  num_features: int = 8,
  separation: ArrayLike = 4.0,
  shift: ArrayLike = 2.0,
  drift: str = "gradual",
) -> DriftingStream:
  r"""Gaussian classes whose inputs move together along one direction.

  Draws centers c_k = separation * u_k and a shift s = shift * u with unit vectors u, then

    x_ti = c_{y_ti} + p_t s + e_ti,    e_ti ~ N(0, I),    y_ti uniform over the classes,

  with p_t = t / (T - 1) ("gradual"), 1 from the middle on and 0 before ("abrupt"), or
  (1 - cos(4 pi t / (T - 1))) / 2, there and back twice ("recurring").

  Args:
    key: typed PRNG key.
    num_batches: T >= 1, static.
    batch: >= 1, static.
    num_classes: >= 1, static.
    num_features: >= 1, static.
    separation: >= 0, distance of the centers from the origin, in standard deviations of a class;
      may be traced.
    shift: >= 0, length of the shift; may be traced.
    drift: "gradual", "abrupt" or "recurring"; static.

  Returns:
    ``DriftingStream``.

  Raises:
    TypeError: the key is not a typed key, or a size no integer.
    ValueError: a size or a number is out of range, or the drift is unknown.

  Example:
    >>> stream = make_drifting_stream(
    ...   jax.random.key(0), num_batches=4, batch=2000, shift=3.0, drift="abrupt")
    >>> moved = stream.x[2:].mean((0, 1)) - stream.x[:2].mean((0, 1))
    >>> bool(jnp.linalg.norm(moved - stream.shift) < 0.3)
    True

  Reference:
    Gama et al., A survey on concept drift adaptation, 2014.
  """
  _checks.check_key("key", key)
  sizes = {
    "num_batches": num_batches, "batch": batch, "num_classes": num_classes,
    "num_features": num_features,
  }  # fmt: skip
  for name, value in sizes.items():
    _checks.check_int(name, value, minimum=1)
  _checks.check_non_negative("separation", separation, scalar=True)
  _checks.check_non_negative("shift", shift, scalar=True)
  _arguments.check_option("drift", drift, DRIFTS)
  center_key, shift_key, label_key, noise_key = jax.random.split(key, 4)
  centers = jnp.asarray(separation) * _directions(center_key, (num_classes, num_features))
  move = jnp.asarray(shift) * _directions(shift_key, (num_features,))
  part = jnp.arange(num_batches) / max(num_batches - 1, 1)
  if drift == "abrupt":
    progress = (jnp.arange(num_batches) >= num_batches / 2).astype(part.dtype)
  else:
    progress = part if drift == "gradual" else (1 - jnp.cos(4 * math.pi * part)) / 2
  labels = jax.random.randint(label_key, (num_batches, batch), 0, num_classes, jnp.int32)
  noise = jax.random.normal(noise_key, (num_batches, batch, num_features), centers.dtype)
  x = centers[labels] + progress[:, None, None] * move[None, None, :] + noise
  return DriftingStream(x, labels, progress, centers, move)


def _directions(key: Array, shape: tuple[int, ...]) -> Array:
  rows = jax.random.normal(key, shape)
  return rows / jnp.linalg.norm(rows, axis=-1, keepdims=True)
