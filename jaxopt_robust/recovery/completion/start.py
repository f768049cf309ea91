"""Spectral start of matrix completion from a list of entries: no dense matrix is formed."""

import math

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust._units import root_of_unit
from jaxopt_robust.linalg import randomized_svd_matvec
from jaxopt_robust.numerics import safe_divide, upcast
from jaxopt_robust.recovery.completion._common import check_entries, check_start
from jaxopt_robust.recovery.entries import EntryCOO, EntryMask
from jaxopt_robust.recovery.factors import Factors
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["entry_spectral"]


def entry_spectral(
  key: Array,
  op: EntryCOO | EntryMask,
  y: ArrayLike,
  rank: int,
  *,
  clip: ArrayLike = math.inf,
  incoherence: ArrayLike = 1.0,
  weights: ArrayLike | None = None,
  power: int = 4,
) -> Factors:
  r"""Spectral start from a list of entries, clipped where its rows are too long.

  With B = A*(y) / p, p the fraction of entries observed: the leading left singular vectors of B by
  random projection; their entries above clip * incoherence * sqrt(rank / d1) in magnitude are set
  to 0 and the columns orthonormalised, giving Q; then the balanced factors of Q Q^T B, that is
  L = Q U sqrt(S), R = V sqrt(S) with Q^T B = U S V^T.

  Args:
    key: typed PRNG key.
    op: observed entries of a d1 x d2 matrix.
    y: float[E], their values (all d1 * d2 of them, row by row, for an ``EntryMask``).
    rank: width of the factors, static.
    clip: > 0, multiple above which an entry is set to 0; infinity keeps all; may be traced.
    incoherence: > 0, the bound mu on d1 max_i ||U_i||^2 / rank that the matrix is taken to have.
    weights: float[E] >= 0; entries of weight 0 are left out, the others count fully; None for all.
    power: rounds of subspace iteration, >= 0, static.

  Returns:
    Factors of shapes [d1, rank] and [d2, rank].

  Raises:
    TypeError: ``op`` is no list or mask of entries, ``y`` is not floating-point, or the key is not
      a typed key.
    ValueError: wrong shape of ``y``, a rank larger than the matrix, ``clip`` or ``incoherence`` not
      positive, entries that are not finite, outside of the matrix, or repeated.

  Note:
    Costs O(power * E * rank). Clipping keeps a few crowded rows from dominating the start.

  Example:
    >>> op = jr.recovery.EntryCOO(jnp.array([0, 0, 1, 1]), jnp.array([0, 1, 0, 1]), (2, 2))
    >>> start = entry_spectral(jax.random.key(0), op, jnp.array([1.0, 2.0, 2.0, 4.0]), 1)
    >>> jr.recovery.compose(start).round(3)
    Array([[1., 2.],
           [2., 4.]], dtype=float32)

  Reference:
    Jain, Netrapalli and Sanghavi, Low-rank matrix completion using alternating minimization, 2013,
    algorithm 2 (clipping; recalled, not verified); Gu, Song, Yin and Zhang, Low rank matrix
    completion via robust alternating minimization in nearly linear time, 2023.
  """
  _checks.check_key("key", key)
  op, y = check_entries(op, y)
  rank = _checks.check_rank(rank, op.shape)
  _checks.check_positive("clip", clip, scalar=True)
  _checks.check_positive("incoherence", incoherence, scalar=True)
  wide = upcast(y)
  count = jnp.asarray(op.count, wide.dtype)
  if weights is not None:
    weights = _checks.check_float_array("weights", weights, rank=1)
    kept = weights > 0
    _checks.check_same_shape("weights", weights, "y", y)
    wide = jnp.where(kept, wide, jnp.where(jnp.isnan(weights), jnp.nan, 0))
    seen = kept if op.observed is None else kept & op.observed
    count = jnp.sum(seen, dtype=wide.dtype)
  unit = root_of_unit(wide)
  scaled = safe_divide(wide / unit / unit, count / (op.shape[0] * op.shape[1]))
  out = randomized_svd_matvec(
    key,
    lambda block: op.adjoint_mul(scaled, block),
    lambda block: op.adjoint_t_mul(scaled, block),
    shape=op.shape,
    rank=rank,
    power=power,
    dtype=wide.dtype,
  )
  bound = jnp.asarray(clip, wide.dtype) * jnp.asarray(incoherence, wide.dtype)
  clipped = jnp.where(jnp.abs(out.u) > bound * (rank / op.shape[0]) ** 0.5, 0, out.u)
  basis = jnp.linalg.qr(clipped)[0]
  outer, triangle = jnp.linalg.qr(op.adjoint_t_mul(scaled, basis))  # B^T Q
  inner, values, rotation = jnp.linalg.svd(triangle.T)
  root = unit * jnp.sqrt(values)[None, :]
  left = jnp.matmul(basis, inner, precision="highest") * root
  right = jnp.matmul(outer, rotation.T, precision="highest") * root
  return jax.tree.map(lambda leaf: leaf.astype(y.dtype), Factors(left, right))


def prepare(
  key: Array,
  op: EntryCOO | EntryMask,
  y: ArrayLike,
  rank: int,
  start: Factors | None,
  truth: ArrayLike | None,
) -> tuple[EntryCOO, Array, Factors, Array | None]:
  """The checked arguments of a completion method, with the spectral start where none is given."""
  _checks.check_key("key", key)
  op, y = check_entries(op, y)
  rank = _checks.check_rank(rank, op.shape)
  matrix = None if truth is None else op.check_matrix(truth, name="truth")
  factors = entry_spectral(key, op, y, rank) if start is None else check_start(op, start, rank)
  return op, y, factors, matrix
