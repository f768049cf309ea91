"""Duality gaps of penalised linear models: certificates of how far a coefficient vector can be."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import upcast
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "elastic_net_duality_gap",
  "group_lasso_duality_gap",
  "lasso_duality_gap",
  "logistic_lasso_duality_gap",
  "non_negative_lasso_duality_gap",
]


def _checked(
  w: ArrayLike, x: ArrayLike, y: ArrayLike, hyper: ArrayLike, *, rank: int = 1
) -> tuple[Array, Array, Array, Array]:
  w = _checks.check_float_array("w", w, rank=rank)
  x = _checks.check_float_array("x", x, rank=2)
  y = _checks.check_float_array("y", y, rank=rank)
  _checks.check_non_negative("hyperparams", hyper)
  if x.shape != (y.shape[0], w.shape[0]):
    raise ValueError(
      f"x must have shape {(y.shape[0], w.shape[0])}, the lengths of y and w; got {x.shape}."
    )
  if jnp.ndim(hyper) != 0:
    raise ValueError(f"hyperparams must be a scalar; got shape {jnp.shape(hyper)}.")
  w, x, y = upcast(w), upcast(x), upcast(y)
  return w, x, y, jnp.asarray(hyper, w.dtype)


def _least_squares_gap(
  value: Array, square: Array, inner: Array, size: Array, bound: Array, samples: int, *, low: int
) -> Array:
  """P - D for the dual <theta, y> - n/2 ||theta||^2 at the best multiple theta = a r / n.

  ``square`` is ||r||^2, ``inner`` <r, y>, ``size`` the dual norm of x^T r / n, which a must keep
  below ``bound``; ``low`` is -1 where -a is as good as a, and 0 where a >= 0 is needed.
  """
  limited = size > 0
  limit = jnp.where(limited, bound / jnp.where(limited, size, 1), jnp.inf)
  best = inner / jnp.where(square > 0, square, 1)
  a = jnp.clip(best, min=low * limit, max=limit) if low else jnp.clip(best, min=0, max=limit)
  return value - (a * inner - a * a * square / 2) / samples


def lasso_duality_gap(w: ArrayLike, x: ArrayLike, y: ArrayLike, *, hyperparams: ArrayLike) -> Array:
  r"""Duality gap of the Lasso.

  For P(w) = 1/(2n) ||x w - y||_2^2 + lam ||w||_1, lam = hyperparams, it is P(w) - D(theta) with
  D(theta) = <theta, y> - (n/2) ||theta||_2^2 at the best multiple theta = a (y - x w) / n with
  ||x^T theta||_inf <= lam: an upper bound of P(w) - min P.

  Args:
    w: float[p], any coefficients.
    x: float[n, p].
    y: float[n].
    hyperparams: lam >= 0, a scalar; may be traced.

  Returns:
    float scalar, >= 0 up to rounding, of the precision of ``w`` and float32 at least.

  Raises:
    TypeError: when an array is not of floating point.
    ValueError: when shapes do not fit, or a strength is negative.

  Note:
    Near a solution it cannot fall below rounding: about the machine epsilon times P(0).

  Example:
    >>> x, y = jnp.eye(2), jnp.array([3.0, 0.5])
    >>> float(lasso_duality_gap(jnp.array([2.0, 0.0]), x, y, hyperparams=0.5))
    0.0

  Reference:
    Kim, Koh, Lustig, Boyd and Gorinevsky, An interior-point method for large-scale l1-regularized
    least squares, 2007, section III; the multiple as in Fercoq, Gramfort and Salmon, Mind the
    duality gap: safer rules for the Lasso, 2015.
  """
  w, x, y, lam = _checked(w, x, y, hyperparams)
  n, r = y.shape[0], y - x @ w
  square = jnp.sum(r * r)
  value = square / (2 * n) + lam * jnp.sum(jnp.abs(w))
  size = jnp.max(jnp.abs(x.T @ r)) / n
  return _least_squares_gap(value, square, jnp.sum(r * y), size, lam, n, low=-1)


def non_negative_lasso_duality_gap(
  w: ArrayLike, x: ArrayLike, y: ArrayLike, *, hyperparams: ArrayLike
) -> Array:
  r"""Duality gap of the non-negative Lasso; of non-negative least squares with a strength of 0.

  For P(w) = 1/(2n) ||x w - y||_2^2 + lam sum_j w_j over w >= 0, lam = hyperparams, it is
  P(w) - D(theta) as in ``lasso_duality_gap``, with x^T theta <= lam in each entry.

  Args:
    w: float[p], any coefficients.
    x: float[n, p].
    y: float[n].
    hyperparams: lam >= 0, a scalar; may be traced.

  Returns:
    float scalar, >= 0 up to rounding, of the precision of ``w`` and float32 at least; inf where an
    entry of w is negative.

  Raises:
    TypeError: when an array is not of floating point.
    ValueError: when shapes do not fit, or a strength is negative.

  Note:
    With lam = 0 only theta = 0 may be feasible away from the solution: the bound is loose there.

  Example:
    >>> x, y = jnp.eye(2), jnp.array([3.0, -0.5])
    >>> float(non_negative_lasso_duality_gap(jnp.array([2.0, 0.0]), x, y, hyperparams=0.5))
    0.0

  Reference:
    Kim, Koh, Lustig, Boyd and Gorinevsky, An interior-point method for large-scale l1-regularized
    least squares, 2007, section III; the multiple as in Fercoq, Gramfort and Salmon, Mind the
    duality gap: safer rules for the Lasso, 2015.
  """
  w, x, y, lam = _checked(w, x, y, hyperparams)
  n, r = y.shape[0], y - x @ w
  square = jnp.sum(r * r)
  value = square / (2 * n) + lam * jnp.sum(w)
  size = jnp.maximum(jnp.max(x.T @ r), 0) / n
  gap = _least_squares_gap(value, square, jnp.sum(r * y), size, lam, n, low=0)
  return jnp.where(jnp.any(w < 0), jnp.inf, gap)


def elastic_net_duality_gap(w: ArrayLike, x: ArrayLike, y: ArrayLike, *, hyperparams: Any) -> Array:
  r"""Duality gap of the elastic net.

  For P(w) = 1/(2n) ||x w - y||_2^2 + lam ||w||_1 + lam gamma/2 ||w||_2^2 it is the gap of the Lasso
  with the rows sqrt(n lam gamma) I below x and zeros below y.

  Args:
    w: float[p], any coefficients.
    x: float[n, p].
    y: float[n].
    hyperparams: pair (lam, gamma) of scalars >= 0, as in ``jr.prox.prox_elastic_net``; may be
      traced.

  Returns:
    float scalar, >= 0 up to rounding, of the precision of ``w`` and float32 at least.

  Raises:
    TypeError: when an array is not of floating point.
    ValueError: when shapes do not fit, or a strength is negative.

  Note:
    Near a solution it cannot fall below rounding: about the machine epsilon times P(0).

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
  w, x, y, lam = _checked(w, x, y, hyperparams[0])
  _checks.check_non_negative("gamma", hyperparams[1])
  ridge = lam * jnp.asarray(hyperparams[1], w.dtype)
  n, r = y.shape[0], y - x @ w
  square = jnp.sum(r * r) + n * ridge * jnp.sum(w * w)
  value = square / (2 * n) + lam * jnp.sum(jnp.abs(w))
  size = jnp.max(jnp.abs(x.T @ r / n - ridge * w))
  return _least_squares_gap(value, square, jnp.sum(r * y), size, lam, n, low=-1)


def group_lasso_duality_gap(
  w: ArrayLike, x: ArrayLike, y: ArrayLike, *, hyperparams: ArrayLike
) -> Array:
  r"""Duality gap of the multi-task Lasso, whose groups are the rows of w.

  For P(w) = 1/(2n) ||x w - y||_F^2 + lam sum_j ||w_j||_2, lam = hyperparams, it is P(w) - D(theta)
  as in ``lasso_duality_gap``, with ||(x^T theta)_j||_2 <= lam for each row j.

  Args:
    w: float[p, k], any coefficients.
    x: float[n, p].
    y: float[n, k].
    hyperparams: lam >= 0, a scalar; may be traced.

  Returns:
    float scalar, >= 0 up to rounding, of the precision of ``w`` and float32 at least.

  Raises:
    TypeError: when an array is not of floating point.
    ValueError: when shapes do not fit, or a strength is negative.

  Note:
    Near a solution it cannot fall below rounding: about the machine epsilon times P(0).

  Example:
    >>> x, y = jnp.eye(2), jnp.array([[3.0, 4.0], [0.1, 0.0]])
    >>> gap = group_lasso_duality_gap(0.8 * y.at[1].set(0.0), x, y, hyperparams=0.5)
    >>> abs(float(gap)) < 1e-6
    True

  Reference:
    Ndiaye, Fercoq, Gramfort and Salmon, Gap safe screening rules for sparsity enforcing penalties,
    2017.
  """
  w, x, y, lam = _checked(w, x, y, hyperparams, rank=2)
  n, r = y.shape[0], y - x @ w
  rows = lambda a: jnp.sqrt(jnp.sum(a * a, axis=1))
  square = jnp.sum(r * r)
  value = square / (2 * n) + lam * jnp.sum(rows(w))
  size = jnp.max(rows(x.T @ r)) / n
  return _least_squares_gap(value, square, jnp.sum(r * y), size, lam, n, low=-1)


def logistic_lasso_duality_gap(
  w: ArrayLike, x: ArrayLike, y: ArrayLike, *, hyperparams: ArrayLike
) -> Array:
  r"""Duality gap of l1-penalised logistic regression.

  For P(w) = 1/n sum_i log(1 + exp(-y_i <x_i, w>)) + lam ||w||_1, lam = hyperparams, it is
  P(w) - D(theta), D = -1/n sum_i u_i log u_i + (1 - u_i) log(1 - u_i) with u_i = n y_i theta_i, at
  theta_i = a y_i sigmoid(-y_i <x_i, w>) / n, a <= 1 such that ||x^T theta||_inf <= lam.

  Args:
    w: float[p], any coefficients.
    x: float[n, p].
    y: float[n], labels -1 and 1.
    hyperparams: lam >= 0, a scalar; may be traced.

  Returns:
    float scalar, >= 0 up to rounding, of the precision of ``w`` and float32 at least.

  Raises:
    TypeError: when an array is not of floating point.
    ValueError: when shapes do not fit, a strength is negative, or a label is neither -1 nor 1.

  Note:
    Near a solution it cannot fall below rounding: about the machine epsilon times P(0).

  Example:
    >>> x, y = jnp.eye(2), jnp.array([1.0, -1.0])
    >>> float(logistic_lasso_duality_gap(jnp.zeros(2), x, y, hyperparams=0.25))  # lam_max
    0.0

  Reference:
    Koh, Kim and Boyd, An interior-point method for large-scale l1-regularized logistic regression,
    2007, section 2.5; Ndiaye, Fercoq, Gramfort and Salmon, Gap safe screening rules for sparsity
    enforcing penalties, 2017.
  """
  w, x, y, lam = _checked(w, x, y, hyperparams)
  _checks.check_interval("the modulus of y", abs(y), 1.0, 1.0)
  n, margins = y.shape[0], y * (x @ w)
  value = jnp.mean(jax.nn.softplus(-margins)) + lam * jnp.sum(jnp.abs(w))
  u = jax.nn.sigmoid(-margins)
  size = jnp.max(jnp.abs(x.T @ (y * u))) / n
  over = size > lam
  u = jnp.where(over, lam / jnp.where(over, size, 1), 1) * u
  entropy = jax.scipy.special.entr(u) + jax.scipy.special.entr(1 - u)
  return value - jnp.mean(entropy)
