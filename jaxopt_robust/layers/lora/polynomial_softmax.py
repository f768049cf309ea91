r"""Softmax of low rank: exp(q.k) as a polynomial of the logits, whose monomials are features.

The softmax matrix f of n queries and m keys becomes left right^T with C(e + degree, degree) columns
for heads of size e, and a proven bound of its error. This works while the logits are small.
"""

import collections
import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.layers._tokens import check_same, dot, tokens, transposed
from jaxopt_robust.numerics import divisor, safe_norm, upcast
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["PolynomialSoftmaxInfo", "exponential_features", "softmax_poly_factors"]

SERIES = ("taylor", "chebyshev")
LARGEST_BOUND = 4.0  # of logits: beyond, no degree that is affordable is accurate
_LARGEST_ROUNDING = 0.01  # of the mean of a row
_MAX_DEGREE = 30  # float64 has no digits left for monomials beyond
_MAX_FEATURES = 20_000


class PolynomialSoftmaxInfo(NamedTuple):
  """How good the polynomial is, proven in exact arithmetic: rounding comes on top.

  Attributes:
    logit_bound: float[...], one a head: R, no logit is larger in size.
    series_error: float[...], no value of the polynomial on [-R, R] is further off exp than this.
    softmax_error: float[...], no row of the approximate softmax is further off than this, in the
      sum of the absolute errors; inf where the sum of a row is not positive. An output is off by at
      most this times max_j ||v_j - c||_2, for any one c.
    valid: bool[...], whether R is at most 4, every sum of a row is positive, no logit among those
      looked at exceeds the bound that was given, and rounding is small: the terms of the
      polynomial, in size, sum to no more than 0.01 / eps times the mean of their row. The last can
      fail where a bound is given that is far below the product of the norms.

  Example:
    >>> PolynomialSoftmaxInfo._fields
    ('logit_bound', 'series_error', 'softmax_error', 'valid')

  Reference:
    Taylor's remainder; for Chebyshev interpolation: Trefethen, Approximation theory and
    approximation practice, 2013, theorem 4.2 (an interpolant is off by at most twice the
    coefficients that are left out), with those of exp, 2 I_n(R).
  """

  logit_bound: Array
  series_error: Array
  softmax_error: Array
  valid: Array


class Factors(NamedTuple):
  """The factors of the softmax matrix, and by row what is proven of them.

  Attributes:
    left: float[..., n, features].
    right: float[..., m, features].
    largest: float[..., n], bound of |polynomial - exp| in a row.
    mean: float[..., n], bound of its mean over a row.
    row_mean: float[..., n], mean of the polynomial over a row.
    row_error: float[..., n], bound of sum_j |approximate - exact softmax|.
    info: of the whole.
  """

  left: Array
  right: Array
  largest: Array
  mean: Array
  row_mean: Array
  row_error: Array
  info: PolynomialSoftmaxInfo


class _Monomials(NamedTuple):
  """The monomials of some variables up to a degree; each one is an earlier one times a variable."""

  parents: tuple[np.ndarray, ...]  # by degree, place among the monomials of one degree less
  variables: tuple[np.ndarray, ...]
  multiplicities: np.ndarray  # t! / prod_l a_l!
  degrees: np.ndarray


def _count(size: int, degree: int) -> int:
  return math.comb(size + degree, degree) if degree >= 0 else 0


@functools.cache
def _monomials(size: int, degree: int) -> _Monomials:
  parents, variables, multiplicities, degrees = [], [], [1.0], [0]
  before: list[tuple[int, ...]] = [()]
  for t in range(1, degree + 1):
    now = list(itertools.combinations_with_replacement(range(size), t))
    place = {monomial: i for i, monomial in enumerate(before)}
    parents.append(np.array([place[monomial[:-1]] for monomial in now], np.int32))
    variables.append(np.array([monomial[-1] for monomial in now], np.int32))
    for monomial in now:
      counts = collections.Counter(monomial).values()
      multiplicities.append(math.factorial(t) / math.prod(map(math.factorial, counts)))
    degrees += [t] * len(now)
    before = now
  return _Monomials(
    tuple(parents), tuple(variables), np.array(multiplicities), np.array(degrees, np.int32)
  )


def _powers(x: Array, monomials: _Monomials) -> Array:
  """All monomials of the last axis."""
  levels = [jnp.ones((*x.shape[:-1], 1), x.dtype)]
  for parents, variables in zip(monomials.parents, monomials.variables, strict=True):
    levels.append(levels[-1][..., parents] * x[..., variables])
  return jnp.concatenate(levels, axis=-1)


@functools.cache
def _chebyshev_matrix(degree: int) -> np.ndarray:
  """From values at the Chebyshev points of [-1, 1] to coefficients of 1, t, t^2, ..."""
  count = degree + 1
  angles = np.pi * (np.arange(count) + 0.5) / count
  transform = 2 / count * np.cos(np.outer(np.arange(count), angles))
  transform[0] /= 2
  rows = [np.polynomial.chebyshev.cheb2poly(np.eye(count)[n]) for n in range(count)]
  return np.stack([np.pad(row, (0, count - len(row))) for row in rows], axis=1) @ transform


def tail(size: Array, degree: int) -> Array:
  """Bound of sum_{t > degree} size^t / t!, from 1F1(1; d + 2; x) <= 1 + (e^x - 1) / (d + 2)."""
  first = size ** (degree + 1) / float(math.factorial(degree + 1))
  return first * (1 + jnp.expm1(size) / (degree + 2))


def _coefficients(bound: Array, degree: int, series: str) -> tuple[Array, Array, Array]:
  """Coefficients of t^0, t^1, ... [..., degree + 1], what t is to be multiplied by to be the logit,
  and a bound of the error on [-bound, bound]."""
  if series == "taylor":
    values = jnp.array([1 / math.factorial(t) for t in range(degree + 1)], bound.dtype)
    coefficients = jnp.broadcast_to(values, (*bound.shape, degree + 1))
    return coefficients, jnp.ones_like(bound), tail(bound, degree)
  angles = np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1)
  values = jnp.exp(bound[..., None] * jnp.asarray(np.cos(angles), bound.dtype))
  matrix = jnp.asarray(_chebyshev_matrix(degree), bound.dtype)
  # I_n(R) <= (R/2)^n / n! exp(R^2 / (4 (n + 1))).
  error = 4 * jnp.exp(bound**2 / (4 * (degree + 2))) * tail(bound / 2, degree)
  return dot(values[..., None, :], matrix.T)[..., 0, :], divisor(bound), error


class _Scaled(NamedTuple):
  """Queries and keys of the same logits, the keys of norm 1 at most, and bounds of the logits."""

  q: Array
  k: Array
  row_bounds: Array  # [..., n], of a row, by the norms
  bound: Array  # [...]
  kept: Array  # bool[...], whether the logits looked at keep the bound that was given


def _scaled(q: Array, k: Array, bound: ArrayLike | None) -> _Scaled:
  size = divisor(jnp.max(safe_norm(k, axis=-1), axis=-1))[..., None, None]
  size = jax.lax.stop_gradient(size)
  q, k = q * size, k / size
  fixed_q, fixed_k = jax.lax.stop_gradient((q, k))
  rows = safe_norm(fixed_q, axis=-1)
  largest = jnp.max(rows, axis=-1)
  if bound is None:
    return _Scaled(q, k, rows, largest, jnp.ones(largest.shape, bool))
  given = jnp.broadcast_to(jnp.asarray(bound, q.dtype), largest.shape)
  # The longest query with all keys, the longest key with all queries.
  longest = lambda x: jnp.take_along_axis(
    x, jnp.argmax(safe_norm(x, axis=-1), axis=-1)[..., None, None], axis=-2
  )
  product = lambda a, b: jnp.max(jnp.abs(dot(a, transposed(b))), axis=(-1, -2))
  seen = jnp.maximum(product(fixed_q, longest(fixed_k)), product(longest(fixed_q), fixed_k))
  kept = seen <= (1 + 100 * jnp.finfo(q.dtype).eps) * given
  return _Scaled(q, k, jnp.minimum(rows, given[..., None]), jnp.minimum(largest, given), kept)


class _Features(NamedTuple):
  """phi psi^T is the polynomial of the logits."""

  phi: Array
  psi: Array
  scaled: _Scaled
  error: Array  # [...], bound of |polynomial - exp|
  terms: Array  # [..., n], bound of the sum of the sizes of the terms of the polynomial


def _features(q: Array, k: Array, bound: ArrayLike | None, degree: int, series: str) -> _Features:
  scaled = _scaled(q, k, bound)
  monomials = _monomials(q.shape[-1], degree)
  coefficients, unit, error = _coefficients(scaled.bound, degree, series)
  multiplicities = jnp.asarray(monomials.multiplicities, q.dtype)
  weights = coefficients[..., monomials.degrees] * jnp.broadcast_to(
    multiplicities, (*scaled.bound.shape, multiplicities.size)
  )
  phi = weights[..., None, :] * _powers(scaled.q / unit[..., None, None], monomials)
  lengths = safe_norm(jax.lax.stop_gradient(scaled.q), axis=-1) / unit[..., None]
  powers = jnp.stack([lengths**t for t in range(degree + 1)], axis=-1)
  terms = jnp.sum(jnp.abs(coefficients)[..., None, :] * powers, axis=-1)
  return _Features(phi, _powers(scaled.k, monomials), scaled, error, terms)


def factors_of(q: Array, k: Array, bound: ArrayLike | None, degree: int, series: str) -> Factors:
  """The factors for checked arrays."""
  phi, psi, scaled, error, terms = _features(q, k, bound, degree, series)
  mean = dot(phi, jnp.mean(psi, axis=-2)[..., None])
  left = phi / (mean * k.shape[-2])
  row_mean = jax.lax.stop_gradient(mean[..., 0])
  if series == "taylor":
    # |polynomial - exp| <= tail(|x|), and tail(x) / x^p grows for p <= degree: its mean follows
    # from that of x^p, which the features of degree p give for even p.
    largest = tail(scaled.row_bounds, degree)
    power = degree - degree % 2
    size = q.shape[-1]
    block = slice(_count(size, power - 1), _count(size, power))
    fixed_phi, fixed_psi = jax.lax.stop_gradient((phi[..., block], psi[..., block]))
    moment = dot(fixed_phi, jnp.mean(fixed_psi, axis=-2)[..., None])[..., 0]
    most = scaled.row_bounds**power / float(math.factorial(power))
    share = jnp.minimum(jnp.abs(moment) / jnp.where(most > 0, most, 1), 1)
    mean_error = largest * jnp.where(most > 0, share, 1)
  else:
    largest = jnp.broadcast_to(error[..., None], row_mean.shape)
    mean_error = largest
  positive = row_mean > 0
  sound = positive & scaled.kept[..., None]
  # approximate - exact = (d - exact mean(d)) / (m row_mean) for d = polynomial - exp.
  row_error = 2 * mean_error / jnp.where(positive, row_mean, 1)
  row_error = jnp.where(sound & ~jnp.isnan(row_error), row_error, jnp.inf)
  accurate = jnp.finfo(terms.dtype).eps * terms <= _LARGEST_ROUNDING * row_mean
  valid = (scaled.bound <= LARGEST_BOUND) & jnp.all(sound & accurate, axis=-1)
  info = PolynomialSoftmaxInfo(scaled.bound, error, jnp.max(row_error, axis=-1), valid)
  return Factors(left, psi, largest, mean_error, row_mean, row_error, info)


def check_series(size: int, degree: int, series: str, bound: ArrayLike | None) -> int:
  """Static facts of a polynomial in ``size`` variables."""
  _arguments.check_option("series", series, SERIES)
  degree = _checks.check_int("degree", degree, minimum=1, maximum=_MAX_DEGREE)
  if bound is not None:
    _checks.check_positive("bound", bound, scalar=True)
  count = _count(size, degree)
  if count > _MAX_FEATURES:
    raise ValueError(
      f"degree must leave at most {_MAX_FEATURES} features, comb(size + degree, degree); got "
      f"{count} for degree {degree} and heads of size {size}: this is a method for small heads."
    )
  return degree


def check_queries_and_keys(
  q: ArrayLike, k: ArrayLike, degree: int, series: str, bound: ArrayLike | None
) -> tuple[Array, Array, int]:
  queries, keys = tokens(q=q, k=k)
  check_same("k", keys, "q", queries, -1)
  degree = check_series(queries.shape[-1], degree, series, bound)
  wide, other = upcast(queries), upcast(keys)
  dtype = jnp.promote_types(wide.dtype, other.dtype)
  return wide.astype(dtype), other.astype(dtype), degree


def exponential_features(
  q: ArrayLike,
  k: ArrayLike,
  *,
  degree: int = 4,
  series: str = "taylor",
  bound: ArrayLike | None = None,
) -> tuple[Array, Array]:
  r"""Features whose products are a polynomial of the logits, phi_i.psi_j = p(q_i.k_j).

  For p(x) = sum_{t <= degree} c_t x^t there is one feature a monomial a of e variables of degree t,
  C(e + degree, degree) in all: q^a c_t t! / prod_l a_l! beside k^a. With c_t = 1 / t!
  (``"taylor"``) or those of the interpolant of exp at the Chebyshev points of [-R, R]
  (``"chebyshev"``) p(x) is near exp(x).

  Args:
    q: float[..., n, e], queries, scaled already.
    k: float[..., m, e].
    degree: >= 1, static.
    series: ``"taylor"`` or ``"chebyshev"``; static.
    bound: R > 0, a bound of |q_i.k_j| that you know; by default, and where it is smaller,
      max_i ||q_i||_2 max_j ||k_j||_2. May be traced.

  Returns:
    (float[..., n, C(e + degree, degree)], float[..., m, C(e + degree, degree)]), float32 at least.

  Raises:
    TypeError: an array is not floating-point, or ``degree`` no static integer.
    ValueError: shapes do not fit, an option is unknown, a number is out of range, or there would be
      more than 20,000 features.

  Note:
    Queries and keys are scaled against each other first, which changes no product. Chebyshev's
    polynomial is the better one for degrees of at least 2 R or so; at low degree Taylor's is better
    where most logits are near 0; outside [-R, R] both leave exp. In float32 monomials lose digits
    beyond degree 6, and where norms are large, whatever the bound that you know. A sum over earlier
    keys of psi_j v_j^T gives causal attention.

  Example:
    >>> phi, psi = exponential_features(jnp.array([[0.5]]), jnp.array([[1.0], [-1.0]]), degree=2)
    >>> phi.shape, phi @ psi.T
    ((1, 3), Array([[1.625, 0.625]], dtype=float32))

  Reference:
    Hu, Su, Kuo, Song and Liu, Computational limits of low-rank adaptation (LoRA) fine-tuning for
    transformer models, 2024, proof of theorem 3.1; the polynomial method: Alman and Song, Fast
    attention requires bounded entries, 2023.
  """
  queries, keys, degree = check_queries_and_keys(q, k, degree, series, bound)
  features = _features(queries, keys, bound, degree, series)
  return features.phi, features.psi


def softmax_poly_factors(
  q: ArrayLike,
  k: ArrayLike,
  *,
  degree: int = 4,
  series: str = "taylor",
  bound: ArrayLike | None = None,
) -> tuple[Array, Array, PolynomialSoftmaxInfo]:
  r"""Two thin factors of the softmax matrix, left right^T near softmax(q k^T), at cost O(n + m).

  left_i = phi_i / sum_j phi_i.psi_j and right = psi for the features of ``exponential_features``:
  every row of left right^T sums to 1.

  Args:
    q: float[..., n, e], queries, scaled already: no factor e^(-1/2) is added.
    k: float[..., m, e].
    degree: >= 1, static.
    series: ``"taylor"`` or ``"chebyshev"``; static.
    bound: R > 0, a bound of |q_i.k_j| that you know, as in ``exponential_features``; may be traced.

  Returns:
    (left float[..., n, r], right float[..., m, r], ``PolynomialSoftmaxInfo``),
    r = C(e + degree, degree), float32 at least.

  Raises:
    TypeError: an array is not floating-point, or ``degree`` no static integer.
    ValueError: shapes do not fit, an option is unknown, a number is out of range, or there would be
      more than 20,000 features.

  Note:
    The polynomial may be negative and a sum of a row vanish where logits are large and the degree
    is odd or low: ``info.valid`` is False then, and nothing is clipped. Subtracting the mean of the
    keys changes no softmax and may lower R. A known bound is believed where the logits of the
    longest query and of the longest key keep it.

  Example:
    >>> q = jnp.array([[0.1, 0.2], [-0.3, 0.1], [0.2, 0.2]])
    >>> left, right, info = softmax_poly_factors(q, q)
    >>> jnp.abs(left @ right.T - jax.nn.softmax(q @ q.T, axis=-1)).max() <= info.softmax_error
    Array(True, dtype=bool)
    >>> bool(info.valid)
    True

  Reference:
    Hu, Su, Kuo, Song and Liu, Computational limits of low-rank adaptation (LoRA) fine-tuning for
    transformer models, 2024, theorem 3.1 and the lemma on low-rank approximation before it. The
    bounds in ``info`` are ours.
  """
  queries, keys, degree = check_queries_and_keys(q, k, degree, series, bound)
  found = factors_of(queries, keys, bound, degree, series)
  return found.left, found.right, found.info
