"""Two Gaussian classes with few labels, and unlabelled samples from a shifted pair."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.problems.types import Problem
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["ShiftedGaussiansTruth", "gaussian_accuracy", "make_shifted_gaussians"]


class ShiftedGaussiansTruth(NamedTuple):
  """What the samples were made of.

  Attributes:
    mean: float[dimension], mu_0, of length 1: labelled samples lie around y mu_0.
    shifted_mean: float[dimension], mu_1: unlabelled samples lie around y mu_1.
    unlabeled_labels: float[num_unlabeled], -1 or 1.
    noise: float scalar, sigma.

  Example:
    >>> ShiftedGaussiansTruth._fields
    ('mean', 'shifted_mean', 'unlabeled_labels', 'noise')

  Reference:
    Saberi, Najafi, Heidari, Movasaghinia, Motahari and Khalaj, Out-of-domain unlabeled data
    improves generalization, 2024.
  """

  mean: Array
  shifted_mean: Array
  unlabeled_labels: Array
  noise: Array


def _logistic_risk(weights: Array, x: Array, labels: Array, unlabeled: Array) -> Array:
  del unlabeled
  return jnp.mean(jax.nn.softplus(-labels * jnp.matmul(x, weights, precision="highest")))


def make_shifted_gaussians(
  key: Array,
  *,
  num_labeled: int,
  num_unlabeled: int,
  dimension: int = 200,
  shift: ArrayLike = 0.0,
  noise: ArrayLike = 1.0,
  dtype: Any = None,
) -> Problem:
  r"""Makes labelled samples y mu_0 + sigma z, and unlabelled ones of y mu_1 + sigma z.

  Labels y are -1 or 1 with probability one half each, z is standard normal, mu_0 and v are
  independent random unit vectors and mu_1 = mu_0 + shift v. The objective is the mean logistic loss
  of the labelled samples, for a weight vector.

  Args:
    key: typed PRNG key.
    num_labeled: m >= 1, static.
    num_unlabeled: n >= 1, static.
    dimension: d >= 1, static.
    shift: >= 0, distance of mu_1 from mu_0; may be traced.
    noise: >= 0, sigma; may be traced.
    dtype: floating-point dtype; the default float by default.

  Returns:
    Problem with data ``(x: float[m, d], labels: float[m], unlabeled: float[n, d])`` and truth
    ``ShiftedGaussiansTruth``. ``optimum`` is None: few samples can be separated.

  Raises:
    TypeError: the key is not a typed key, a size is not an integer, or dtype is no float.
    ValueError: a size or a number is out of range.

  Example:
    >>> problem = make_shifted_gaussians(
    ...   jax.random.key(0), num_labeled=4, num_unlabeled=6, dimension=3, shift=0.5)
    >>> difference = problem.truth.shifted_mean - problem.truth.mean
    >>> problem.data[2].shape, round(float(jnp.linalg.norm(difference)), 5)
    ((6, 3), 0.5)

  Reference:
    Saberi, Najafi, Heidari, Movasaghinia, Motahari and Khalaj, Out-of-domain unlabeled data
    improves generalization, 2024, the experiment on Gaussian data (there sigma is not stated).
  """
  _checks.check_key("key", key)
  sizes = {"num_labeled": num_labeled, "num_unlabeled": num_unlabeled, "dimension": dimension}
  m, n, d = (_checks.check_int(name, size, minimum=1) for name, size in sizes.items())
  _checks.check_non_negative("shift", shift, scalar=True)
  _checks.check_non_negative("noise", noise, scalar=True)
  scalar_type = _checks.check_float_dtype(dtype, wide=True)
  names = ("mean", "direction", "labels", "unlabeled_labels", "samples", "unlabeled_samples")
  keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
  unit = lambda v: v / numerics.safe_norm(v)
  mean = unit(jax.random.normal(keys["mean"], (d,), scalar_type))
  direction = unit(jax.random.normal(keys["direction"], (d,), scalar_type))
  shifted = mean + jnp.asarray(shift, scalar_type) * direction
  sigma = jnp.asarray(noise, scalar_type)

  def draw(kind: str, rows: int, center: Array) -> tuple[Array, Array]:
    labels = jax.random.rademacher(keys[f"{kind}labels"], (rows,), scalar_type)
    z = jax.random.normal(keys[f"{kind}samples"], (rows, d), scalar_type)
    return jnp.outer(labels, center) + sigma * z, labels

  x, labels = draw("", m, mean)
  unlabeled, hidden = draw("unlabeled_", n, shifted)
  return Problem(
    data=(x, labels, unlabeled),
    truth=ShiftedGaussiansTruth(mean, shifted, hidden, sigma),
    objective=_logistic_risk,
    optimum=None,
  )


def gaussian_accuracy(weights: ArrayLike, mean: ArrayLike, *, noise: ArrayLike = 1.0) -> Array:
  r"""Exact accuracy of sign(<w, x>) for x = y mean + noise z, Phi( <w, mean> / (noise ||w||_2) ).

  Args:
    weights: float[d], w.
    mean: float[d].
    noise: > 0, sigma, a scalar; may be traced.

  Returns:
    float scalar in [0, 1]; one half for w = 0.

  Raises:
    ValueError: shapes differ or noise <= 0.
    TypeError: an array is not floating-point.

  Example:
    >>> float(gaussian_accuracy(jnp.array([5.0, 0.0]), jnp.array([0.0, 1.0])))
    0.5

  Reference:
    Fisher, The use of multiple measurements in taxonomic problems, 1936; the accuracy of a linear
    rule between two Gaussians of equal covariance is elementary.
  """
  w = _checks.check_float_array("weights", weights, rank=1)
  mu = _checks.check_float_array("mean", mean, rank=1)
  _checks.check_same_shape("weights", w, "mean", mu)
  _checks.check_positive("noise", noise, scalar=True)
  unit = numerics.safe_divide(w, numerics.safe_norm(w))
  margin = jnp.sum(unit * mu) / jnp.asarray(noise, mu.dtype)
  return jax.scipy.stats.norm.cdf(margin)
