"""Losses of pairs of embeddings for retrieval and verification with one threshold."""

import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.losses import _embeddings
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["cosine_similarities", "threshold_consistent_margin_loss"]


def cosine_similarities(embeddings: ArrayLike) -> Array:
  r"""Cosines of all pairs of rows.

  Computes s_ij = <x_i, x_j> / (||x_i|| ||x_j||).

  Args:
    embeddings: float[batch, features].

  Returns:
    float[batch, batch] in the dtype of ``embeddings``; 0 in rows and columns of an embedding 0.

  Raises:
    ValueError: embeddings are not of rank 2 or empty.
    TypeError: embeddings are not floating-point.

  Example:
    >>> cosine_similarities(jnp.array([[2.0, 0.0], [0.0, 3.0]]))
    Array([[1., 0.],
           [0., 1.]], dtype=float32)

  Reference:
    Salton and McGill, Introduction to modern information retrieval, 1983, chapter 4.
  """
  array = _checks.check_float_array("embeddings", embeddings, rank=2)
  rows = _embeddings.unit_rows(array)
  return _embeddings.matmul(rows, rows.T).astype(array.dtype)


def threshold_consistent_margin_loss(
  similarities: ArrayLike,
  labels: ArrayLike,
  *,
  positive_margin: ArrayLike = 0.9,
  negative_margin: ArrayLike = 0.5,
  positive_weight: ArrayLike = 1.0,
  negative_weight: ArrayLike = 1.0,
  where: ArrayLike | None = None,
) -> Array:
  r"""Threshold-consistent margin loss (TCM): one threshold is to separate pairs of all classes.

  Computes lam+ mean of (m+ - s_ij) over the hard positive pairs (equal labels, i != j, s_ij <= m+)
  plus lam- mean of (s_ij - m-) over the hard negative pairs (different labels, s_ij >= m-), with
  m+, m- the margins and lam+, lam- the weights. Each mean is over its hard pairs only; a mean over
  none is 0. It is added to a loss that shapes the embeddings.

  Args:
    similarities: float[batch, batch], cosines of all pairs, as from ``cosine_similarities``.
    labels: int[batch] classes; any integers.
    positive_margin: the paper's m+, a scalar; may be traced, as may all numbers that follow.
    negative_margin: the paper's m-, a scalar; at most the positive margin in the paper.
    positive_weight: >= 0, the paper's lambda+, a scalar; 0 leaves the negative part alone.
    negative_weight: >= 0, the paper's lambda-, a scalar.
    where: bool[batch, batch]; pairs where it is false do not count, whatever they hold. The
      diagonal never counts.

  Returns:
    float scalar, in the dtype of ``similarities``.

  Raises:
    ValueError: shapes do not agree, a margin is no scalar or a weight is negative.
    TypeError: similarities are not floating-point, labels not integers or where not boolean.

  Note:
    The set of hard pairs is held fixed by the derivative, which is -lam+ / (number of hard
    positives) in each of their similarities. The loss jumps where a pair enters the set, since the
    number of pairs it is divided by changes; pairs exactly at a margin count.

  Example:
    >>> embeddings = jnp.array([[0.0, 1.0], [0.43, 0.9], [1.0, 0.0], [0.5, 0.5]])
    >>> similarities = cosine_similarities(embeddings)
    >>> threshold_consistent_margin_loss(similarities, jnp.array([0, 0, 1, 1])).round(3)
    Array(0.518, dtype=float32)

  Reference:
    Zhang, Xu, Tang, Fang, Wu, Tighe and Xing, Threshold-consistent margin loss for open-world deep
    metric learning, 2024.
  """
  array = _checks.check_float_array("similarities", similarities, rank=2)
  if array.shape[0] != array.shape[1]:
    raise ValueError(f"similarities must be a square matrix; got shape {array.shape}.")
  label = _embeddings.check_class_numbers("labels", labels, shape=array.shape[:1])
  mask = _checks.check_mask("where", where, shape=array.shape)
  _checks.check_non_negative("positive_weight", positive_weight)
  _checks.check_non_negative("negative_weight", negative_weight)
  wide = numerics.upcast(array)
  margin_p, margin_n, weight_p, weight_n = (
    _checks.check_array(name, value, rank=0).astype(wide.dtype)
    for name, value in (
      ("positive_margin", positive_margin),
      ("negative_margin", negative_margin),
      ("positive_weight", positive_weight),
      ("negative_weight", negative_weight),
    )
  )
  counts = ~jnp.eye(array.shape[0], dtype=jnp.bool_)
  if mask is not None:
    counts = counts & mask
  is_same = label[:, None] == label[None, :]
  wide = jnp.where(counts, wide, 0)
  # written so that a NaN similarity is hard, and the loss NaN
  positives = counts & is_same & ~(wide > margin_p)
  negatives = counts & ~is_same & ~(wide < margin_n)
  value = weight_p * numerics.masked_mean(margin_p - wide, positives)
  return (value + weight_n * numerics.masked_mean(wide - margin_n, negatives)).astype(array.dtype)
