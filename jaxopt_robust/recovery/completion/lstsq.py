"""The half step of alternating minimisation: all rows, or all columns, by least squares."""

import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.linalg import SegmentLstsqInfo, segment_lstsq
from jaxopt_robust.numerics import upcast
from jaxopt_robust.recovery.completion._common import check_entries
from jaxopt_robust.recovery.entries import EntryCOO, EntryMask
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["coo_lstsq"]

SIDES = ("left", "right")


def coo_lstsq(
  op: EntryCOO | EntryMask,
  y: ArrayLike,
  fixed: ArrayLike,
  *,
  side: str = "right",
  weights: ArrayLike | None = None,
  ridge: ArrayLike = 0.0,
  solver: str = "pcg",
  key: Array | None = None,
  sketch_size: int | None = None,
  iterations: int = 3,
) -> tuple[Array, SegmentLstsqInfo]:
  r"""One factor of a matrix from its observed entries, the other factor fixed.

  For ``side="right"``, argmin_R sum_e w_e (A(L R^T) - y)_e^2 + sum_j ridge_j ||R_j||^2 for this L:
  one small regression for each column of the matrix; for ``side="left"``, the same for L with R
  fixed, one for each row. Solved by ``linalg.segment_lstsq``: exactly, or by a sketch and
  ``iterations`` of conjugate gradients in O(E k) each.

  Args:
    op: observed entries of a d1 x d2 matrix.
    y: float[E], their values.
    fixed: float[d1, k] for ``side="right"``, float[d2, k] for ``side="left"``.
    side: which factor is returned, ``"right"`` or ``"left"``; static.
    weights: float[E] >= 0, w_e; None for all ones.
    ridge: >= 0, a scalar or one number for each row of the result; may be traced.
    solver: ``"exact"``, ``"pcg"``, ``"sketch"`` or ``"unit_step"``; static.
    key: typed PRNG key of the sketch; ``"exact"`` needs none.
    sketch_size: rows of a sketch, >= k, static; 4 k by default.
    iterations: >= 0, static.

  Returns:
    (float[d2, k] or float[d1, k], ``SegmentLstsqInfo``), whose ``deficient`` marks columns or rows
    with fewer than k observations: without ridge these get the shortest solution.

  Raises:
    TypeError: ``op`` is no list or mask of entries, an array is not floating-point, or the key is
      missing.
    ValueError: shapes do not fit, an unknown side or solver, a number out of range, or entries that
      are not finite, outside of the matrix, or repeated.

  Example:
    >>> op = jr.recovery.EntryMask(jnp.ones((3, 2), bool))
    >>> truth = jnp.outer(jnp.arange(1.0, 4.0), jnp.array([2.0, -1.0]))
    >>> right, _ = coo_lstsq(op, truth.ravel(), jnp.arange(1.0, 4.0)[:, None], solver="exact")
    >>> right.round(3)
    Array([[ 2.],
           [-1.]], dtype=float32)

  Reference:
    Gu, Song, Yin and Zhang, Low rank matrix completion via robust alternating minimization in
    nearly linear time, 2023 (sketched solves; conjugate gradients in place of their unit step are
    ours).
  """
  op, y = check_entries(op, y)
  _arguments.check_option("side", side, SIDES)
  factor = _checks.check_float_array("fixed", fixed, rank=2)
  rows, cols = op._indices()
  own, out = (rows, cols) if side == "right" else (cols, rows)
  size_own, size_out = op.shape if side == "right" else op.shape[::-1]
  if factor.shape[0] != size_own:
    raise ValueError(
      f"fixed must have {size_own} rows for side={side!r} and shape {op.shape}; got {factor.shape}."
    )
  gathered = upcast(factor).at[own].get(mode="fill", fill_value=jnp.nan)
  gathered = op._weighted(jnp.ones(op.size, gathered.dtype))[:, None] * gathered
  if op.observed is not None:
    gathered = jnp.where(op.observed[:, None], gathered, 0)
  solution, info = segment_lstsq(
    gathered,
    out,
    upcast(y),
    num_segments=size_out,
    weights=weights,
    ridge=ridge,
    solver=solver,
    key=key,
    sketch_size=sketch_size,
    iterations=iterations,
  )
  return solution.astype(jnp.result_type(factor, y)), info
