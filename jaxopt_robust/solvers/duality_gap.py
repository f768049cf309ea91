"""Duality gaps of penalised linear models: certificates of how far a coefficient vector can be."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks, _designs
from jaxopt_robust.numerics import upcast
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "elastic_net_duality_gap",
  "group_lasso_duality_gap",
  "lasso_duality_gap",
  "logistic_lasso_duality_gap",
  "non_negative_lasso_duality_gap",
]


class _Problem(NamedTuple):
  """The arguments of a gap: rows scaled by ``root``, the square roots of the sample weights."""

  w: Array
  x: Any
  y: Array
  lam: Array
  root: Array


def _checked(
  w: ArrayLike, x: Any, y: ArrayLike, hyper: Any, sample_weight: Any, *, rank: int = 1
) -> _Problem:
  w = _checks.check_float_array("w", w, rank=rank)
  x = _designs.check_design("x", x)
  y = _checks.check_float_array("y", y, rank=rank)
  lam = _strength("hyperparams", hyper, w)
  if x.shape != (y.shape[0], w.shape[0]):
    raise ValueError(
      f"x must have shape {(y.shape[0], w.shape[0])}, the lengths of y and w; got {x.shape}."
    )
  w, y = upcast(w), upcast(y)
  if not _designs.is_sparse(x):
    x = upcast(x)
  root = jnp.ones(y.shape[0], y.dtype)
  if sample_weight is not None:
    weights = _checks.check_float_array("sample_weight", sample_weight, rank=1)
    _checks.check_non_negative("sample_weight", weights)
    _checks.check_same_shape("sample_weight", weights, "the rows of y", root)
    root = jnp.sqrt(weights.astype(y.dtype))
  return _Problem(w, x, y, lam.astype(w.dtype), root)


def _strength(name: str, value: Any, w: Array) -> Array:
  """One strength a feature."""
  array = _checks.check_float_array(name, value, rank=(0, 1))
  _checks.check_non_negative(name, array)
  if array.shape not in ((), w.shape[:1]):
    raise ValueError(
      f"{name} must be a scalar or one number for each of the {w.shape[0]} features; got shape "
      f"{array.shape}."
    )
  return jnp.broadcast_to(upcast(array), w.shape[:1])


def _columns(a: Array, like: Array) -> Array:
  """A vector with as many axes as another array."""
  return a.reshape(a.shape + (1,) * (like.ndim - 1))


def _fit(p: _Problem) -> Array:
  """The residual of the scaled rows."""
  return _columns(p.root, p.y) * (p.y - p.x @ p.w)


def _correlation(p: _Problem, theta: Array) -> Array:
  """x^T theta of the scaled rows."""
  return p.x.T @ (_columns(p.root, theta) * theta)


def _penalty(strength: Array, size: Array) -> Array:
  """sum_j strength_j size_j; an infinite strength costs nothing where the size is 0."""
  return jnp.sum(jnp.where(size == 0, 0 * size, strength * size))


def _without(p: _Problem, theta: Array, free: Array) -> Array:
  """theta without its part in the span of some columns: those of strength 0.

  The dual point must be orthogonal to these columns; at a solution it is.
  """

  def project(theta: Array) -> Array:
    columns = jnp.where(free[None, :], p.root[:, None] * _designs.to_dense(p.x), 0)
    finite = jnp.all(jnp.isfinite(columns))
    basis, values, _ = jnp.linalg.svd(jnp.where(finite, columns, 0), full_matrices=False)
    cut = jnp.finfo(values.dtype).eps * max(columns.shape) * jnp.max(values, initial=0)
    basis = jnp.where(values[None, :] > cut, basis, 0)
    for _ in range(2):  # the second pass takes the rounding off
      theta = theta - basis @ (basis.T @ theta)
    return jnp.where(finite, theta, jnp.nan)

  return jax.lax.cond(jnp.any(free), project, lambda theta: theta, theta)


def _multiple(p: _Problem, size: Array, free: Array) -> Array:
  """The largest multiple of a dual point whose correlations of a ``size`` keep their bounds."""
  binds = (size > 0) & ~free  # to the free columns the point is orthogonal already
  return jnp.min(jnp.where(binds, p.lam / jnp.where(binds, size, 1), jnp.inf))


def _least_squares_gap(
  value: Array, inner: Array, square: Array, limit: Array, samples: int, *, low: int
) -> Array:
  """P - D for the dual <theta, y> - n/2 ||theta||^2 at the best multiple of theta = a r / n.

  ``square`` is ||r||^2 and ``inner`` <r, y>; ``low`` is -1 where -a is as good as a, and 0 where
  a >= 0 is needed.
  """
  best = inner / jnp.where(square > 0, square, 1)
  a = jnp.clip(best, min=low * limit, max=limit) if low else jnp.clip(best, min=0, max=limit)
  return value - (a * inner - a * a * square / 2) / samples


def lasso_duality_gap(
  w: ArrayLike,
  x: ArrayLike,
  y: ArrayLike,
  *,
  hyperparams: ArrayLike,
  sample_weight: ArrayLike | None = None,
) -> Array:
  r"""Duality gap of the Lasso.

  For P(w) = 1/(2n) ||x w - y||_2^2 + lam ||w||_1, lam = hyperparams, it is P(w) - D(theta) with
  D(theta) = <theta, y> - (n/2) ||theta||_2^2 at the best multiple theta = a (y - x w) / n with
  ||x^T theta||_inf <= lam: an upper bound of P(w) - min P.

  Args:
    w: float[p], any coefficients.
    x: float[n, p], dense or a ``BCOO`` matrix.
    y: float[n].
    hyperparams: lam >= 0, a scalar or float[p] (one a feature; 0 and infinity too); may be traced.
    sample_weight: float[n] >= 0, s: row i of the loss counts s_i times; the sum is still divided
      by n; None: 1 each. May be traced.

  Returns:
    float scalar, >= 0 up to rounding, of the precision of ``w`` and float32 at least.

  Raises:
    TypeError: when an array is not of floating point.
    ValueError: when shapes do not fit, or a strength is negative.

  Note:
    Near a solution it cannot fall below rounding: about the machine epsilon times P(0). Features
    of strength 0 ask for a theta orthogonal to their columns: the part in their span is taken off
    by a singular value decomposition of x, so that the gap tends to 0 at the solution (least
    squares when all strengths are 0) there too.

  Example:
    >>> x, y = jnp.eye(2), jnp.array([3.0, 0.5])
    >>> float(lasso_duality_gap(jnp.array([2.0, 0.0]), x, y, hyperparams=0.5))
    0.0

  Reference:
    Kim, Koh, Lustig, Boyd and Gorinevsky, An interior-point method for large-scale l1-regularized
    least squares, 2007, section III; the multiple as in Fercoq, Gramfort and Salmon, Mind the
    duality gap: safer rules for the Lasso, 2015.
  """
  p = _checked(w, x, y, hyperparams, sample_weight)
  n, r = p.y.shape[0], _fit(p)
  value = jnp.sum(r * r) / (2 * n) + _penalty(p.lam, jnp.abs(p.w))
  theta = _without(p, r, p.lam == 0)
  limit = _multiple(p, jnp.abs(_correlation(p, theta)) / n, p.lam == 0)
  inner = jnp.sum(theta * p.root * p.y)
  return _least_squares_gap(value, inner, jnp.sum(theta * theta), limit, n, low=-1)


def non_negative_lasso_duality_gap(
  w: ArrayLike,
  x: ArrayLike,
  y: ArrayLike,
  *,
  hyperparams: ArrayLike,
  sample_weight: ArrayLike | None = None,
) -> Array:
  r"""Duality gap of the non-negative Lasso; of non-negative least squares with a strength of 0.

  For P(w) = 1/(2n) ||x w - y||_2^2 + lam sum_j w_j over w >= 0, lam = hyperparams, it is
  P(w) - D(theta) as in ``lasso_duality_gap``, with x^T theta <= lam in each entry.

  Args:
    w: float[p], any coefficients.
    x: float[n, p], dense or a ``BCOO`` matrix.
    y: float[n].
    hyperparams: lam >= 0, a scalar or float[p] (one a feature; 0 and infinity too); may be traced.
    sample_weight: float[n] >= 0, s: row i of the loss counts s_i times; the sum is still divided
      by n; None: 1 each. May be traced.

  Returns:
    float scalar, >= 0 up to rounding, of the precision of ``w`` and float32 at least; inf where an
    entry of w is negative.

  Raises:
    TypeError: when an array is not of floating point.
    ValueError: when shapes do not fit, or a strength is negative.

  Note:
    Near a solution it cannot fall below rounding. A feature of strength 0 asks for
    x_j^T theta <= 0: theta is made orthogonal to the columns of those that are active, or violate
    it. So the gap tends to 0 at a solution whose inactive features of strength 0 have
    x_j^T (y - x w) < 0; if another one comes to violate its condition, theta = 0 is left, and P(w).

  Example:
    >>> x, y = jnp.eye(2), jnp.array([3.0, -0.5])
    >>> float(non_negative_lasso_duality_gap(jnp.array([2.0, 0.0]), x, y, hyperparams=0.5))
    0.0

  Reference:
    Kim, Koh, Lustig, Boyd and Gorinevsky, An interior-point method for large-scale l1-regularized
    least squares, 2007, section III; the multiple as in Fercoq, Gramfort and Salmon, Mind the
    duality gap: safer rules for the Lasso, 2015.
  """
  p = _checked(w, x, y, hyperparams, sample_weight)
  n, r = p.y.shape[0], _fit(p)
  value = jnp.sum(r * r) / (2 * n) + _penalty(p.lam, jnp.maximum(p.w, 0))
  free = (p.lam == 0) & ((p.w > 0) | (_correlation(p, r) > 0))
  theta = _without(p, r, free)
  limit = _multiple(p, jnp.maximum(_correlation(p, theta), 0) / n, free)
  inner = jnp.sum(theta * p.root * p.y)
  gap = _least_squares_gap(value, inner, jnp.sum(theta * theta), limit, n, low=0)
  return jnp.where(jnp.any(p.w < 0) & ~jnp.isnan(gap), jnp.inf, gap)


def elastic_net_duality_gap(
  w: ArrayLike,
  x: ArrayLike,
  y: ArrayLike,
  *,
  hyperparams: Any,
  sample_weight: ArrayLike | None = None,
) -> Array:
  r"""Duality gap of the elastic net.

  For P(w) = 1/(2n) ||x w - y||_2^2 + lam ||w||_1 + lam gamma/2 ||w||_2^2 it is the gap of the Lasso
  with the rows sqrt(n lam gamma) I below x and zeros below y.

  Args:
    w: float[p], any coefficients.
    x: float[n, p], dense or a ``BCOO`` matrix.
    y: float[n].
    hyperparams: pair (lam, gamma) of scalars >= 0 or float[p], as in ``jr.prox.prox_elastic_net``;
      may be traced.
    sample_weight: float[n] >= 0, s: row i of the loss counts s_i times; the sum is still divided
      by n; None: 1 each. May be traced.

  Returns:
    float scalar, >= 0 up to rounding, of the precision of ``w`` and float32 at least.

  Raises:
    TypeError: when an array is not of floating point.
    ValueError: when shapes do not fit, or a strength is negative.

  Note:
    Near a solution it cannot fall below rounding: about the machine epsilon times P(0). Features
    of strength 0 ask for a theta orthogonal to their columns: the part in their span is taken off
    by a singular value decomposition of x, so that the gap tends to 0 at the solution (least
    squares when all strengths are 0) there too.

  Example:
    >>> x, y = jnp.eye(2), jnp.array([3.0, 0.5])
    >>> gap = elastic_net_duality_gap(jnp.array([2 / 3, 0.0]), x, y, hyperparams=(0.5, 2.0))
    >>> abs(float(gap)) < 1e-6
    True

  Reference:
    Zou and Hastie, Regularization and variable selection via the elastic net, 2005, lemma 1 (the
    augmented data); the gap as in ``lasso_duality_gap``.
  """
  if not isinstance(hyperparams, tuple | list) or len(hyperparams) != 2:
    raise ValueError(
      f"hyperparams must be a pair (lam, gamma); got a {type(hyperparams).__name__}."
    )
  p = _checked(w, x, y, hyperparams[0], sample_weight)
  gamma = _strength("gamma", hyperparams[1], p.w).astype(p.w.dtype)
  held = jnp.isinf(p.lam)  # at 0: their ridge is infinite too
  ridge = jnp.where(held, 0, p.lam) * gamma
  n, r = p.y.shape[0], _fit(p)
  tail = n * jnp.sum(ridge * p.w * p.w)
  value = (jnp.sum(r * r) + tail) / (2 * n) + _penalty(p.lam, jnp.abs(p.w))
  theta = _without(p, r, p.lam == 0)
  limit = _multiple(p, jnp.abs(_correlation(p, theta) / n - ridge * p.w), p.lam == 0)
  inner = jnp.sum(theta * p.root * p.y)
  return _least_squares_gap(value, inner, jnp.sum(theta * theta) + tail, limit, n, low=-1)


def group_lasso_duality_gap(
  w: ArrayLike,
  x: ArrayLike,
  y: ArrayLike,
  *,
  hyperparams: ArrayLike,
  sample_weight: ArrayLike | None = None,
) -> Array:
  r"""Duality gap of the multi-task Lasso, whose groups are the rows of w.

  For P(w) = 1/(2n) ||x w - y||_F^2 + lam sum_j ||w_j||_2, lam = hyperparams, it is P(w) - D(theta)
  as in ``lasso_duality_gap``, with ||(x^T theta)_j||_2 <= lam for each row j.

  Args:
    w: float[p, k], any coefficients.
    x: float[n, p], dense or a ``BCOO`` matrix.
    y: float[n, k].
    hyperparams: lam >= 0, a scalar or float[p] (one a feature; 0 and infinity too); may be traced.
    sample_weight: float[n] >= 0, s: row i of the loss counts s_i times; the sum is still divided
      by n; None: 1 each. May be traced.

  Returns:
    float scalar, >= 0 up to rounding, of the precision of ``w`` and float32 at least.

  Raises:
    TypeError: when an array is not of floating point.
    ValueError: when shapes do not fit, or a strength is negative.

  Note:
    Near a solution it cannot fall below rounding: about the machine epsilon times P(0). Features
    of strength 0 ask for a theta orthogonal to their columns: the part in their span is taken off
    by a singular value decomposition of x, so that the gap tends to 0 at the solution (least
    squares when all strengths are 0) there too.

  Example:
    >>> x, y = jnp.eye(2), jnp.array([[3.0, 4.0], [0.1, 0.0]])
    >>> gap = group_lasso_duality_gap(0.8 * y.at[1].set(0.0), x, y, hyperparams=0.5)
    >>> abs(float(gap)) < 1e-6
    True

  Reference:
    Ndiaye, Fercoq, Gramfort and Salmon, Gap safe screening rules for sparsity enforcing penalties,
    2017.
  """
  p = _checked(w, x, y, hyperparams, sample_weight, rank=2)
  n, r = p.y.shape[0], _fit(p)
  rows = lambda a: jnp.sqrt(jnp.sum(a * a, axis=1))
  value = jnp.sum(r * r) / (2 * n) + _penalty(p.lam, rows(p.w))
  theta = _without(p, r, p.lam == 0)
  limit = _multiple(p, rows(_correlation(p, theta)) / n, p.lam == 0)
  inner = jnp.sum(theta * p.root[:, None] * p.y)
  return _least_squares_gap(value, inner, jnp.sum(theta * theta), limit, n, low=-1)


def logistic_lasso_duality_gap(
  w: ArrayLike,
  x: ArrayLike,
  y: ArrayLike,
  *,
  hyperparams: ArrayLike,
  sample_weight: ArrayLike | None = None,
) -> Array:
  r"""Duality gap of l1-penalised logistic regression.

  For P(w) = 1/n sum_i log(1 + exp(-y_i <x_i, w>)) + lam ||w||_1, lam = hyperparams, it is
  P(w) - D(theta), D = -1/n sum_i u_i log u_i + (1 - u_i) log(1 - u_i) with u_i = n y_i theta_i, at
  theta_i = a y_i sigmoid(-y_i <x_i, w>) / n, a <= 1 such that ||x^T theta||_inf <= lam.

  Args:
    w: float[p], any coefficients.
    x: float[n, p], dense or a ``BCOO`` matrix.
    y: float[n], labels -1 and 1.
    hyperparams: lam >= 0, a scalar or float[p] (one a feature; 0 and infinity too); may be traced.
    sample_weight: float[n] >= 0, s: row i of the loss counts s_i times; the sum is still divided
      by n; None: 1 each. May be traced.

  Returns:
    float scalar, >= 0 up to rounding, of the precision of ``w`` and float32 at least.

  Raises:
    TypeError: when an array is not of floating point.
    ValueError: when shapes do not fit, a strength is negative, or a label is neither -1 nor 1.

  Note:
    Near a solution it cannot fall below rounding: about the machine epsilon times P(0). Features
    of strength 0 ask for a theta orthogonal to their columns: the part in their span is taken off
    by a singular value decomposition of x, so that the gap tends to 0 at the solution (least
    squares when all strengths are 0) there too.

  Example:
    >>> x, y = jnp.eye(2), jnp.array([1.0, -1.0])
    >>> float(logistic_lasso_duality_gap(jnp.zeros(2), x, y, hyperparams=0.25))  # lam_max
    0.0

  Reference:
    Koh, Kim and Boyd, An interior-point method for large-scale l1-regularized logistic regression,
    2007, section 2.5; Ndiaye, Fercoq, Gramfort and Salmon, Gap safe screening rules for sparsity
    enforcing penalties, 2017.
  """
  p = _checked(w, x, _checks.as_signs("y", y), hyperparams, sample_weight)
  n, weights, margins = p.y.shape[0], p.root**2, p.y * (p.x @ p.w)
  value = jnp.sum(weights * jax.nn.softplus(-margins)) / n + _penalty(p.lam, jnp.abs(p.w))
  u = jax.nn.sigmoid(-margins)
  # Orthogonal to the free columns in the metric of the Hessian: a u near 0 or 1 hardly moves.
  curvature = jnp.maximum(u * (1 - u), jnp.sqrt(jnp.finfo(u.dtype).eps))
  scaled = p._replace(root=p.root * jnp.sqrt(curvature))
  theta = _without(scaled, p.root * p.y * u / jnp.sqrt(curvature), p.lam == 0)
  counts = p.root > 0  # the others have no part in the dual
  u = p.y * theta * jnp.sqrt(curvature) / jnp.where(counts, p.root, 1)
  u = jnp.where(counts, u, 0)
  theta = p.root * p.y * u
  # The projection may leave [0, 1]: a multiple brings it back from above, only 0 from below.
  limit = jnp.minimum(
    _multiple(p, jnp.abs(_correlation(p, theta)) / n, p.lam == 0), 1 / jnp.max(u, initial=1)
  )
  u = jnp.where(jnp.any(u < 0), 0 * u, jnp.minimum(limit, 1) * u)
  entropy = jax.scipy.special.entr(u) + jax.scipy.special.entr(1 - u)
  return value - jnp.sum(weights * entropy) / n
