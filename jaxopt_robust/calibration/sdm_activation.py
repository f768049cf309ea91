"""Similarity, distance and magnitude: a softmax as sharp as the training examples nearby allow."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, _units, numerics
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "ClassEcdf",
  "class_ecdf",
  "class_ecdf_fit",
  "distance_quantiles",
  "nearest_agreement",
  "sdm_activation",
  "sdm_loss",
]


class ClassEcdf(NamedTuple):
  """Empirical distribution functions, one a class.

  Attributes:
    values: float[classes, n], the values of each class in ascending order, filled up with inf.
    counts: int32[classes], how many each class has.
  """

  values: Array
  counts: Array


def nearest_agreement(
  queries: ArrayLike,
  references: ArrayLike,
  *,
  predictions: ArrayLike,
  reference_predictions: ArrayLike,
  reference_labels: ArrayLike,
  max_similarity: int = 1000,
  exclude_self: bool = False,
  block_size: int = 256,
) -> tuple[Array, Array]:
  r"""How many nearest references agree with a prediction, and how far the nearest one is.

  A reference matches a query where its own prediction is right and equal to that of the query. The
  similarity q is the length of the run of matches that the references begin with, nearest first:
  the number of references nearer than the nearest one that does not match. The distance is
  min_j ||h - h_j||_2.

  Args:
    queries: float[n, features] representations.
    references: float[N, features].
    predictions: int[n], classes predicted for the queries.
    reference_predictions: int[N].
    reference_labels: int[N].
    max_similarity: static integer >= 1; longer runs count as that.
    exclude_self: static; the queries are the references themselves, and none counts for itself.
    block_size: static integer >= 1, queries compared at once.

  Returns:
    ``(similarity, distance)``: int32[n] and float[n] of at least float32. Without any reference the
    distance is inf and the similarity 0.

  Raises:
    ValueError: shapes do not agree or a size is < 1.
    TypeError: representations are not floating-point, or classes are no integers.

  Note:
    A reference at the same distance as the nearest one that does not match does not count. No
    gradient flows. A query that is not finite has similarity 0 and distance NaN; a reference that
    holds NaN gives every query the distance NaN.

  Example:
    >>> references, right = jnp.array([[0.0], [1.0], [2.0], [9.0]]), jnp.array([1, 1, 0, 1])
    >>> nearest_agreement(jnp.array([[0.2]]), references, predictions=jnp.array([1]),
    ...                   reference_predictions=right, reference_labels=right)
    (Array([2], dtype=int32), Array([0.2], dtype=float32))

  Reference:
    Schmaltz, Similarity-distance-magnitude universal verification, 2025, equations of the
    similarity and the distance (the first 1000 neighbours, as in the code).
  """
  x = jax.lax.stop_gradient(numerics.upcast(_checks.check_float_array("queries", queries, rank=2)))
  ref = _checks.check_float_array("references", references, rank=2)
  ref = jax.lax.stop_gradient(ref.astype(x.dtype))
  if x.shape[1] != ref.shape[1]:
    raise ValueError(f"references must have {x.shape[1]} features; got shape {ref.shape}.")
  own = _checks.check_integers("predictions", predictions, bool_ok=True)
  theirs = _checks.check_integers("reference_predictions", reference_predictions, bool_ok=True)
  labels = _checks.check_integers("reference_labels", reference_labels, bool_ok=True)
  for name, value, shape in (
    ("predictions", own, x.shape[:1]),
    ("reference_predictions", theirs, ref.shape[:1]),
    ("reference_labels", labels, ref.shape[:1]),
  ):
    if value.shape != shape:
      raise ValueError(f"{name} must have shape {shape}; got {value.shape}.")
  limit = _checks.check_int("max_similarity", max_similarity, minimum=1)
  block = _checks.check_int("block_size", block_size, minimum=1)
  if exclude_self and x.shape != ref.shape:
    raise ValueError(
      f"exclude_self needs queries that are the references; got shapes {x.shape} and {ref.shape}."
    )
  right = theirs == labels
  place = jnp.arange(ref.shape[0])

  def one(row: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
    point, prediction, number, unit = row
    apart = (ref - point[None]) * (1 / unit)
    square = jnp.sum(apart**2, axis=1)
    if exclude_self:
      square = jnp.where(place == number, jnp.inf, square)
    match = right & (theirs == prediction)
    end = jnp.min(jnp.where(match, jnp.inf, square))
    count = jnp.sum((square < end) & match, dtype=jnp.int32)
    distance = unit * jnp.sqrt(jnp.min(square))
    return jnp.minimum(count, limit), jnp.where(jnp.isfinite(point).all(), distance, jnp.nan)

  unit = _units_of_queries(x, ref, exclude_self)
  rows = (x, own, jnp.arange(x.shape[0]), unit)
  similarity, distance = jax.lax.map(one, rows, batch_size=min(block, x.shape[0]))
  return similarity, distance


def _units_of_queries(x: Array, ref: Array, exclude_self: bool) -> Array:
  """A power of two a query near the largest that its nearest distance can be, float[n].

  The square of that distance neither overflows nor vanishes, whatever the other rows are; those
  of far references may overflow.
  """
  size = jnp.max(jnp.abs(ref), axis=1)
  positive = jnp.min(jnp.where(size > 0, size, jnp.inf))
  least, first = jnp.min(size), jnp.argmin(size)
  if exclude_self:
    place = jnp.arange(ref.shape[0])
    second = jnp.min(jnp.where(place == first, jnp.inf, size))
    least = jnp.where(place == first, second, least)
  own = jnp.max(jnp.abs(x), axis=1)
  far = jnp.where(jnp.isfinite(least), jnp.maximum(own, least), own)
  return _units.power(_units.exponent_of(jnp.where(own > 0, far, positive)), x.dtype)


def class_ecdf_fit(
  values: ArrayLike, labels: ArrayLike, *, num_classes: int, where: ArrayLike | None = None
) -> ClassEcdf:
  """Sorts values by class, for ``class_ecdf``.

  Args:
    values: float[n], or float[n, classes]: then column k is that of class k.
    labels: int[n] in [0, num_classes).
    num_classes: static integer >= 1.
    where: bool[n]; rows where it is false are left out.

  Returns:
    ClassEcdf.

  Raises:
    ValueError: shapes do not agree or a known label is out of range.
    TypeError: values are not floating-point, labels no integers or where is not boolean.

  Note:
    NaN counts as the largest value.

  Example:
    >>> class_ecdf_fit(jnp.array([3.0, 1.0, 2.0]), jnp.array([0, 0, 1]), num_classes=2).values
    Array([[ 1.,  3., inf],
           [ 2., inf, inf]], dtype=float32)

  Reference:
    Schmaltz, Similarity-distance-magnitude universal verification, 2025, equations of the
    class-wise empirical distribution functions.
  """
  array = _checks.check_float_array("values", values, rank=(1, 2))
  classes = _checks.check_int("num_classes", num_classes, minimum=1)
  if array.ndim == 2 and array.shape[1] != classes:
    raise ValueError(f"values must have {classes} columns, one a class; got shape {array.shape}.")
  shape = array.shape[:1]
  mask = _checks.check_mask("where", where, shape=shape)
  labels = _checks.check_labels("labels", labels, shape=shape, num_classes=classes, where=mask)
  member = labels[None, :] == jnp.arange(classes)[:, None]
  if mask is not None:
    member = member & mask[None, :]
  columns = array.T if array.ndim == 2 else jnp.broadcast_to(array, (classes, *shape))
  columns = jnp.where(jnp.isnan(columns), jnp.inf, columns)
  kept = jnp.sort(jnp.where(member, columns, jnp.inf), axis=1)
  return ClassEcdf(kept, jnp.sum(member, axis=1, dtype=jnp.int32))


def class_ecdf(ecdf: ClassEcdf, values: ArrayLike, *, saturate: bool = False) -> Array:
  r"""The share of the stored values of each class that lie below a value.

  Computes F_k(v_k) = #{stored values of class k below v_k} / n_k, 0 for a class without any.

  Args:
    ecdf: ClassEcdf.
    values: float[..., classes]; column k is looked up in class k.
    saturate: static; values at or above the largest stored one give 1.

  Returns:
    float[..., classes] in [0, 1], of the dtype of the stored values.

  Raises:
    TypeError: ecdf is no ClassEcdf or values are not floating-point.
    ValueError: values have another number of classes.

  Note:
    Equal values do not count as below, so that the smallest stored value gives 0. NaN gives 0. No
    gradient flows.

  Example:
    >>> ecdf = class_ecdf_fit(jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.zeros(4, int), num_classes=1)
    >>> class_ecdf(ecdf, jnp.array([2.5])), class_ecdf(ecdf, jnp.array([4.0]), saturate=True)
    (Array([0.5], dtype=float32), Array([1.], dtype=float32))

  Reference:
    Schmaltz, Similarity-distance-magnitude universal verification, 2025, equations of the
    class-wise empirical distribution functions; their code counts values below, not at most.
  """
  below = count_below(ecdf, values)
  dtype = ecdf.values.dtype
  # Half-precision floats do not hold the numbers of examples.
  exact = jnp.promote_types(dtype, jnp.float32)
  counts = jnp.broadcast_to(ecdf.counts, below.shape)
  share = numerics.safe_divide(below.astype(exact), counts.astype(exact)).astype(dtype)
  if not saturate:
    return share
  last = jnp.take_along_axis(ecdf.values, jnp.maximum(ecdf.counts - 1, 0)[:, None], axis=1)[:, 0]
  full = (jnp.asarray(values) >= jnp.broadcast_to(last, below.shape)) & (counts > 0)
  return jnp.where(full, 1, share)


def count_below(ecdf: ClassEcdf, values: ArrayLike) -> Array:
  """How many stored values of each class lie below, int32[..., classes]."""
  _arguments.check_state("ecdf", ecdf, ClassEcdf)
  array = _checks.check_float_array("values", values, min_rank=1, non_empty=False)
  classes = ecdf.values.shape[0]
  if array.shape[-1] != classes:
    raise ValueError(f"values must have {classes} classes; got shape {array.shape}.")
  wide = jnp.promote_types(array.dtype, ecdf.values.dtype)  # of the two, so that no tie is made
  flat = jax.lax.stop_gradient(array.reshape(-1, classes)).astype(wide)
  find = lambda stored, v: jnp.searchsorted(stored.astype(wide), v, side="left")
  found = jax.vmap(find, in_axes=(0, 1), out_axes=1)(
    ecdf.values, jnp.nan_to_num(flat, nan=-jnp.inf)
  )
  found = jnp.minimum(found.astype(jnp.int32), ecdf.counts[None])
  return found.reshape(array.shape)


def distance_quantiles(ecdf: ClassEcdf, distances: ArrayLike) -> Array:
  r"""How near an example is to the training examples, by the standards of held-out ones.

  Computes d = min_k (1 - F_k(distance)): 1 at distance 0, 0 beyond the largest stored distance of
  some class.

  Args:
    ecdf: ClassEcdf of distances of held-out examples to the nearest training example, by class.
    distances: float[...] >= 0.

  Returns:
    float[...] in [0, 1]. 0 wherever a class has no stored distance, or a distance is NaN: nothing
    is known there.

  Raises:
    TypeError: ecdf is no ClassEcdf or distances are not floating-point.

  Example:
    >>> ecdf = class_ecdf_fit(jnp.arange(4.0), jnp.array([0, 0, 1, 1]), num_classes=2)
    >>> distance_quantiles(ecdf, jnp.array([0.0, 0.5, 2.5, 9.0]))
    Array([1. , 0.5, 0. , 0. ], dtype=float32)

  Reference:
    Schmaltz, Similarity-distance-magnitude universal verification, 2025, equation of the distance
    quantile (the class of the smallest one, as in the code).
  """
  _arguments.check_state("ecdf", ecdf, ClassEcdf)
  array = _checks.check_float_array("distances", distances, non_empty=False)
  wide = jnp.broadcast_to(array[..., None], (*array.shape, ecdf.values.shape[0]))
  far = 1 - class_ecdf(ecdf, wide)
  known = jnp.all(ecdf.counts > 0) & ~jnp.isnan(array)
  return jnp.where(known, jnp.min(far, axis=-1), 0)


def _sharpness(
  logits: ArrayLike, similarity: ArrayLike, distance: ArrayLike
) -> tuple[Array, Array, Array, jnp.dtype]:
  """Logits at least of 32 bits, ln(2 + q) and d, one a row, and the dtype to return."""
  z = _checks.check_float_array("logits", logits, min_rank=1)
  _checks.check_greater("similarity", similarity, -1)
  _checks.check_interval("distance", distance, 0, 1)
  wide = numerics.upcast(z)
  rows = []
  for name, value in (("similarity", similarity), ("distance", distance)):
    array = jnp.asarray(value, wide.dtype)
    if array.shape not in ((), z.shape[:-1]):
      raise ValueError(f"{name} must be a scalar or have shape {z.shape[:-1]}; got {array.shape}.")
    rows.append(jnp.broadcast_to(array, z.shape[:-1]))
  return wide, jnp.log(2 + rows[0]), rows[1], z.dtype


def sdm_activation(logits: ArrayLike, *, similarity: ArrayLike, distance: ArrayLike) -> Array:
  r"""Similarity-distance-magnitude activation: softmax to the base 2 + q of logits scaled by d.

  Computes sdm(z)_k = (2 + q)^{d z_k} / sum_c (2 + q)^{d z_c} = softmax(ln(2 + q) d z)_k.

  Args:
    logits: float[..., classes] z.
    similarity: q > -1, a scalar or [...]; q = e - 2 with d = 1 is softmax.
    distance: d in [0, 1], a scalar or float[...]; 0 gives equal probabilities.

  Returns:
    float[..., classes] probabilities in the dtype of ``logits``.

  Raises:
    ValueError: shapes do not agree, q <= -1 or d outside [0, 1].
    TypeError: logits are not floating-point.

  Note:
    Where d > 0 the order of the classes is that of the logits.

  Example:
    >>> sdm_activation(jnp.array([1.0, 0.0]), similarity=2, distance=1.0)
    Array([0.8, 0.2], dtype=float32)

  Reference:
    Schmaltz, Similarity-distance-magnitude universal verification, 2025, equation of the SDM
    activation.
  """
  z, scale, d, dtype = _sharpness(logits, similarity, distance)
  return jax.nn.softmax((scale * d)[..., None] * z, axis=-1).astype(dtype)


def sdm_loss(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  similarity: ArrayLike,
  distance: ArrayLike,
  where: ArrayLike | None = None,
) -> Array:
  r"""Cross entropy of the similarity-distance-magnitude activation, to the base 2 + q.

  Computes -log_{2+q} sdm(z)_y = -d z_y + ln(sum_k e^{ln(2+q) d z_k}) / ln(2+q). Its gradient by z
  is d (sdm(z) - e_y): rows of distance 0 teach nothing.

  Args:
    logits: float[batch, classes] z.
    labels: int[batch] in [0, classes).
    similarity: q > -1, a scalar or [batch].
    distance: d in [0, 1], a scalar or float[batch].
    where: bool[batch]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[batch] >= 0 in the dtype of ``logits``.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, q <= -1 or d outside [0, 1].
    TypeError: logits are not floating-point, labels no integers or where is not boolean.

  Example:
    >>> loss = sdm_loss(jnp.array([[2.0, 0.0]]), jnp.array([0]), similarity=0, distance=1.0)
    >>> print(f"{loss[0]:.3f}")  # log2(1 + 2^-2)
    0.322

  Reference:
    Schmaltz, Similarity-distance-magnitude universal verification, 2025, equation of the loss.
  """
  shape = _checks.check_float_array("logits", logits, rank=2).shape
  mask = _checks.check_mask("where", where, shape=shape[:1])
  if mask is not None:  # whatever masked rows hold
    similarity, distance = (
      jnp.where(mask, value, 0) if jnp.shape(value) == mask.shape else value
      for value in (similarity, distance)
    )
  z, scale, d, dtype = _sharpness(logits, similarity, distance)
  labels = _checks.check_labels(
    "labels", labels, shape=z.shape[:1], num_classes=z.shape[1], where=mask
  )
  if mask is not None:
    z = jnp.where(mask[:, None], z, 0)
  labels = labels if mask is None else jnp.where(mask, labels, 0)
  log_p = jax.nn.log_softmax((scale * d)[:, None] * z, axis=-1)
  values = -jnp.take_along_axis(log_p, labels[:, None], axis=1, mode="fill")[:, 0] / scale
  return (values if mask is None else jnp.where(mask, values, 0)).astype(dtype)
