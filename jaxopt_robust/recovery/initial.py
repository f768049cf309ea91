"""Starting points of factored recovery, and the growth factor that sets the length of a run."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust._units import root_of_unit
from jaxopt_robust.numerics import safe_divide, safe_norm, upcast
from jaxopt_robust.recovery.entries import EntryMask
from jaxopt_robust.recovery.factors import KINDS, Factors
from jaxopt_robust.recovery.operators import MeasurementOperator, check_dtype
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "alpha_identity",
  "growth_factor",
  "mask_spectral",
  "median_truncated_spectral",
  "random_small",
  "sign_spectral",
  "truncated_spectral",
]

_EDGE_MARGIN = 1.1  # fluctuation of the extreme noise eigenvalues at sizes of a few tens
_LARGEST_OF_NOISE = 2.02  # 99th percentile of the Tracy-Widom law of real symmetric matrices


def check_problem(op: MeasurementOperator, y: ArrayLike, kind: str) -> Array:
  if not isinstance(op, MeasurementOperator):
    raise TypeError(f"op must be a MeasurementOperator; got {type(op).__name__}.")
  _arguments.check_option("kind", kind, KINDS)
  if kind == "psd" and op.shape[0] != op.shape[1]:
    raise ValueError(f"kind='psd' needs a square matrix; got shape {op.shape}. Use 'general'.")
  return op.check_measurements("y", y)


def back_projection(op: MeasurementOperator, weights: Array, total: ArrayLike) -> Array:
  """(1/total) sum_i weights_i A_i in float32 or wider; unobserved measurements do not count."""
  if op.observed is not None:
    weights = jnp.where(op.observed, weights, 0)
  dense = upcast(op.adjoint(weights))
  return safe_divide(dense, jnp.asarray(total, dense.dtype))


def mean_of_signs(op: MeasurementOperator, y: Array) -> Array:
  """C = (1/m) sum_i sign(y_i) A_i: one pass over the operator."""
  return back_projection(op, jnp.sign(upcast(y)), op.count)


def spectral_factors(dense: Array, rank: int, alpha: ArrayLike, kind: str, dtype: Any) -> Factors:
  """alpha times the balanced factors of the leading part of a matrix, without negative ones."""
  unit = root_of_unit(dense)
  dense = dense / unit / unit
  scale = jnp.asarray(alpha, dense.dtype) * unit
  if kind == "psd":
    values, vectors = jnp.linalg.eigh((dense + dense.T) / 2)
    top, basis = values[::-1][:rank], vectors[:, ::-1][:, :rank]
    return Factors((scale * basis * jnp.sqrt(jnp.maximum(top, 0))[None, :]).astype(dtype), None)
  left, values, right = jnp.linalg.svd(dense, full_matrices=False)
  root = scale * jnp.sqrt(values[:rank])[None, :]
  return Factors((left[:, :rank] * root).astype(dtype), (right[:rank].T * root).astype(dtype))


def sign_spectral(
  op: MeasurementOperator, y: ArrayLike, rank: int, *, alpha: ArrayLike = 1.0, kind: str = "psd"
) -> Factors:
  r"""Small start in the right directions, blind to the size of outliers.

  With C = (1/m) sum_i sign(y_i) A_i: for ``kind="psd"``, U_0 = alpha V sqrt(max(Lam, 0)) from the
  ``rank`` largest eigenvalues of (C + C^T)/2; for ``kind="general"``, L_0 = alpha U sqrt(S) and
  R_0 = alpha V sqrt(S) from the largest singular values of C.

  Args:
    op: operator on d1 x d2 matrices with m measurements.
    y: float[m], measurements, possibly corrupted.
    rank: width of the factors, at least the true rank, static.
    alpha: >= 0, scale of the start; may be traced.
    kind: ``"psd"`` or ``"general"``; static.

  Returns:
    Factors of shapes [d1, rank] and [d2, rank] (None for ``"psd"``).

  Raises:
    TypeError: ``op`` is not an operator, ``y`` is not floating-point, or ``rank`` not an integer.
    ValueError: wrong shape of ``y``, a rank larger than the matrix, a negative ``alpha``, an
      unknown ``kind``, or ``"psd"`` for a matrix that is not square.

  Note:
    For Gaussian measurements E[C] is a multiple of X*. NaN in ``y`` makes the start NaN.

  Example:
    >>> op = jr.recovery.make_gaussian_sensing(jax.random.key(0), 2000, 3, 3)
    >>> start = sign_spectral(op, op.apply(jnp.diag(jnp.array([1.0, 0.0, 0.0]))), 1)
    >>> bool(jnp.abs(start.L[0, 0]) > 0.7)
    True

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023,
    algorithm 1 (initialization; recalled, not verified).
  """
  y = check_problem(op, y, kind)
  rank = _checks.check_rank(rank, op.shape)
  _checks.check_non_negative("alpha", alpha, scalar=True)
  return spectral_factors(mean_of_signs(op, y), rank, alpha, kind, y.dtype)


def random_small(
  key: Array,
  shape: int | tuple[int, int],
  rank: int,
  *,
  alpha: ArrayLike = 1.0,
  dtype: object = None,
) -> Factors:
  r"""Random start of a given scale: entries alpha N(0, 1) / sqrt(d), d the rows of the factor.

  Args:
    key: typed PRNG key.
    shape: d for one factor of a symmetric matrix, or (d1, d2) for two factors; static.
    rank: width of the factors, >= 1, static.
    alpha: >= 0, scale of the start; may be traced.
    dtype: floating-point dtype; the default float by default.

  Returns:
    Factors of shapes [d1, rank] and [d2, rank], the second None where ``shape`` is one number.

  Raises:
    TypeError: the key is not a typed key, a size is not an integer, or the dtype is not floating.
    ValueError: a size is less than 1, or ``alpha`` is negative.

  Example:
    >>> random_small(jax.random.key(0), (3, 2), 1, alpha=1e-3).R.shape
    (2, 1)

  Reference:
    Li, Ma and Zhang, Algorithmic regularization in over-parameterized matrix sensing, 2018 (small
    starts).
  """
  _checks.check_key("key", key)
  rank = _checks.check_int("rank", rank, minimum=1)
  _checks.check_non_negative("alpha", alpha, scalar=True)
  scalar_type = check_dtype(dtype)
  sizes = shape if isinstance(shape, tuple) else (shape,)
  if len(sizes) not in (1, 2):
    raise ValueError(f"shape must be one integer or a pair of integers; got {shape!r}.")

  def draw(factor_key: Array, size: int) -> Array:
    size = _checks.check_int("shape", size, minimum=1)
    normal = jax.random.normal(factor_key, (size, rank), scalar_type)
    return jnp.asarray(alpha, scalar_type) * normal / jnp.sqrt(jnp.asarray(size, scalar_type))

  left_key, right_key = jax.random.split(key)
  return Factors(draw(left_key, sizes[0]), draw(right_key, sizes[1]) if len(sizes) == 2 else None)


def alpha_identity(size: int, *, alpha: ArrayLike = 1.0, dtype: object = None) -> Factors:
  r"""Full-width start without a preferred direction, U_0 = alpha I.

  Args:
    size: d >= 1, rows and width of the factor, static.
    alpha: >= 0, scale of the start; may be traced.
    dtype: floating-point dtype; the default float by default.

  Returns:
    Factors of one factor of shape [d, d].

  Raises:
    TypeError: the size is not an integer, or the dtype is not floating.
    ValueError: the size is less than 1, or ``alpha`` is negative.

  Example:
    >>> alpha_identity(2, alpha=0.5).L
    Array([[0.5, 0. ],
           [0. , 0.5]], dtype=float32)

  Reference:
    Gunasekar, Woodworth, Bhojanapalli, Neyshabur and Srebro, Implicit regularization in matrix
    factorization, 2017.
  """
  size = _checks.check_int("size", size, minimum=1)
  _checks.check_non_negative("alpha", alpha, scalar=True)
  scalar_type = check_dtype(dtype)
  return Factors(jnp.asarray(alpha, scalar_type) * jnp.eye(size, dtype=scalar_type), None)


def _observed_count(op: MeasurementOperator, keep: Array) -> Array:
  return jnp.sum(keep if op.observed is None else keep & op.observed)


def truncated_spectral(
  op: MeasurementOperator, y: ArrayLike, rank: int, *, rate: ArrayLike, kind: str = "general"
) -> Factors:
  r"""Start near the solution from the measurements of least magnitude.

  Keeps the set I of the ceil(m (1 - rate)) measurements with the smallest |y_i| and factors
  Y = (1/|I|) sum_{i in I} y_i A_i at the given rank: L_0 = U sqrt(S), R_0 = V sqrt(S).

  Args:
    op: operator on d1 x d2 matrices with m measurements.
    y: float[m], measurements, possibly corrupted.
    rank: width of the factors, static.
    rate: fraction of measurements to drop, in [0, 1); may be traced.
    kind: ``"psd"`` or ``"general"``; static.

  Returns:
    Factors of shapes [d1, rank] and [d2, rank] (None for ``"psd"``).

  Raises:
    TypeError: ``op`` is not an operator, ``y`` is not floating-point, or ``rank`` not an integer.
    ValueError: wrong shape of ``y``, a rank larger than the matrix, a rate outside [0, 1), an
      unknown ``kind``, or ``"psd"`` for a matrix that is not square.

  Note:
    Ties in |y_i| are kept in the order of their index.

  Example:
    >>> op = jr.recovery.Identity((2, 2))
    >>> truncated_spectral(op, jnp.array([4.0, 0.0, 0.0, 0.0]), 1, rate=0.0).L.shape
    (2, 1)

  Reference:
    Tong, Ma and Chi, Low-Rank Matrix Recovery with Scaled Subgradient Methods, 2021, section 3.
  """
  y = check_problem(op, y, kind)
  rank = _checks.check_rank(rank, op.shape)
  _checks.check_interval("rate", rate, 0.0, 1.0, closed="left", scalar=True)
  magnitude = jnp.abs(y)
  if op.observed is not None:
    magnitude = jnp.where(op.observed, magnitude, jnp.inf)
  place = jnp.argsort(jnp.argsort(magnitude))
  wide = upcast(y).dtype
  limit = jnp.ceil(jnp.asarray(op.count, wide) * (1 - jnp.asarray(rate, wide)))
  keep = (place < limit.astype(place.dtype)) | jnp.isnan(magnitude)
  dense = back_projection(op, jnp.where(keep, y, 0), _observed_count(op, keep))
  return spectral_factors(dense, rank, 1.0, kind, y.dtype)


def median_truncated_spectral(
  op: MeasurementOperator,
  y: ArrayLike,
  rank: int,
  *,
  multiple: ArrayLike = 2.0,
  kind: str = "general",
) -> Factors:
  r"""Start near the solution from the measurements within a multiple of the median magnitude.

  Keeps I = {i: |y_i| <= multiple * median |y|} and factors Y = (1/|I|) sum_{i in I} y_i A_i.

  Args:
    op: operator on d1 x d2 matrices with m measurements.
    y: float[m], measurements, possibly corrupted.
    rank: width of the factors, static.
    multiple: > 0; may be traced.
    kind: ``"psd"`` or ``"general"``; static.

  Returns:
    Factors of shapes [d1, rank] and [d2, rank] (None for ``"psd"``).

  Raises:
    TypeError: ``op`` is not an operator, ``y`` is not floating-point, or ``rank`` not an integer.
    ValueError: wrong shape of ``y``, a rank larger than the matrix, ``multiple`` not positive, an
      unknown ``kind``, or ``"psd"`` for a matrix that is not square.

  Example:
    >>> op = jr.recovery.Identity((2, 2))
    >>> median_truncated_spectral(op, jnp.array([4.0, 1.0, 1.0, 1.0]), 1).L.shape
    (2, 1)

  Reference:
    Li, Zhu, So and Vidal, Nonconvex Robust Low-rank Matrix Recovery, 2020 (the multiple 2 is
    recalled, not verified).
  """
  y = check_problem(op, y, kind)
  rank = _checks.check_rank(rank, op.shape)
  _checks.check_positive("multiple", multiple, scalar=True)
  magnitude = jnp.abs(y)
  seen = magnitude if op.observed is None else jnp.where(op.observed, magnitude, jnp.nan)
  median = jnp.median(seen) if op.observed is None else jnp.nanmedian(seen)
  # NaN among what is observed makes the start NaN.
  seen_or_nothing = magnitude if op.observed is None else jnp.where(op.observed, magnitude, 0)
  keep = (magnitude <= jnp.asarray(multiple, y.dtype) * median) | jnp.isnan(seen_or_nothing)
  dense = back_projection(op, jnp.where(keep, y, 0), _observed_count(op, keep))
  return spectral_factors(dense, rank, 1.0, kind, y.dtype)


def mask_spectral(op: EntryMask, y: ArrayLike, rank: int, *, kind: str = "general") -> Factors:
  r"""Start of matrix completion: the best approximation of P(Y) / p at one rank.

  P(Y) is Y on the observed entries and 0 elsewhere, p the fraction of entries observed.

  Args:
    op: mask of shape (d1, d2).
    y: float[d1 * d2], entries row by row; ignored where not observed.
    rank: width of the factors, static.
    kind: ``"psd"`` or ``"general"``; static.

  Returns:
    Factors of shapes [d1, rank] and [d2, rank] (None for ``"psd"``).

  Raises:
    TypeError: ``op`` is not an ``EntryMask``, ``y`` is not floating-point, or ``rank`` not an
      integer.
    ValueError: wrong shape of ``y``, a rank larger than the matrix, an unknown ``kind``, or
      ``"psd"`` for a matrix that is not square.

  Note:
    Gross errors are not removed: clip ``y`` first where it may hold them.

  Example:
    >>> op = EntryMask(jnp.ones((2, 2), bool))
    >>> mask_spectral(op, jnp.array([4.0, 0.0, 0.0, 0.0]), 1).L.shape
    (2, 1)

  Reference:
    Tong, Ma and Chi, Accelerating ill-conditioned low-rank matrix estimation via scaled gradient
    descent, 2021, section 3.
  """
  if not isinstance(op, EntryMask):
    raise TypeError(f"op must be an EntryMask; got {type(op).__name__}.")
  y = check_problem(op, y, kind)
  rank = _checks.check_rank(rank, op.shape)
  wide = upcast(y)
  rate = jnp.asarray(op.count, wide.dtype) / op.size
  return spectral_factors(back_projection(op, wide, rate), rank, 1.0, kind, y.dtype)


def growth_factor(
  op: MeasurementOperator, y: ArrayLike, rank: int | None = None, *, kind: str = "psd"
) -> Array:
  r"""How slowly the weakest signal direction grows from a small start.

  With C = (1/m) sum_i sign(y_i) A_i, g = ||C||_F / lam_r((C + C^T)/2) for ``kind="psd"``: a step of
  SubGM near 0 multiplies that direction by 1 + 2 eta / g. For ``kind="general"`` the step
  multiplies it by 1 + eta sigma_r(C) / ||C||_F only, so that g = 2 ||C||_F / sigma_r(C).

  Args:
    op: operator on d1 x d2 matrices with m measurements.
    y: float[m], measurements, possibly corrupted.
    rank: the true rank r, static; None estimates it as the number of eigenvalues above the edge of
      the noise, whose size the antisymmetric part of C tells (``"psd"``), or of singular values
      above the hard threshold of Gavish and Donoho, about 2.86 medians (``"general"``).
    kind: ``"psd"`` or ``"general"``; static.

  Returns:
    float scalar >= 1, or inf where no positive direction is found.

  Raises:
    TypeError: ``op`` is not an operator, ``y`` is not floating-point, or ``rank`` not an integer.
    ValueError: wrong shape of ``y``, a rank larger than the matrix, an unknown ``kind``, or
      ``"psd"`` for a matrix that is not square.

  Note:
    A direction below the noise of C cannot be seen here: where the truth is ill-conditioned and
    measurements are few, take ``residual_proportional``, which does not need g.

  Example:
    >>> op = jr.recovery.make_gaussian_sensing(jax.random.key(0), 4000, 3, 3)
    >>> y = op.apply(jnp.diag(jnp.array([1.0, 1.0, 0.0])))
    >>> bool(abs(growth_factor(op, y, 2) - 2**0.5) < 0.2)
    True

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023 (rate
    of the growth phase); Gavish and Donoho, The optimal hard threshold for singular values is
    4/sqrt(3), 2014, equation 5. The estimate of the noise by the antisymmetric part is ours.
  """
  y = check_problem(op, y, kind)
  if rank is not None:
    rank = _checks.check_rank(rank, op.shape)
  return growth_of(mean_of_signs(op, y), rank, kind).astype(y.dtype)


def _noise_edge(dense: Array, values: Array) -> Array:
  """Where the eigenvalues of the noise in (C + C^T) / 2 end.

  The signal is symmetric, so that (C - C^T) / 2 is noise alone and tells its size: entries of
  variance s^2 make a norm of s sqrt(d (d - 1) / 2) there, and eigenvalues up to sqrt(2 d) s, which
  vary by the law of Tracy and Widom. Measurement matrices that are symmetric themselves show
  nothing there: then the most negative eigenvalue stands for the noise.
  """
  size = dense.shape[0]
  apart = safe_norm((dense - dense.T) / 2)
  deviation = apart * (2 / max(size * (size - 1), 1)) ** 0.5
  edge = (2 * size) ** 0.5 * deviation * (1 + _LARGEST_OF_NOISE / 2 * size ** (-2 / 3))
  shown = apart > jnp.sqrt(jnp.finfo(dense.dtype).eps) * safe_norm(dense)
  return jnp.where(shown, edge, _EDGE_MARGIN * jnp.maximum(-values[-1], 0))


def growth_of(dense: Array, rank: int | None, kind: str) -> Array:
  """The factor g of a mean of signs."""
  norm = safe_norm(dense)
  if kind == "psd":
    values = jnp.linalg.eigvalsh((dense + dense.T) / 2)[::-1]
    edge = _noise_edge(dense, values)
    factor = norm
  else:
    values = jnp.linalg.svd(dense, compute_uv=False)
    shape = min(dense.shape) / max(dense.shape)
    omega = 0.56 * shape**3 - 0.95 * shape**2 + 1.82 * shape + 1.43  # their approximation
    edge = omega * jnp.median(values)
    factor = 2 * norm
  if rank is None:
    index = jnp.maximum(jnp.sum(values > edge), 1) - 1
    weakest = values[index]
  else:
    weakest = values[rank - 1]
  return jnp.where(weakest <= 0, jnp.inf, safe_divide(factor, weakest))  # NaN stays NaN
