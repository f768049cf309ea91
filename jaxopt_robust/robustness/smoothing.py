"""Randomized smoothing: votes of a classifier under noise, and what they certify."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.robustness import _float64
from jaxopt_robust.robustness.smoothing_bounds import smoothed_radius
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "Certificate",
  "Prediction",
  "SmoothingVotes",
  "certify_smoothed",
  "certify_votes",
  "predict_votes",
  "smoothing_votes",
  "vote_counts",
]

ABSTAIN = -1  # the class where nothing is said


class SmoothingVotes(NamedTuple):
  """Votes for a certificate, from independent draws.

  Attributes:
    selection: int32[..., classes], votes that name the class.
    counts: int32[..., classes], votes that bound its probability.
  """

  selection: Array
  counts: Array


class Certificate(NamedTuple):
  """What smoothing certifies about an example.

  Attributes:
    label: int32[...], the class, or -1 where nothing is certified.
    radius: float[...], every change of a smaller l2 norm leaves the class as it is; 0 where
      abstained. Rounded down where it has 32 bits.
    lower: float[...], the lower bound on the probability of the class under noise that the radius
      comes from (for two sub-images float[..., 2]), also where abstained. Rounded down.
    confidence: float[...], the probability at least that the statement is true, over the noise
      draws, for each example by itself.
  """

  label: Array
  radius: Array
  lower: Array
  confidence: Array


class Prediction(NamedTuple):
  """The answer of a smoothed classifier.

  Attributes:
    label: int32[...], the class, or -1 where the votes do not decide.
    p_value: float[...], of the test that the two largest classes are equally likely. Rounded up.
    confidence: float[...], the probability at least that a class that is returned is that of the
      smoothed classifier, over the noise draws, for each example by itself.
  """

  label: Array
  p_value: Array
  confidence: Array


def vote_counts(
  fn: Callable[[Array], Array],
  x: ArrayLike,
  key: ArrayLike,
  *,
  sigma: ArrayLike,
  num_samples: int,
  batch_size: int = 500,
  axis_name: str | None = None,
) -> Array:
  r"""Counts how often a classifier names each class under Gaussian noise on one example.

  Computes n_c = sum_i 1[argmax_k f_k(x + sigma e_i) = c], e_i ~ N(0, I) for num_samples draws,
  batch by batch, so that memory holds one batch of noisy copies.

  Args:
    fn: maps float[batch, ...], noisy copies in the dtype of ``x``, to scores [batch, classes], row
      by row. What it does to its input (normalisation, parts left out) comes after the noise.
    x: float[...], one example without a batch axis: use ``jax.vmap`` or ``jax.lax.map`` over
      examples and keys.
    key: typed PRNG key.
    sigma: > 0, standard deviation of the noise in the units of ``x``, a scalar; may be traced.
    num_samples: static integer >= 1; need not be a multiple of the batch size.
    batch_size: static integer >= 1, noisy copies evaluated at once.
    axis_name: name of a mapped axis (``shard_map``, ``pmap``) whose devices share the draws of the
      same example and key; each returns the counts of all.

  Returns:
    int32[classes]. They sum to num_samples, unless scores are NaN: such a draw counts for no class.
    At a tie of scores the first class gets the vote.

  Raises:
    ValueError: sigma <= 0, a size < 1, or scores of another shape.
    TypeError: x is not floating-point, key is not a typed key, or fn is not callable.

  Note:
    Draw i has a key of its own: the counts do not depend on the batch size nor on the number of
    devices. Examples of 8 and 16 bits a number get their noise in float32, rounded afterwards.

  Example:
    >>> linear = lambda x: x @ jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> x = jnp.array([1.0, 0.0])
    >>> votes = vote_counts(linear, x, jax.random.key(0), sigma=0.5, num_samples=1000)
    >>> int(votes.sum()), bool(votes[0] > 900)  # Phi(1 / sqrt(0.5)) = .921
    (1000, True)

  Reference:
    Cohen, Rosenfeld and Kolter, Certified adversarial robustness via randomized smoothing, 2019,
    figure 2 (SampleUnderNoise).
  """
  _arguments.check_callable("fn", fn)
  clean = _checks.check_float_array("x", x)
  key = _checks.check_key("key", key)
  _checks.check_positive("sigma", sigma, scalar=True)
  total = _checks.check_int("num_samples", num_samples, minimum=1)
  batch = _checks.check_int("batch_size", batch_size, minimum=1)
  wide = numerics.upcast(clean)
  scale = jnp.asarray(sigma, wide.dtype)
  share, first = total, jnp.zeros((), jnp.int32)
  if axis_name is not None:
    share = -(-total // jax.lax.axis_size(axis_name))
    first = share * jax.lax.axis_index(axis_name)
  batch = min(batch, share)

  def votes_of(block: Array) -> Array:
    place = block * batch + jnp.arange(batch, dtype=jnp.int32)  # among the draws of this device
    draw = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), wide.shape, wide.dtype))
    copies = wide[None] + scale * draw(first + place)
    scores = _checks.as_array("fn(x)", fn(copies.astype(clean.dtype)))
    if scores.ndim != 2 or scores.shape[0] != batch or scores.shape[1] < 2:
      raise ValueError(
        f"fn must return scores of shape ({batch}, classes), at least two classes; "
        f"got {scores.shape}."
      )
    is_vote = (place < share) & (first + place < total) & ~jnp.any(jnp.isnan(scores), axis=1)
    votes = jax.nn.one_hot(jnp.argmax(scores, axis=1), scores.shape[1], dtype=jnp.int32)
    return jnp.sum(jnp.where(is_vote[:, None], votes, 0), axis=0)

  blocks = jnp.arange(-(-share // batch), dtype=jnp.int32)
  counts = jnp.sum(jax.lax.map(votes_of, blocks), axis=0, dtype=jnp.int32)
  return counts if axis_name is None else jax.lax.psum(counts, axis_name)


def smoothing_votes(
  fn: Callable[[Array], Array],
  x: ArrayLike,
  key: ArrayLike,
  *,
  sigma: ArrayLike,
  num_samples: int = 100_000,
  num_selection: int = 100,
  batch_size: int = 500,
  axis_name: str | None = None,
) -> SmoothingVotes:
  r"""The two independent sets of votes that a certificate of one example needs.

  Takes num_selection votes, which are to name the class, and num_samples fresh ones, which are to
  bound its probability, with keys of their own.

  Args:
    fn: as in ``vote_counts``.
    x: float[...], one example.
    key: typed PRNG key.
    sigma: > 0, standard deviation of the noise in the units of ``x``, a scalar; may be traced.
    num_samples: static integer >= 1.
    num_selection: static integer >= 1.
    batch_size: static integer >= 1, noisy copies evaluated at once.
    axis_name: as in ``vote_counts``.

  Returns:
    ``SmoothingVotes``, to be passed to ``certify_votes`` outside of ``jit``.

  Raises:
    ValueError: sigma <= 0, a size < 1, or scores of another shape.
    TypeError: x is not floating-point, key is not a typed key, or fn is not callable.

  Example:
    Compiled once for all batches of examples:

    >>> linear = lambda x: x @ jnp.eye(2)
    >>> votes = jax.jit(jax.vmap(
    ...   lambda x, key: smoothing_votes(linear, x, key, sigma=0.5, num_samples=1000)))
    >>> x, keys = jnp.array([[1.0, 0.0], [0.1, 0.0]]), jax.random.split(jax.random.key(0), 2)
    >>> found = certify_votes(votes(x, keys), num_samples=1000, sigma=0.5)
    >>> found.label.tolist(), bool(found.radius[0] < 1 / jnp.sqrt(2.0))
    ([0, -1], True)

  Reference:
    Cohen, Rosenfeld and Kolter, Certified adversarial robustness via randomized smoothing, 2019,
    figure 2 (Certify).
  """
  select, bound = jax.random.split(_checks.check_key("key", key))
  count = _checks.check_int("num_selection", num_selection, minimum=1)
  options: dict[str, Any] = {"sigma": sigma, "batch_size": batch_size, "axis_name": axis_name}
  return SmoothingVotes(
    vote_counts(fn, x, select, num_samples=count, **options),
    vote_counts(fn, x, bound, num_samples=num_samples, **options),
  )


def certify_votes(
  votes: SmoothingVotes, *, num_samples: int, sigma: ArrayLike, alpha: ArrayLike = 0.001
) -> Certificate:
  r"""Class and certified l2 radius of a smoothed classifier, from its votes.

  Takes A = argmax_c selection_c and p, the Clopper-Pearson lower bound at level alpha from
  counts_A of num_samples; the radius is sigma Phi^{-1}(p), and where p <= 1/2 it abstains.

  Args:
    votes: ``SmoothingVotes``, or a pair (selection, counts) of int[..., classes] from different
      keys.
    num_samples: static integer >= 1, the draws behind ``counts``.
    sigma: > 0, standard deviation of the noise; a scalar or an array of one an example.
    alpha: in (0, 1), the probability of a wrong certificate that is accepted, for each example.

  Returns:
    ``Certificate`` of arrays of the votes' leading shape.

  Raises:
    ValueError: shapes do not agree, counts that are negative or sum to more than num_samples,
      sigma <= 0 or alpha is not in (0, 1).
    TypeError: votes are not integers; or they are traced and JAX has no float64.

  Note:
    Computed in float64 and rounded down, on the host where the votes are known: see
    ``clopper_pearson_lower``. Under ``jit`` in float64 it abstains where counts are negative or sum
    to more than num_samples, or alpha or sigma is out of range. Certificates hold one by one; for
    a statement on all of m examples take alpha / m. The radius is that of noise in
    exact arithmetic.

  Example:
    >>> votes = SmoothingVotes(jnp.array([90, 10]), jnp.array([950, 50]))
    >>> found = certify_votes(votes, num_samples=1000, sigma=0.5)
    >>> print(f"{found.label} {found.radius:.3f} {found.lower:.4f} {found.confidence:.3f}")
    0 0.720 0.9250 0.999

  Reference:
    Cohen, Rosenfeld and Kolter, Certified adversarial robustness via randomized smoothing, 2019,
    figure 2 (Certify) and theorem 1.
  """
  selection, counts = check_votes(votes, num_samples)
  _checks.check_interval("alpha", alpha, 0, 1, closed="neither")
  _checks.check_positive("sigma", sigma)
  label = jnp.argmax(selection, axis=-1).astype(jnp.int32)
  top = jnp.take_along_axis(counts, label[..., None], axis=-1)[..., 0]
  top = possible(top, counts, num_samples)
  (k, n, level), known = _float64.numbers(votes=top, num_samples=num_samples, alpha=alpha)
  lower = _float64.beta_lower(k, n, level, known)
  radius = smoothed_radius(lower, sigma=sigma)
  return certificate(label, lower > 0.5, lower, radius, alpha)


def certificate(label: Array, is_certified: Any, lower: Any, radius: Array, alpha: Any) -> Any:
  """A certificate; abstains where it says nothing."""
  is_certified = is_certified & ~jnp.isnan(radius)
  label = jnp.where(is_certified, label, ABSTAIN)
  lib: Any = np if _checks.is_concrete(alpha) else jnp
  confidence = _float64.round_down(1 - lib.asarray(alpha, np.float64))
  return Certificate(
    label,
    jnp.where(is_certified, radius, 0),
    _float64.round_down(lower),
    jnp.broadcast_to(confidence, label.shape),
  )


def check_votes(votes: Any, num_samples: Any, *, min_rank: int = 1) -> tuple[Array, Array]:
  """Two arrays of counts of equal shape, which known draws allow."""
  selection, counts = _arguments.parts(votes, "selection", "counts", name="votes")
  n = _checks.check_int("num_samples", num_samples, minimum=1)
  selection = _checks.check_integers("selection", selection, low=0)
  counts = _checks.check_integers("counts", counts, low=0)
  _checks.check_same_shape("selection", selection, "counts", counts)
  if counts.ndim < min_rank or counts.shape[-1] < 2:
    raise ValueError(
      f"votes must have at least {min_rank} axes, the last one of at least two classes; "
      f"got {counts.shape}."
    )
  if _checks.is_concrete(counts):
    most = np.max(np.sum(np.asarray(counts, np.int64), axis=-1), initial=0)
    if most > n:
      raise ValueError(f"counts must sum to at most num_samples, {n}; got {most}.")
  return selection, counts


def possible(top: Array, counts: Array, num_samples: int) -> Array:
  """The counts of one class; where those of all are impossible, and traced, one that is."""
  if _checks.is_concrete(counts) or not _float64.has_float64():
    return top
  total = jnp.sum(counts, axis=-1, dtype=jnp.int64)
  is_possible = jnp.all(counts >= 0, axis=-1) & (total <= num_samples)
  return jnp.where(is_possible, top, -1)


def predict_votes(counts: ArrayLike, *, alpha: ArrayLike = 0.001) -> Prediction:
  r"""Class of a smoothed classifier, from its votes; abstains where they do not decide.

  Tests by ``binomial_test`` whether the largest count a and the second largest b can come from
  equally likely classes, and abstains where the p-value is above alpha.

  Args:
    counts: int[..., classes] votes, such as from ``vote_counts``.
    alpha: in (0, 1), the probability of a wrong answer that is accepted, for each example.

  Returns:
    ``Prediction`` of arrays of the counts' leading shape.

  Raises:
    ValueError: counts are negative or of fewer than two classes, or alpha is not in (0, 1).
    TypeError: counts are not integers; or they are traced and JAX has no float64.

  Note:
    A tie has p-value 1. Computed in float64: see ``clopper_pearson_lower``.

  Example:
    >>> predict_votes(jnp.array([[80, 15, 5], [40, 35, 25]])).label
    Array([ 0, -1], dtype=int32)

  Reference:
    Cohen, Rosenfeld and Kolter, Certified adversarial robustness via randomized smoothing, 2019,
    figure 2 (Predict); Hung and Fithian, Rank verification for exponential families, 2019.
  """
  array = _checks.check_integers("counts", counts, low=0)
  if array.ndim < 1 or array.shape[-1] < 2:
    raise ValueError(f"counts must have at least two classes; got shape {array.shape}.")
  _checks.check_interval("alpha", alpha, 0, 1, closed="neither")
  top, index = jax.lax.top_k(array, 2)
  (k, n, level), known = _float64.numbers(counts=top[..., 0], n=jnp.sum(top, axis=-1), alpha=alpha)
  p_value = _float64.fair_coin(k, n, known)
  label = jnp.where(p_value <= level, index[..., 0].astype(jnp.int32), ABSTAIN)
  lib: Any = np if known else jnp
  confidence = _float64.round_down(lib.broadcast_to(1 - level, p_value.shape))
  return Prediction(label, _float64.round_up(p_value), confidence)


def certify_smoothed(
  fn: Callable[[Array], Array],
  x: ArrayLike,
  key: ArrayLike,
  *,
  sigma: ArrayLike,
  num_samples: int = 10_000,
  num_selection: int = 100,
  alpha: ArrayLike = 0.001,
  batch_size: int = 500,
) -> Certificate:
  r"""Certifies a batch of examples by randomized smoothing: votes, bound and radius.

  Computes the class A that wins num_selection votes under noise N(0, sigma^2 I), the
  Clopper-Pearson lower bound p on its probability from num_samples fresh votes, and the radius
  sigma Phi^{-1}(p), example after example.

  Args:
    fn: maps float[batch, ...], noisy copies, to scores [batch, classes], row by row.
    x: float[examples, ...].
    key: typed PRNG key.
    sigma: > 0, standard deviation of the noise in the units of ``x``, a scalar.
    num_samples: static integer >= 1; 100000 in much of the literature.
    num_selection: static integer >= 1.
    alpha: in (0, 1), the probability of a wrong certificate that is accepted, for each example.
    batch_size: static integer >= 1, noisy copies evaluated at once.

  Returns:
    ``Certificate`` of arrays [examples].

  Raises:
    ValueError: sigma <= 0, a size < 1, scores of another shape, or alpha is not in (0, 1).
    TypeError: x is not floating-point, key is not a typed key, or fn is not callable; or it is
      traced and JAX has no float64.

  Note:
    Each call compiles the votes. For many batches compile ``smoothing_votes`` once and pass its
    result to ``certify_votes``.

  Example:
    >>> linear = lambda x: x @ jnp.eye(2)
    >>> x = jnp.array([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> found = certify_smoothed(linear, x, jax.random.key(0), sigma=0.5, num_samples=1000)
    >>> found.label.tolist()
    [0, 1, -1]

  Reference:
    Cohen, Rosenfeld and Kolter, Certified adversarial robustness via randomized smoothing, 2019,
    figure 2 (Certify).
  """
  array = _checks.check_float_array("x", x, min_rank=1)
  _checks.check_positive("sigma", sigma, scalar=True)
  _checks.check_interval("alpha", alpha, 0, 1, closed="neither")
  keys = jax.random.split(_checks.check_key("key", key), array.shape[0])
  # The noise has this deviation, rounded as it is; so has the radius.
  scale = jnp.asarray(sigma, numerics.upcast(array).dtype)
  sizes: dict[str, Any] = {"num_samples": num_samples, "num_selection": num_selection}
  one = lambda pair: smoothing_votes(fn, *pair, sigma=scale, batch_size=batch_size, **sizes)
  votes = jax.lax.map(one, (array, keys))
  return certify_votes(votes, num_samples=num_samples, sigma=scale, alpha=alpha)
