"""Additive model of ratings: a mean, and one bias for each row and column."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import masked_mean, safe_divide, upcast
from jaxopt_robust.recovery.completion._common import check_entries
from jaxopt_robust.recovery.completion.weights import Reweight
from jaxopt_robust.recovery.entries import EntryCOO, EntryMask
from jaxopt_robust.recovery.operators import inside
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["Biases", "biased_baseline"]


class Biases(NamedTuple):
  """The additive model X_ij = mean + row_i + col_j.

  Attributes:
    mean: float scalar.
    row: float[d1].
    col: float[d2].

  Example:
    >>> Biases._fields
    ('mean', 'row', 'col')

  Reference:
    Koren, Bell and Volinsky, Matrix factorization techniques for recommender systems, 2009.
  """

  mean: Array
  row: Array
  col: Array

  def at(self, row_index: ArrayLike, col_index: ArrayLike) -> Array:
    """Predictions for pairs.

    Args:
      row_index: int[E] in [0, d1).
      col_index: int[E] in [0, d2).

    Returns:
      float[E], mean + row_i + col_j; NaN outside of the matrix, -1 included.
    """
    rows = inside(_checks.check_integers("row_index", row_index), self.row.shape[0])
    cols = inside(_checks.check_integers("col_index", col_index), self.col.shape[0])
    row = self.row.at[rows].get(mode="fill", fill_value=jnp.nan)
    return self.mean + row + self.col.at[cols].get(mode="fill", fill_value=jnp.nan)


def biased_baseline(
  op: EntryCOO | EntryMask,
  y: ArrayLike,
  *,
  row_ridge: ArrayLike,
  col_ridge: ArrayLike,
  num_rounds: int = 10,
  reweight: Reweight | None = None,
) -> Biases:
  r"""Fits a mean and biases of rows and columns to the observed entries.

  Minimises sum_e w_e (y_e - mean - row_i - col_j)^2 + row_ridge ||row||^2 + col_ridge ||col||^2 in
  turns, in closed form: mean = mean of y - row - col, col_j = sum_i w (y - mean - row_i) /
  (n_j + col_ridge), and the same for rows; then the biases are centred, as they are at the minimum.

  Args:
    op: observed entries of a d1 x d2 matrix.
    y: float[E], their values (all d1 * d2 of them, row by row, for an ``EntryMask``).
    row_ridge: >= 0; may be traced.
    col_ridge: >= 0; may be traced.
    num_rounds: turns, >= 1, static.
    reweight: function (residuals, observed) -> weights, such as ``huber_weights()``; None for least
      squares.

  Returns:
    Biases; those of a row or column without observations are 0.

  Raises:
    TypeError: ``op`` is no list or mask of entries, or ``y`` is not floating-point.
    ValueError: wrong shape of ``y``, a negative ridge, or entries that are not finite, outside of
      the matrix, or repeated.

  Example:
    >>> op = jr.recovery.EntryMask(jnp.ones((2, 2), bool))
    >>> out = biased_baseline(op, jnp.array([1.0, 2.0, 3.0, 4.0]), row_ridge=0.0, col_ridge=0.0)
    >>> out.row.round(3), float(out.mean)
    (Array([-1.,  1.], dtype=float32), 2.5)

  Reference:
    Koren, Bell and Volinsky, Matrix factorization techniques for recommender systems, 2009,
    equations 3 and 4.
  """
  op, y = check_entries(op, y)
  _checks.check_non_negative("row_ridge", row_ridge, scalar=True)
  _checks.check_non_negative("col_ridge", col_ridge, scalar=True)
  num_rounds = _checks.check_int("num_rounds", num_rounds, minimum=1)
  if reweight is not None:
    _arguments.check_function_of("reweight", reweight, "residuals", "observed")
  wide = upcast(y)
  rows, cols = op._indices()
  seen = jnp.ones(op.size, wide.dtype) if op.observed is None else op.observed.astype(wide.dtype)
  ridges = jnp.asarray(row_ridge, wide.dtype), jnp.asarray(col_ridge, wide.dtype)

  has_row = jax.ops.segment_sum(seen, rows, op.shape[0]) > 0
  has_col = jax.ops.segment_sum(seen, cols, op.shape[1]) > 0

  def fit(rest: Array, weights: Array, index: Array, size: int, ridge: Array) -> Array:
    total = jax.ops.segment_sum(weights * rest, index, size)
    return safe_divide(total, jax.ops.segment_sum(weights, index, size) + ridge)

  def body(biases: Biases, _: None) -> tuple[Biases, None]:
    weights = seen
    if reweight is not None:
      weights = seen * reweight(wide - biases.at(rows, cols), op.observed)
    rest = wide - biases.row[rows] - biases.col[cols]
    mean = safe_divide(jnp.sum(weights * rest), jnp.sum(weights))
    col = fit(wide - mean - biases.row[rows], weights, cols, op.shape[1], ridges[1])
    row = fit(wide - mean - col[cols], weights, rows, op.shape[0], ridges[0])
    # A constant may move between mean and biases without a change of fit: at the minimum they have
    # mean 0, and turns alone get there slowly.
    row_shift, col_shift = masked_mean(row, has_row), masked_mean(col, has_col)
    row = jnp.where(has_row, row - row_shift, row)
    col = jnp.where(has_col, col - col_shift, col)
    return Biases(mean + row_shift + col_shift, row, col), None

  zeros = Biases(
    jnp.zeros((), wide.dtype),
    jnp.zeros(op.shape[0], wide.dtype),
    jnp.zeros(op.shape[1], wide.dtype),
  )
  if reweight is not None:  # the first residuals are taken from the median, not from 0
    middle = jnp.nanmedian(jnp.where(seen > 0, wide, jnp.nan))
    zeros = zeros._replace(mean=middle)
  biases, _ = jax.lax.scan(body, zeros, None, length=num_rounds)
  return jax.tree.map(lambda leaf: leaf.astype(y.dtype), biases)
