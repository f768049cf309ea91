"""h-calibration: gaps of probabilities and outcomes in windows of sorted events, as a loss."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.calibration import _bins, _events, _logits
from jaxopt_robust.calibration.debiased_metrics import debiased_calibration_error
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["RecalibrationInfo", "h_calibration_loss", "recalibrate"]

_LLOYD_STEPS = 25
_CLUSTER_SLACK = 1e-5  # beside the size of a cluster, as in the authors' code


def h_calibration_loss(
  probs: ArrayLike,
  labels: ArrayLike,
  *,
  window: int = 200,
  tolerance: ArrayLike = 0.0,
  weighting: str = "kmeans",
  num_clusters: int = 15,
  leave_one_class_out: bool = False,
  scale: ArrayLike = 1e5,
  where: ArrayLike | None = None,
) -> Array:
  r"""Calibration error of every class as a loss: gaps averaged over windows of sorted events.

  The n C events (row i has class k) have probabilities p and outcomes o in {0, 1}. Sorted by p,
  computes scale times a mean of max(T_i - tolerance, 0) with
  T_i = |sum_{|j - i| <= window/2} (p_j - o_j)| / (window + 1), where events beyond both ends count
  as 0. Calibrated probabilities have T near sqrt(2 p (1 - p) / (pi (window + 1))).

  Args:
    probs: float[n, classes] probabilities (not logits) of all calibration rows at once: a minibatch
      changes what a window means.
    labels: int[n] in [0, classes).
    window: static even integer >= 0. 200 for 20,000 events and more; fewer events want about a
      hundredth of their number, 20 at least.
    tolerance: >= 0, a scalar; may be traced. Gaps up to it cost nothing.
    weighting: ``"kmeans"``: the mean over clusters of p of the mean in each; ``"width"``: the same
      of bins of equal width; ``"mean"``: over all events.
    num_clusters: static integer >= 1, clusters or bins.
    leave_one_class_out: static. The mean over the classes of the loss of the rows that have another
      label: classes sorts instead of one.
    scale: > 0, a scalar; may be traced. Large, so that the epsilon of Adam does not matter.
    where: bool[n]; rows where it is false are ignored, whatever they hold.

  Returns:
    float scalar >= 0, at least float32; 0 if no row is kept, NaN where a kept row is not finite.

  Raises:
    ValueError: shapes do not agree, known values are no probabilities, a known label is out of
      range, window is odd, num_clusters < 1, tolerance < 0, scale <= 0, or an unknown weighting.
    TypeError: probs are not floating-point, labels are not integers, where is not boolean.

  Note:
    Clusters are Lloyd's after 25 steps from centres spread evenly between the least and the largest
    probability; the value depends on that start (by a fifth, say), the minimiser hardly. Order and
    clusters are constants for the derivative, which is 0 where a gap is 0 or at the tolerance.
    Equal probabilities stay in the order of the rows, and windows that cut through them see it.

  Example:
    >>> probs, labels = jnp.full((4, 2), 0.5), jnp.array([0, 1, 0, 1])
    >>> h_calibration_loss(probs, labels, window=16).round(1)
    Array(0., dtype=float32)

  Reference:
    Huang, Cao, Xia, Chen, Wang and Zhang, h-calibration: rethinking classifier recalibration with
    probabilistic error-bounded objective, 2025, and the authors' code. Only this loss is taken from
    there, none of its theorems.
  """
  given = _events.check_probs(probs, labels, where, rank=2)
  window = _checks.check_int("window", window, minimum=0)
  if window % 2:
    raise ValueError(f"window must be even; got {window}.")
  _arguments.check_option("weighting", weighting, ("kmeans", "width", "mean"))
  num_clusters = _checks.check_int("num_clusters", num_clusters, minimum=1)
  _checks.check_non_negative("tolerance", tolerance, scalar=True)
  _checks.check_positive("scale", scale, scalar=True)
  value = _loss(
    given,
    jnp.asarray(tolerance, given.probs.dtype),
    window,
    weighting,
    num_clusters,
    bool(leave_one_class_out),
  )
  return value * jnp.asarray(scale, value.dtype)


@partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _loss(
  given: _events.Probabilities,
  tolerance: Array,
  window: int,
  weighting: str,
  num_clusters: int,
  leave_one_class_out: bool,
) -> Array:
  given, poison = _events.clean(given)
  gap = given.probs - _events.one_hot(given)
  one = lambda keep: _of_rows(given.probs, gap, keep, tolerance, window, weighting, num_clusters)
  if not leave_one_class_out:
    return one(given.keep) + poison
  classes = jnp.arange(gap.shape[1], dtype=given.labels.dtype)
  value = jax.vmap(lambda c: one(given.keep & (given.labels != c)))(classes)
  return jnp.mean(value) + poison


def _of_rows(
  probs: Array,
  gap: Array,
  keep: Array,
  tolerance: Array,
  window: int,
  weighting: str,
  num_clusters: int,
) -> Array:
  """The loss of the rows that are kept, before its scale."""
  use = jnp.broadcast_to(keep[:, None], probs.shape).ravel()
  flat = jnp.where(use, jax.lax.stop_gradient(probs).ravel(), jnp.inf)
  order = jnp.argsort(flat)  # stable; what is masked comes last
  count = jnp.sum(use, dtype=jnp.int32)
  kept = jnp.arange(len(flat)) < count
  take = lambda v: v.ravel().at[order].get(unique_indices=True, mode="promise_in_bounds")
  sums = window_sums(jnp.where(kept, take(gap), 0), window + 1)
  excess = jax.nn.relu(jnp.abs(sums) / (window + 1) - tolerance)
  excess = jnp.where(kept, excess, 0)
  if weighting == "mean":
    return jnp.sum(excess) / jnp.maximum(count, 1)
  ordered = take(jnp.where(use, flat, 0).reshape(probs.shape))
  if weighting == "kmeans":
    ends = kmeans_sorted(ordered, count, num_clusters)[1:-1]
    cluster = jnp.searchsorted(ends, jnp.arange(len(flat)), side="right", method="compare_all")
  else:
    cluster = _bins.find_bin(_bins.width_edges(num_clusters, ordered.dtype), ordered)
  cluster = jnp.where(kept, cluster, num_clusters)
  add = lambda v: jax.ops.segment_sum(v, cluster, num_segments=num_clusters)
  size = add(jnp.ones_like(excess))
  return jnp.mean(add(excess) / (size + _CLUSTER_SLACK))


def window_sums(x: Array, length: int) -> Array:
  """Sums over windows of odd length around each entry, zeros beyond the ends.

  From windows of 1, 2, 4, ... entries: each sum has log(length) roundings, unlike differences of a
  cumulative sum.
  """
  half = length // 2
  size = len(x)
  part = jnp.pad(x, (half, half))  # windows of `width` entries that begin at each place
  total, done, width = jnp.zeros_like(x), 0, 1
  while width <= length:
    if length & width:
      total = total + jax.lax.dynamic_slice_in_dim(part, done, size)
      done += width
    if 2 * width <= length:
      part = part + jnp.pad(part[width:], (0, min(width, len(part))))[: len(part)]
    width *= 2
  return total


def kmeans_sorted(ordered: Array, count: Array, num_clusters: int) -> Array:
  """Ends of the clusters of Lloyd's algorithm on the first ``count`` entries of a sorted array.

  int32[num_clusters + 1], from 0 to ``count``. A cluster that is empty keeps its centre.
  """
  kept = jnp.arange(len(ordered)) < count
  low, high = ordered[0], ordered[jnp.maximum(count - 1, 0)]
  places = (jnp.arange(num_clusters) + 0.5).astype(ordered.dtype) / num_clusters
  last = jnp.where(kept, ordered, jnp.inf)
  sums = jnp.concatenate([jnp.zeros(1, ordered.dtype), jnp.cumsum(jnp.where(kept, ordered, 0))])

  def ends_of(centres: Array) -> Array:
    middle = (centres[1:] + centres[:-1]) / 2
    inner = jnp.minimum(jnp.searchsorted(last, middle).astype(jnp.int32), count)
    return jnp.concatenate([jnp.zeros(1, jnp.int32), inner, count[None]])

  def step(_: int, centres: Array) -> Array:
    ends = ends_of(centres)
    size = ends[1:] - ends[:-1]
    mean = (sums[ends[1:]] - sums[ends[:-1]]) / jnp.maximum(size, 1)
    return jnp.where(size > 0, mean, centres)

  return ends_of(jax.lax.fori_loop(0, _LLOYD_STEPS, step, low + (high - low) * places))


class RecalibrationInfo(NamedTuple):
  """What happened while a map was fitted.

  Attributes:
    loss: float[num_steps], of the parameters before each update.
    score: float[num_steps], what the selector said of them; lower is better.
    best: int32, the step whose parameters are returned.
    status: int32, 0, or 2 where a loss or a score was not finite.
  """

  loss: Array
  score: Array
  best: Array
  status: Array


def recalibrate(
  apply_fn: Callable[[Any, Array], Array],
  params: PyTree,
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  loss: Callable[..., Array] = h_calibration_loss,
  optimizer: optax.GradientTransformation | None = None,
  num_steps: int = 2000,
  selector: Callable[..., Array] = debiased_calibration_error,
  where: ArrayLike | None = None,
) -> tuple[PyTree, RecalibrationInfo]:
  r"""Fits a map of logits by any loss of probabilities, and keeps the best iterate.

  Takes num_steps steps of the optimizer on loss(softmax(apply_fn(params, z)), y) over all rows at
  once, and returns the iterate with the least selector(softmax(apply_fn(params, z)), y).

  Args:
    apply_fn: maps (params, float[n, classes] logits) to float[n, classes] logits, such as
      ``piecewise_linear_apply``.
    params: pytree of float arrays, where to start.
    logits: float[n, classes] of held-out examples.
    labels: int[n] in [0, classes).
    loss: maps (probs, labels, where=...) to a scalar.
    optimizer: an optax optimizer; Adam with the rate 0.005 by default. It gets the score as
      ``value``, for ``optax.contrib.reduce_on_plateau``.
    num_steps: static integer >= 1.
    selector: maps (probs, labels, where=...) to a scalar: ``debiased_calibration_error`` for the
      predicted class, ``classwise_calibration_error`` for all of them, or
      ``negative_log_likelihood``.
    where: bool[n]; rows where it is false are ignored, whatever they hold.

  Returns:
    ``(params, info)`` with a ``RecalibrationInfo``; the first parameters where no score is finite.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, or num_steps < 1.
    TypeError: apply_fn, loss or selector is not callable, or optimizer is none.

  Note:
    The best iterate is chosen on the rows of the fit, as in the reference. Compile it with
    ``jax.jit`` at the call site when it is called again.

  Example:
    >>> logits = jnp.array([[4.0, 0.0], [0.0, 4.0], [4.0, 0.0]])
    >>> nll = jr.calibration.negative_log_likelihood
    >>> params, info = recalibrate(
    ...   jr.calibration.piecewise_linear_apply, jnp.ones(2), logits, jnp.array([0, 1, 1]),
    ...   loss=nll, selector=nll, num_steps=5)
    >>> bool(info.loss[-1] < info.loss[0]), int(info.best)
    (True, 4)

  Reference:
    Huang, Cao, Xia, Chen, Wang and Zhang, h-calibration: rethinking classifier recalibration with
    probabilistic error-bounded objective, 2025, and the authors' code.
  """
  for name, function in (("apply_fn", apply_fn), ("loss", loss), ("selector", selector)):
    _arguments.check_callable(name, function)
  if optimizer is None:
    optimizer = optax.adam(5e-3)
  _arguments.check_optimizer("optimizer", optimizer)
  num_steps = _checks.check_int("num_steps", num_steps, minimum=1)
  params = _checks.check_float_tree("params", params)
  given = _logits.check_labelled(logits, labels, where)
  keep = given.weight > 0
  update = optax.with_extra_args_support(optimizer).update

  def objective(params: PyTree) -> tuple[Array, Array]:
    probs = jax.nn.softmax(numerics.upcast(apply_fn(params, given.logits)), axis=1)
    score = selector(jax.lax.stop_gradient(probs), given.labels, where=keep)
    return loss(probs, given.labels, where=keep), score

  def step(carry: tuple, count: Array) -> tuple[tuple, tuple[Array, Array]]:
    params, state, kept, least, best = carry
    (value, score), grads = jax.value_and_grad(objective, has_aux=True)(params)
    is_better = score < least
    kept = numerics.tree_where(is_better, params, kept)
    least, best = jnp.where(is_better, score, least), jnp.where(is_better, count, best)
    updates, state = update(grads, state, params, value=score)
    params = optax.apply_updates(params, updates)
    return (params, state, kept, least, best), (value, score)

  dtype = jax.eval_shape(objective, params)[1].dtype
  start = (params, optimizer.init(params), params, jnp.full((), jnp.inf, dtype))
  counts = jnp.arange(num_steps, dtype=jnp.int32)
  carry, (values, scores) = jax.lax.scan(step, (*start, jnp.zeros((), jnp.int32)), counts)
  is_finite = jnp.all(jnp.isfinite(values) & jnp.isfinite(scores))
  status = jnp.where(is_finite, 0, 2).astype(jnp.int32)
  return carry[2], RecalibrationInfo(values, scores, carry[4], status)
