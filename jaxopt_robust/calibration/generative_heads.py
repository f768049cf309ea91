"""Linear heads on frozen features: Gaussian naive Bayes beside multinomial logistic regression."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import safe_divide
from jaxopt_robust.solvers import from_optax, run_until
from jaxopt_robust.solvers.types import SolveInfo
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "LinearHead",
  "NaiveBayesStats",
  "linear_head_logits",
  "logistic_head",
  "naive_bayes_head",
  "naive_bayes_init",
  "naive_bayes_merge",
  "naive_bayes_update",
]


class NaiveBayesStats(NamedTuple):
  """What Gaussian naive Bayes needs to know of the examples seen so far.

  Attributes:
    count: float[classes], their number (or sum of weights).
    mean: float[classes, features], their mean; 0 for a class without examples.
    deviations: float[classes, features], the sum of the squared deviations from that mean.
  """

  count: Array  # type: ignore[assignment]
  mean: Array
  deviations: Array


class LinearHead(NamedTuple):
  """A linear classifier of features: logits (x - center) W^T + b.

  Attributes:
    weights: float[classes, features], W.
    intercepts: float[classes], b.
    center: float[features], what is subtracted first, so that no digits are lost where features lie
      far from 0.
  """

  weights: Array
  intercepts: Array
  center: Array


def naive_bayes_init(
  *, num_classes: int, num_features: int, dtype: object = None
) -> NaiveBayesStats:
  """Statistics of no example.

  Args:
    num_classes: static integer >= 1.
    num_features: static integer >= 1.
    dtype: floating-point type of the statistics; None is the default one.

  Returns:
    NaiveBayesStats of zeros.

  Raises:
    ValueError: a size is < 1.
    TypeError: a size is no integer, or dtype is not floating-point or half-precision.

  Example:
    >>> naive_bayes_init(num_classes=2, num_features=3).mean.shape
    (2, 3)

  Reference:
    Zheng, Wu, Bao, Cao, Li and Zhu, Revisiting discriminative vs. generative classifiers: theory
    and implications, 2023 (incremental statistics of their code).
  """
  classes = _checks.check_int("num_classes", num_classes, minimum=1)
  features = _checks.check_int("num_features", num_features, minimum=1)
  dtype = _checks.check_float_dtype(dtype, wide=True)
  return NaiveBayesStats(
    jnp.zeros(classes, dtype), jnp.zeros((classes, features), dtype),
    jnp.zeros((classes, features), dtype),
  )  # fmt: skip


def naive_bayes_merge(a: NaiveBayesStats, b: NaiveBayesStats) -> NaiveBayesStats:
  r"""Statistics of two sets of examples together, from those of each.

  Computes for every class m = m_a + m_b, mu = (m_a mu_a + m_b mu_b) / m and
  S = S_a + S_b + (m_a m_b / m) (mu_a - mu_b)^2: exact, associative and commutative up to rounding,
  so that devices or shards count for themselves and merge in any order.

  Args:
    a: NaiveBayesStats.
    b: NaiveBayesStats of the same shapes.

  Returns:
    NaiveBayesStats.

  Raises:
    TypeError: an argument is no NaiveBayesStats.
    ValueError: the shapes differ.

  Example:
    >>> one = naive_bayes_update(naive_bayes_init(num_classes=1, num_features=1),
    ...                          jnp.array([[1.0], [3.0]]), jnp.array([0, 0]))
    >>> both = naive_bayes_merge(one, one)
    >>> float(both.count[0]), float(both.mean[0, 0]), float(both.deviations[0, 0])
    (4.0, 2.0, 4.0)

  Reference:
    Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample
    variances, 1979.
  """
  _arguments.check_state("a", a, NaiveBayesStats)
  _arguments.check_state("b", b, NaiveBayesStats)
  _checks.check_same_shape("a.mean", a.mean, "b.mean", b.mean)
  count = a.count + b.count
  share = safe_divide(b.count, count)[:, None]
  apart = b.mean - a.mean
  # From the mean of the larger set, so that one that is empty changes nothing.
  mean = jnp.where(share > 0.5, b.mean - (1 - share) * apart, a.mean + share * apart)
  between = (a.count * safe_divide(b.count, count))[:, None] * apart**2
  return NaiveBayesStats(count, mean, a.deviations + b.deviations + between)


def naive_bayes_update(
  stats: NaiveBayesStats,
  x: ArrayLike,
  labels: ArrayLike,
  *,
  where: ArrayLike | None = None,
) -> NaiveBayesStats:
  """Statistics with a batch of examples added.

  The moments of the batch are taken around its own class means and merged as in
  ``naive_bayes_merge``: no sum of squares of the raw features, which would cancel.

  Args:
    stats: NaiveBayesStats of the examples before.
    x: float[batch, features].
    labels: int[batch] in [0, classes).
    where: bool[batch]; rows where it is false count for nothing, whatever they hold.

  Returns:
    NaiveBayesStats in the dtype of ``stats``.

  Raises:
    ValueError: shapes do not agree or a known label is out of range.
    TypeError: stats is no NaiveBayesStats, x is not floating-point, labels are no integers or where
      is not boolean.

  Note:
    Under ``jit`` a label out of range counts as no class. Rows in use that are not finite
    make the statistics so. Counts in float32 stop growing one by one at 2^24 = 16,777,216: from
    there on take larger batches, or float64.

  Example:
    >>> stats = naive_bayes_init(num_classes=2, num_features=1)
    >>> stats = naive_bayes_update(stats, jnp.array([[1.0], [5.0], [3.0]]), jnp.array([0, 1, 0]))
    >>> stats.mean[:, 0], stats.deviations[:, 0]
    (Array([2., 5.], dtype=float32), Array([2., 0.], dtype=float32))

  Reference:
    Zheng, Wu, Bao, Cao, Li and Zhu, Revisiting discriminative vs. generative classifiers: theory
    and implications, 2023 (incremental statistics of their code).
  """
  _arguments.check_state("stats", stats, NaiveBayesStats)
  classes, features = stats.mean.shape
  x = _checks.check_float_array("x", x, rank=2)
  if x.shape[1] != features:
    raise ValueError(f"x must have {features} features, as stats have; got shape {x.shape}.")
  mask = _checks.check_mask("where", where, shape=x.shape[:1])
  labels = _checks.check_labels(
    "labels", labels, shape=x.shape[:1], num_classes=classes, where=mask
  )
  x = x.astype(stats.mean.dtype)
  one_hot = jax.nn.one_hot(labels, classes, dtype=x.dtype)
  if mask is not None:
    one_hot = jnp.where(mask[:, None], one_hot, 0)
    x = jnp.where(mask[:, None], x, 0)
  total = lambda values: jnp.matmul(one_hot.T, values, precision="highest")
  count = jnp.sum(one_hot, axis=0)
  # Around some example of each class first: means of numbers far from 0 keep their digits.
  base = x[jnp.argmax(one_hot, axis=0)]
  of_row = lambda table: jnp.take(table, labels, axis=0, mode="clip")
  shift = safe_divide(total(x - of_row(base)), count[:, None])
  mean = jnp.where(count[:, None] > 0, base + shift, 0)
  rest = x - of_row(base) - of_row(shift)
  return naive_bayes_merge(stats, NaiveBayesStats(count, mean, total(rest**2)))


def naive_bayes_head(stats: NaiveBayesStats, *, var_smoothing: ArrayLike = 1e-9) -> LinearHead:
  r"""The linear classifier of Gaussian naive Bayes with one diagonal variance for all classes.

  With class frequencies pi_k = m_k / m, means mu_k and the pooled variance
  v = sum_k S_k / m + eps (biased: 1/m), the score of class k is
  log pi_k - 1/2 sum_j (x_j - mu_kj)^2 / v_j, up to a term that all classes share: linear in x, with
  W_k = (mu_k - c) / v and b_k = log pi_k - 1/2 sum_j (mu_kj - c_j)^2 / v_j around the mean c of all
  examples.

  Args:
    stats: NaiveBayesStats.
    var_smoothing: >= 0, a scalar; may be traced. eps is this share of the largest variance of a
      feature over all examples, as in scikit-learn.

  Returns:
    LinearHead. A class without examples has intercept -inf and weights 0: it is never predicted.
    Features that do not vary at all get weight 0, and so do, at var_smoothing = 0, those that
    differ between the classes alone, whose weights would be infinite. Without any example all
    intercepts are 0.

  Raises:
    TypeError: stats is no NaiveBayesStats.
    ValueError: var_smoothing is negative or no scalar.

  Note:
    scikit-learn's ``GaussianNB`` has variances of its own for every class and so is quadratic; the
    two agree where those are equal. Constant features of some classes make v small: raise
    var_smoothing (1e-2 is better than 1e-9 on pixels).

  Example:
    >>> stats = naive_bayes_init(num_classes=2, num_features=1)
    >>> x = jnp.array([[-1.5], [-0.5], [0.5], [1.5]])
    >>> head = naive_bayes_head(naive_bayes_update(stats, x, jnp.array([0, 0, 1, 1])))
    >>> scores = linear_head_logits(head, jnp.array([0.25]))
    >>> print(f"{scores[1] - scores[0]:.3f}")  # (mu_1 - mu_0) x / v, v = .25
    2.000

  Reference:
    Zheng, Wu, Bao, Cao, Li and Zhu, Revisiting discriminative vs. generative classifiers: theory
    and implications, 2023, section 3 (multiclass naive Bayes with shared variances; smoothing as in
    scikit-learn, in place of an absolute 1e-9).
  """
  _arguments.check_state("stats", stats, NaiveBayesStats)
  _checks.check_non_negative("var_smoothing", var_smoothing, scalar=True)
  count, mean, deviations = stats
  total = jnp.sum(count)
  prior = safe_divide(count, total)
  seen = count > 0
  # Around the mean of a class that occurs: the others' means of 0 may lie far away.
  base = mean[jnp.argmax(seen)]
  apart = jnp.where(seen[:, None], mean - base[None], 0)
  shift = prior @ apart
  apart = jnp.where(seen[:, None], apart - shift[None], 0)
  within = safe_divide(jnp.sum(deviations, axis=0), total)
  spread = within + prior @ apart**2
  variance = within + jnp.asarray(var_smoothing, mean.dtype) * jnp.max(spread)
  weights = safe_divide(apart, variance[None])
  frequency = jnp.where(total > 0, jnp.log(jnp.where(seen, prior, 1)), 0)
  intercepts = frequency - 0.5 * jnp.sum(weights * apart, axis=1)
  intercepts = jnp.where(seen | (total == 0), intercepts, -jnp.inf)
  return LinearHead(weights, intercepts, base + shift)


def linear_head_logits(head: LinearHead, x: ArrayLike) -> Array:
  r"""Scores of the classes, (x - center) W^T + b.

  Args:
    head: LinearHead.
    x: float[..., features].

  Returns:
    float[..., classes]: log posteriors up to a shared term for naive Bayes, logits of a softmax for
    logistic regression.

  Raises:
    TypeError: head is no LinearHead or x is not floating-point.
    ValueError: x has another number of features.

  Example:
    >>> head = LinearHead(jnp.array([[1.0], [-1.0]]), jnp.zeros(2), jnp.array([2.0]))
    >>> linear_head_logits(head, jnp.array([5.0]))
    Array([ 3., -3.], dtype=float32)

  Reference:
    Zheng, Wu, Bao, Cao, Li and Zhu, Revisiting discriminative vs. generative classifiers: theory
    and implications, 2023, section 3.
  """
  _arguments.check_state("head", head, LinearHead)
  x = _checks.check_float_array("x", x, min_rank=1)
  if x.shape[-1] != head.center.shape[0]:
    raise ValueError(f"x must have {head.center.shape[0]} features; got shape {x.shape}.")
  moved = x.astype(head.center.dtype) - jnp.broadcast_to(head.center, x.shape)
  logits = jnp.matmul(moved, head.weights.T, precision="highest")
  return logits + jnp.broadcast_to(head.intercepts, logits.shape)


def _regularized_cross_entropy(
  params: tuple[Array, Array], x: Array, labels: Array, weights: Array, decay: Array
) -> Array:
  """sum_i w_i CE_i + 1/2 sum_kj decay_j W_kj^2, the weights of sum one."""
  matrix, intercepts = params
  logits = jnp.matmul(x, matrix.T, precision="highest") + intercepts[None]
  log_p = jax.nn.log_softmax(logits)
  own = jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]
  return -jnp.sum(jnp.where(weights > 0, weights * own, 0)) + 0.5 * jnp.sum(decay[None] * matrix**2)


_LOGISTIC = from_optax(_regularized_cross_entropy, optax.lbfgs())


def logistic_head(
  x: ArrayLike,
  labels: ArrayLike,
  *,
  num_classes: int,
  inverse_strength: ArrayLike = 1.0,
  where: ArrayLike | None = None,
  tol: ArrayLike = 1e-5,
  max_steps: ArrayLike = 1000,
) -> tuple[LinearHead, SolveInfo]:
  r"""Multinomial logistic regression with a ridge penalty, by L-BFGS.

  Minimises C sum_i CE_i + 1/2 ||W||_F^2 over W and b with C = inverse_strength, the intercepts b
  without a penalty: scikit-learn's ``LogisticRegression(C=C)`` for three classes or more, and its
  ``LogisticRegression(C=2 * C)`` for two, where it penalises W_1 - W_0. It is solved divided by C
  times the number of examples, with the features centred and each weight in a unit of its own,
  which changes neither the solution nor what C means.

  Args:
    x: float[n, features].
    labels: int[n] in [0, num_classes).
    num_classes: static integer >= 2.
    inverse_strength: C > 0, a scalar; may be traced.
    where: bool[n]; rows where it is false count for nothing, whatever they hold.
    tol: >= 0, the norm of the gradient of the scaled problem at which the solve stops; may be
      traced.
    max_steps: >= 0; may be traced.

  Returns:
    ``(head, info)``: LinearHead and SolveInfo. The intercepts sum to 0; without any example the
    head is 0. Under ``jit`` a label out of range in a row in use gives status 2.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, num_classes < 2,
      inverse_strength <= 0, or x is empty.
    TypeError: x is not floating-point, labels are no integers or where is not boolean.

  Note:
    The intercept of a class without examples runs to -inf; ``tol`` ends that. Under ``vmap`` the
    loop runs as long as the slowest solve.

  Example:
    >>> x = jnp.array([[-1.0], [1.0], [-2.0], [2.0]])
    >>> head, info = logistic_head(x, jnp.array([0, 1, 0, 1]), num_classes=2)
    >>> jnp.argmax(linear_head_logits(head, x), axis=1), int(info.status)
    (Array([0, 1, 0, 1], dtype=int32), 0)

  Reference:
    Zheng, Wu, Bao, Cao, Li and Zhu, Revisiting discriminative vs. generative classifiers: theory
    and implications, 2023, section 3 (their settings: C = 1, at most 1000 steps of L-BFGS).
  """
  classes = _checks.check_int("num_classes", num_classes, minimum=2)
  x = _checks.check_float_array("x", x, rank=2)
  _checks.check_positive("inverse_strength", inverse_strength, scalar=True)
  mask = _checks.check_mask("where", where, shape=x.shape[:1])
  labels = _checks.check_labels(
    "labels", labels, shape=x.shape[:1], num_classes=classes, where=mask
  )
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  kept = jnp.ones(x.shape[0], wide.dtype) if mask is None else mask.astype(wide.dtype)
  wide = jnp.where(kept[:, None] > 0, wide, 0)
  total = jnp.sum(kept)
  weights = safe_divide(kept, total)
  base = wide[jnp.argmax(kept)]
  center = base + weights @ jnp.where(kept[:, None] > 0, wide - base[None], 0)
  moved = jnp.where(kept[:, None] > 0, wide - center[None], 0)
  largest = jnp.max(jnp.abs(moved))
  moved = safe_divide(moved, largest)
  # Each weight in the unit that makes its curvature about one: features of all sizes are solved to
  # the same accuracy. 1/2 ||W||^2 / (C m) is that of root^2.
  root = safe_divide(1, jnp.sqrt(jnp.asarray(inverse_strength, wide.dtype) * total) * largest)
  unit = jnp.hypot(jnp.sqrt(jnp.sum(weights[:, None] * moved**2, axis=0)), root)
  unit = jnp.where(unit > 0, unit, 1)
  moved, decay = moved / unit[None], (root / unit) ** 2
  is_bad = jnp.any((kept > 0) & ((labels < 0) | (labels >= classes)))
  weights = weights + jnp.where(is_bad, jnp.nan, 0).astype(weights.dtype)
  labels = jnp.clip(labels, 0, classes - 1)
  start = (jnp.zeros((classes, x.shape[1]), wide.dtype), jnp.zeros(classes, wide.dtype))
  (matrix, intercepts), info = run_until(
    _LOGISTIC, start, None, moved, labels, weights, decay, tol=tol, max_steps=max_steps
  )
  matrix = safe_divide(matrix / unit[None], largest)
  return LinearHead(matrix, intercepts - jnp.mean(intercepts), center), info
