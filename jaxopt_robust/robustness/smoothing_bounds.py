"""What counts of votes prove: bounds on probabilities, and radii from probabilities.

All of it is computed in float64 and rounded to the safe side: see each function.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _checks
from jaxopt_robust.robustness import _float64
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "binomial_test",
  "clopper_pearson_interval",
  "clopper_pearson_lower",
  "clopper_pearson_upper",
  "largest_smoothed_radius",
  "smoothed_radius",
]


def clopper_pearson_lower(
  successes: ArrayLike, trials: ArrayLike, *, alpha: ArrayLike = 0.001
) -> Array:
  r"""One-sided lower confidence bound on a probability, from a count of successes.

  Computes the p with P(X >= k) = alpha, X binomial with n trials of probability p: the
  alpha-quantile of the beta law with parameters k and n - k + 1. It is 0 at k = 0 and
  alpha^{1/n} at k = n. The true probability lies below it in at most alpha of all repeats.

  Args:
    successes: int[...] k, in [0, trials].
    trials: int[...] n >= 0, broadcast against ``successes``.
    alpha: in (0, 1), one minus the confidence; a scalar or an array that broadcasts.

  Returns:
    float[...]: float64 where JAX has it, otherwise the largest float32 that is not above the bound.

  Raises:
    ValueError: shapes do not broadcast, a count is out of range or alpha is not in (0, 1).
    TypeError: counts are not integers; or they are traced and JAX has no float64.

  Note:
    In float32 the bound would come out too high (at 100000 successes of 100000 the radius would
    grow by .0004 sigma). Known counts are computed on the host in float64; traced ones need
    ``jax.enable_x64(True)`` around the outer ``jit`` (bisected; below the bound by up to 2e-11). A
    traced count or alpha out of range gives NaN, and so do more than 10^6 traced trials. No
    gradient flows.

  Example:
    >>> print(f"{clopper_pearson_lower(990, 1000, alpha=0.001):.4f}")
    0.9760

  Reference:
    Clopper and Pearson, The use of confidence or fiducial limits illustrated in the case of the
    binomial, 1934; Cohen, Rosenfeld and Kolter, Certified adversarial robustness via randomized
    smoothing, 2019, section 3.2.
  """
  (k, n, level), known = _counts(successes, trials, alpha)
  return _float64.round_down(_float64.beta_lower(k, n, level, known))


def clopper_pearson_upper(
  successes: ArrayLike, trials: ArrayLike, *, alpha: ArrayLike = 0.001
) -> Array:
  r"""One-sided upper confidence bound on a probability, from a count of successes.

  Computes the p with P(X <= k) = alpha, X binomial with n trials of probability p: the
  (1 - alpha)-quantile of the beta law with parameters k + 1 and n - k. It is 1 at k = n and
  1 - alpha^{1/n} at k = 0. The true probability lies above it in at most alpha of all repeats.

  Args:
    successes: int[...] k, in [0, trials].
    trials: int[...] n >= 0, broadcast against ``successes``.
    alpha: in (0, 1), one minus the confidence; a scalar or an array that broadcasts.

  Returns:
    float[...]: float64 where JAX has it, otherwise the smallest float32 that is not below the
    bound.

  Raises:
    ValueError: shapes do not broadcast, a count is out of range or alpha is not in (0, 1).
    TypeError: counts are not integers; or they are traced and JAX has no float64.

  Note:
    As for ``clopper_pearson_lower``.

  Example:
    >>> print(f"{clopper_pearson_upper(10, 1000, alpha=0.001):.4f}")
    0.0240

  Reference:
    Clopper and Pearson, The use of confidence or fiducial limits illustrated in the case of the
    binomial, 1934.
  """
  (k, n, level), known = _counts(successes, trials, alpha)
  return _float64.round_up(_float64.beta_upper(k, n, level, known))


def clopper_pearson_interval(
  successes: ArrayLike, trials: ArrayLike, *, alpha: ArrayLike = 0.05
) -> tuple[Array, Array]:
  r"""Two-sided confidence interval of a probability, from a count of successes.

  Computes the lower and the upper one-sided bound at alpha / 2 each.

  Args:
    successes: int[...] k, in [0, trials].
    trials: int[...] n >= 0, broadcast against ``successes``.
    alpha: in (0, 1), one minus the confidence; a scalar or an array that broadcasts.

  Returns:
    ``(lower, upper)``, each float[...] and rounded outwards where JAX has no float64.

  Raises:
    ValueError: shapes do not broadcast, a count is out of range or alpha is not in (0, 1).
    TypeError: counts are not integers; or they are traced and JAX has no float64.

  Note:
    It is exact, so that its coverage is at least 1 - alpha for every probability, mostly above.

  Example:
    >>> lower, upper = clopper_pearson_interval(8, 10)
    >>> print(f"{lower:.3f} {upper:.3f}")
    0.444 0.975

  Reference:
    Clopper and Pearson, The use of confidence or fiducial limits illustrated in the case of the
    binomial, 1934.
  """
  (k, n, level), known = _counts(successes, trials, alpha)
  low, high = (
    bound(k, n, level / 2, known) for bound in (_float64.beta_lower, _float64.beta_upper)
  )
  return _float64.round_down(low), _float64.round_up(high)


def binomial_test(successes: ArrayLike, trials: ArrayLike) -> Array:
  r"""Two-sided exact test that a coin is fair: its p-value.

  Computes min(1, 2 P(X >= max(k, n - k))) with X binomial, n trials of probability 1/2, which is
  the sum of the probabilities of all outcomes that are at most as likely as k; 1 without trials.

  Args:
    successes: int[...] k, in [0, trials].
    trials: int[...] n >= 0, broadcast against ``successes``.

  Returns:
    float[...] in (0, 1]: float64 where JAX has it, otherwise the smallest float32 that is not below
    the p-value.

  Raises:
    ValueError: shapes do not broadcast or a count is out of range.
    TypeError: counts are not integers; or they are traced and JAX has no float64.

  Note:
    As for ``clopper_pearson_lower``.

  Example:
    >>> print(f"{binomial_test(9, 10):.4f}")
    0.0215

  Reference:
    Hung and Fithian, Rank verification for exponential families, 2019 (why the test of the two
    largest counts is valid); Cohen, Rosenfeld and Kolter, Certified adversarial robustness via
    randomized smoothing, 2019, section 3.2.1.
  """
  (k, n, _), known = _counts(successes, trials, 0.5)
  return _float64.round_up(_float64.fair_coin(k, n, known))


def smoothed_radius(lower: ArrayLike, *, sigma: ArrayLike, upper: ArrayLike | None = None) -> Array:
  r"""l2 radius within which a classifier smoothed by Gaussian noise keeps its answer.

  Computes max(0, sigma Phi^{-1}(p)), Phi the normal distribution function and p a lower bound on
  the probability of the top class under noise N(0, sigma^2 I); with an upper bound q on the
  probability of every other class, max(0, sigma/2 (Phi^{-1}(p) - Phi^{-1}(q))).

  Args:
    lower: float[...] p in [0, 1], such as a ``clopper_pearson_lower``.
    sigma: > 0, standard deviation of the noise; a scalar or an array that broadcasts.
    upper: float[...] q in [0, 1], or None for 1 - p.

  Returns:
    float[...]: float64 where JAX has it, otherwise the largest float32 that is not above the
    radius. 0 where nothing is certified, infinity at p = 1.

  Raises:
    ValueError: shapes do not broadcast, a probability is not in [0, 1] or sigma <= 0.
    TypeError: an argument is no real number; or it is traced and JAX has no float64.

  Note:
    Two bounds that both come from counts hold together with the sum of their alphas.

  Example:
    >>> print(np.round(smoothed_radius([0.4, 0.9, 0.99], sigma=0.5), 2))
    [0.   0.64 1.16]

  Reference:
    Cohen, Rosenfeld and Kolter, Certified adversarial robustness via randomized smoothing, 2019,
    theorem 1.
  """
  _checks.check_interval("lower", lower, 0, 1)
  _checks.check_positive("sigma", sigma)
  given: dict[str, Any] = {"lower": lower, "sigma": sigma}
  if upper is not None:
    _checks.check_interval("upper", upper, 0, 1)
    given["upper"] = upper
  (p, scale, *rest), known = _float64.numbers(**given)
  lib: Any = np if known else jnp
  scale = lib.where(scale > 0, scale, lib.nan)
  score = _float64.normal_quantile(p, known)
  if not rest:
    return _float64.round_down(lib.where(p <= 0.5, 0.0, scale * score))
  other = _float64.normal_quantile(rest[0], known)
  gap = lib.where(p == rest[0], 0.0, score) - lib.where(p == rest[0], 0.0, other)
  return _float64.round_down(lib.where(p <= rest[0], 0.0, scale * (gap / 2)))


def largest_smoothed_radius(
  num_samples: int, *, sigma: ArrayLike, alpha: ArrayLike = 0.001
) -> Array:
  r"""Largest radius that a number of noise draws can certify: when all of them agree.

  Computes sigma Phi^{-1}(alpha^{1/n}) with n = num_samples.

  Args:
    num_samples: static integer >= 1.
    sigma: > 0, standard deviation of the noise; a scalar or an array.
    alpha: in (0, 1), one minus the confidence; a scalar or an array that broadcasts.

  Returns:
    float[...]: float64 where JAX has it, otherwise rounded down to float32.

  Raises:
    ValueError: num_samples < 1, sigma <= 0 or alpha is not in (0, 1).
    TypeError: num_samples is not an integer; or an argument is traced and JAX has no float64.

  Example:
    >>> print(f"{largest_smoothed_radius(1000, sigma=1.0):.3f}")
    2.463

  Reference:
    Cohen, Rosenfeld and Kolter, Certified adversarial robustness via randomized smoothing, 2019,
    section 3.2.2.
  """
  n = _checks.check_int("num_samples", num_samples, minimum=1)
  _checks.check_positive("sigma", sigma)
  (k, trials, level), known = _counts(n, n, alpha)
  return smoothed_radius(_float64.beta_lower(k, trials, level, known), sigma=sigma)


def _counts(
  successes: ArrayLike, trials: ArrayLike, alpha: ArrayLike
) -> tuple[tuple[Any, Any, Any], bool]:
  """Counts and levels in float64, checked where known, and whether they are."""
  k = _checks.check_integers("successes", successes, low=0)
  n = _checks.check_integers("trials", trials, low=0)
  _checks.check_interval("alpha", alpha, 0, 1, closed="neither")
  (k, n, level), known = _float64.numbers(successes=k, trials=n, alpha=alpha)
  if known and np.any(k > n):
    raise ValueError(
      f"successes must be at most trials; got {k[k > n][0]:.0f} of {n[k > n][0]:.0f}."
    )
  return (k, n, level), known
