"""How good a recovery is, and how good the measurements are (Sign-RIP)."""

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust._units import root_of_unit
from jaxopt_robust.numerics import safe_divide, safe_norm, upcast
from jaxopt_robust.recovery.operators import MeasurementOperator, wide_dot
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "factor_imbalance",
  "incoherence",
  "principal_angle",
  "procrustes_dist",
  "rel_err",
  "sign_rip_gap",
  "sign_rip_phi",
  "sign_rip_phi_gaussian",
  "support_f1",
]


def _matrix_pair(name_a: str, a: ArrayLike, name_b: str, b: ArrayLike) -> tuple[Array, Array]:
  a = _checks.check_float_array(name_a, a, rank=2)
  b = _checks.check_float_array(name_b, b, rank=2)
  _checks.check_same_shape(name_a, a, name_b, b)
  return a, b


def procrustes_dist(u: ArrayLike, v: ArrayLike) -> Array:
  r"""Distance of two factors up to rotation, min over orthogonal O of ||U - V O||_F.

  Args:
    u: float[d, width].
    v: float[d, width].

  Returns:
    float scalar.

  Raises:
    ValueError: the arguments are not matrices of one shape.
    TypeError: an argument is not floating-point.

  Note:
    The minimiser O comes from the singular vectors of V^T U; the distance is then measured itself,
    so that it does not lose half the digits near 0.

  Example:
    >>> u = jnp.eye(3)[:, :2]
    >>> float(procrustes_dist(u, u @ jnp.array([[0.0, 1.0], [-1.0, 0.0]])))
    0.0

  Reference:
    Schoenemann, A generalized solution of the orthogonal Procrustes problem, 1966.
  """
  u, v = _matrix_pair("u", u, "v", v)
  v_unit, u_unit = (upcast(part) / root_of_unit(part) ** 2 for part in (v, u))
  left, _, right = jnp.linalg.svd(wide_dot(v_unit.T, u_unit), full_matrices=False)
  rotation = wide_dot(left, right)
  return safe_norm(upcast(u) - wide_dot(v, rotation)).astype(u.dtype)


def rel_err(estimate: ArrayLike, truth: ArrayLike) -> Array:
  r"""Relative error ||X - X*||_F / ||X*||_F.

  Args:
    estimate: float[...], X.
    truth: float[...], X* of the same shape.

  Returns:
    float scalar; inf where X* = 0 and X is not.

  Raises:
    ValueError: the shapes differ.
    TypeError: an argument is not floating-point.

  Example:
    >>> float(rel_err(jnp.array([3.0, 0.0]), jnp.array([2.0, 0.0])))
    0.5

  Reference:
    The usual normalised error; no source.
  """
  estimate = _checks.check_float_array("estimate", estimate)
  truth = _checks.check_float_array("truth", truth)
  _checks.check_same_shape("estimate", estimate, "truth", truth)
  error = safe_norm(upcast(estimate) - upcast(truth))
  size = safe_norm(upcast(truth))
  at_zero = jnp.where(error > 0, jnp.full_like(error, jnp.inf), jnp.zeros_like(error))
  return safe_divide(error, size, default=at_zero).astype(estimate.dtype)


def factor_imbalance(left: ArrayLike, right: ArrayLike) -> Array:
  r"""How far two factors are from sharing the weight of their product: ||L^T L - R^T R||_F.

  Args:
    left: float[d1, width].
    right: float[d2, width].

  Returns:
    float scalar.

  Raises:
    ValueError: the arguments are not matrices of equal width.
    TypeError: an argument is not floating-point.

  Example:
    >>> float(factor_imbalance(2.0 * jnp.ones((1, 1)), jnp.ones((3, 1))))
    1.0

  Reference:
    Li, Zhu, So and Vidal, Nonconvex Robust Low-rank Matrix Recovery, 2020, section 1.
  """
  left = _checks.check_float_array("left", left, rank=2)
  right = _checks.check_float_array("right", right, rank=2)
  if left.shape[1] != right.shape[1]:
    raise ValueError(f"left and right must have equal widths; got {left.shape} and {right.shape}.")
  return safe_norm(wide_dot(left.T, left) - wide_dot(right.T, right)).astype(left.dtype)


def incoherence(basis: ArrayLike) -> Array:
  r"""How much a subspace leans on single coordinates: (d / k) max_i ||U_i||^2, U_i the rows of U.

  Args:
    basis: float[d, k], U with orthonormal columns, such as the singular vectors of a matrix.

  Returns:
    float scalar in [1, d / k]: 1 where all coordinates weigh the same, d / k where one of them is
    in the subspace.

  Raises:
    ValueError: the argument is no matrix.
    TypeError: it is not floating-point.

  Note:
    Of a low-rank matrix one takes the larger one of its left and right singular vectors. Robust
    principal component analysis and completion need it to be small.

  Example:
    >>> float(incoherence(jnp.eye(4)[:, :2])), float(incoherence(jnp.full((4, 1), 0.5)))
    (2.0, 1.0)

  Reference:
    Candes and Recht, Exact matrix completion via convex optimization, 2009, definition 1.2.
  """
  array = _checks.check_float_array("basis", basis, rank=2)
  rows, width = array.shape
  largest = jnp.max(jnp.sum(upcast(array) ** 2, axis=1))
  return (largest * rows / width).astype(array.dtype)


def principal_angle(u: ArrayLike, v: ArrayLike) -> Array:
  r"""Sine of the largest angle between two subspaces, ||(I - U U^T) V||.

  Args:
    u: float[d, k] with orthonormal columns.
    v: float[d, k] with orthonormal columns.

  Returns:
    float scalar in [0, 1].

  Raises:
    ValueError: the arguments are not matrices of one shape.
    TypeError: an argument is not floating-point.

  Example:
    >>> float(principal_angle(jnp.eye(3)[:, :1], jnp.eye(3)[:, 1:2]))
    1.0

  Reference:
    Golub and Van Loan, Matrix Computations, 2013, section 6.4.3.
  """
  u, v = _matrix_pair("u", u, "v", v)
  rest = upcast(v) - wide_dot(u, wide_dot(u.T, v))
  return jnp.linalg.norm(rest, ord=2).astype(u.dtype)


def support_f1(estimate: ArrayLike, truth: ArrayLike, *, tol: ArrayLike = 0.0) -> Array:
  r"""F1 score of the support of a sparse array: 2 TP / (2 TP + FP + FN).

  Args:
    estimate: float[...].
    truth: float[...] of the same shape.
    tol: >= 0; an entry belongs to the support where its magnitude exceeds ``tol``. May be traced.

  Returns:
    float scalar in [0, 1]; 1 where both supports are empty.

  Raises:
    ValueError: the shapes differ or ``tol`` is negative.
    TypeError: an argument is not floating-point.

  Example:
    >>> float(support_f1(jnp.array([1.0, 1.0, 0.0]), jnp.array([2.0, 0.0, 0.0])) * 3)
    2.0

  Reference:
    van Rijsbergen, Information Retrieval, 1979, chapter 7.
  """
  estimate = _checks.check_float_array("estimate", estimate)
  truth = _checks.check_float_array("truth", truth)
  _checks.check_same_shape("estimate", estimate, "truth", truth)
  _checks.check_non_negative("tol", tol, scalar=True)
  found = jnp.abs(estimate) > jnp.asarray(tol, estimate.dtype)
  wanted = jnp.abs(truth) > jnp.asarray(tol, truth.dtype)
  dtype = upcast(estimate).dtype
  both = jnp.sum(found & wanted).astype(dtype)
  total = (jnp.sum(found) + jnp.sum(wanted)).astype(dtype)
  score = safe_divide(2 * both, total, default=1.0).astype(estimate.dtype)
  return jnp.where(jnp.isnan(estimate).any() | jnp.isnan(truth).any(), jnp.nan, score)


def sign_rip_phi(norm: ArrayLike, noise: ArrayLike) -> Array:
  r"""Scale of the mean sign-gradient for a sample of the noise.

  For A with independent N(0, 1) entries, E[ sign(<A, X> - s) A ] = phi(X) X / ||X||_F with
  phi(X) = sqrt(2/pi) E[ exp(-s^2 / (2 ||X||_F^2)) ]. The mean runs over ``noise``, zeros included.

  Args:
    norm: float scalar, ||X||_F > 0; may be traced.
    noise: float[n], sample of s.

  Returns:
    float scalar in [0, sqrt(2/pi)].

  Raises:
    ValueError: ``norm`` is not positive, or ``noise`` is empty or not a vector.
    TypeError: ``noise`` is not floating-point.

  Note:
    With a fraction p of outliers, of any size, phi >= sqrt(2/pi) (1 - p).

  Example:
    >>> round(float(sign_rip_phi(1.0, jnp.array([0.0, 1e9]))), 4)
    0.3989

  Reference:
    Ma and Fattahi, Sign-RIP: A Robust Restricted Isometry Property for Low-rank Matrix Recovery,
    2021 (the definition; the closed form is derived from E[sign(g + c) g] for a Gaussian g).
  """
  noise = _checks.check_float_array("noise", noise, rank=1)
  _checks.check_positive("norm", norm, scalar=True)
  wide = upcast(noise)
  ratio = wide / jnp.asarray(norm, wide.dtype)
  phi = jnp.sqrt(jnp.asarray(2 / jnp.pi, wide.dtype)) * jnp.mean(jnp.exp(-0.5 * ratio * ratio))
  return phi.astype(noise.dtype)


def sign_rip_phi_gaussian(norm: ArrayLike, *, rate: ArrayLike, scale: ArrayLike) -> Array:
  r"""Scale of the mean sign-gradient when a fraction of measurements has Gaussian errors.

  phi = sqrt(2/pi) (1 - p + p ||X||_F / sqrt(||X||_F^2 + nu^2)) with p = ``rate``, nu = ``scale``.
  ``rate=1`` is dense Gaussian noise.

  Args:
    norm: float[...], ||X||_F > 0; may be traced.
    rate: p in [0, 1]; may be traced.
    scale: nu >= 0; may be traced.

  Returns:
    float[...] of the shape of ``norm``.

  Raises:
    ValueError: ``norm`` is not positive, ``rate`` outside [0, 1] or ``scale`` negative.

  Example:
    >>> round(float(sign_rip_phi_gaussian(1.0, rate=0.0, scale=1.0)), 4)
    0.7979

  Reference:
    Ma and Fattahi, Sign-RIP: A Robust Restricted Isometry Property for Low-rank Matrix Recovery,
    2021 (the definition; the closed form is derived from the one of ``sign_rip_phi``).
  """
  _checks.check_positive("norm", norm)
  _checks.check_interval("rate", rate, 0.0, 1.0)
  _checks.check_non_negative("scale", scale)
  norm = _checks.check_float_array("norm", norm)
  wide = upcast(norm)
  p, nu = jnp.asarray(rate, wide.dtype), jnp.asarray(scale, wide.dtype)
  noisy = p / jnp.sqrt(1 + (nu / wide) ** 2)
  return (jnp.sqrt(jnp.asarray(2 / jnp.pi, wide.dtype)) * (1 - p + noisy)).astype(norm.dtype)


def sign_rip_gap(
  key: Array, op: MeasurementOperator, noise: ArrayLike, *, rank: int, num_samples: int
) -> Array:
  r"""Largest relative deviation of the sign-gradient from its mean, over random low-rank matrices.

  For random X, Y of one rank with ||X||_F = ||Y||_F = 1, and D = (1/m) sum_i sign(<A_i, X> - s_i)
  A_i, returns the largest |<D - phi(X) X, Y>| / phi(X) over the samples, and over Y = X too.

  Args:
    key: typed PRNG key.
    op: operator with m measurements.
    noise: float[m], the errors s_i.
    rank: rank of X and Y, >= 1, static.
    num_samples: number of pairs, >= 1, static.

  Returns:
    float scalar, a lower bound of the Sign-RIP constant delta at that rank.

  Raises:
    TypeError: the key is not a typed key, or a size is not an integer.
    ValueError: ``noise`` does not have one entry per measurement, or a size is less than 1.

  Note:
    phi is that of standard Gaussian measurements: other operators show a large gap even without
    noise.

  Example:
    >>> op = jr.recovery.make_gaussian_sensing(jax.random.key(0), 2000, 4, 4)
    >>> float(sign_rip_gap(jax.random.key(1), op, jnp.zeros(2000), rank=1, num_samples=8)) < 0.2
    True

  Reference:
    Ma and Fattahi, Sign-RIP: A Robust Restricted Isometry Property for Low-rank Matrix Recovery,
    2021, definition 1 (recalled, not verified).
  """
  _checks.check_key("key", key)
  if not isinstance(op, MeasurementOperator):
    raise TypeError(f"op must be a MeasurementOperator; got {type(op).__name__}.")
  rank = _checks.check_int("rank", rank, minimum=1)
  num_samples = _checks.check_int("num_samples", num_samples, minimum=1)
  noise = upcast(op.check_measurements("noise", noise))
  rows, cols = op.shape
  phi = sign_rip_phi(1.0, noise)

  def unit(unit_key: Array) -> Array:
    left_key, right_key = jax.random.split(unit_key)
    left = jax.random.normal(left_key, (rows, rank), noise.dtype)
    right = jax.random.normal(right_key, (cols, rank), noise.dtype)
    product = wide_dot(left, right.T)
    return product / safe_norm(product)

  def gap(pair_key: Array) -> Array:
    x_key, y_key = jax.random.split(pair_key)
    x, y = unit(x_key), unit(y_key)
    deviation = op.adjoint(jnp.sign(op.apply(x) - noise)) / op.count - phi * x
    return jnp.maximum(jnp.abs(jnp.sum(deviation * y)), jnp.abs(jnp.sum(deviation * x))) / phi

  return jnp.max(jax.vmap(gap)(jax.random.split(key, num_samples)))
