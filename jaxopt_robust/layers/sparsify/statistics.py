"""What calibration batches say about activations, one batch in memory at a time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.layers.sparsify.thresholds import (
  channel_thresholds,
  check_activations,
  check_share,
  check_weights,
  scalar_threshold,
)
from jaxopt_robust.numerics import divisor, safe_norm, upcast
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "GateStats",
  "activation_thresholds",
  "collect_gate_stats",
  "gate_weights",
  "merge_gate_stats",
]


class GateStats(NamedTuple):
  """Sizes of the channels of activations over calibration tokens.

  Attributes:
    rms: float[F], sqrt of the mean of the squares; for many layers a pytree of such arrays.
    mean_abs: float[F], mean of the magnitudes; the same structure.
    count: int32[], number of tokens, 2^31 - 1 where there are more; the same structure.

  Example:
    >>> GateStats._fields
    ('rms', 'mean_abs', 'count')

  Reference:
    He, Wu, Wen, Xue and Li, CHESS: optimizing LLM inference via channel-wise thresholding and
    selective sparsification, 2024. Means in place of their sums: they stay in range over any
    number of tokens, and exact up to 2^31 of them.
  """

  rms: PyTree
  mean_abs: PyTree
  count: PyTree


def merge_gate_stats(first: GateStats, second: GateStats) -> GateStats:
  r"""Statistics of two sets of tokens together, such as of two files or two devices.

  With n = n_1 + n_2 the root mean square is sqrt((n_1 rms_1^2 + n_2 rms_2^2) / n) and the mean
  (n_1 m_1 + n_2 m_2) / n.

  Args:
    first: ``GateStats``.
    second: ``GateStats`` of the same layers.

  Returns:
    ``GateStats`` like ``first``.

  Raises:
    TypeError: an argument is no ``GateStats``.
    ValueError: they are of other layers or shapes.

  Example:
    >>> one, two = (GateStats(jnp.array([s]), jnp.array([s]), jnp.int32(1)) for s in (3.0, 4.0))
    >>> merge_gate_stats(one, two).mean_abs
    Array([3.5], dtype=float32)

  Reference:
    Chan, Golub and LeVeque, Algorithms for computing the sample variance, 1983 (pairwise means).
  """
  first = _arguments.check_state("first", first, GateStats)
  second = _arguments.check_state("second", second, GateStats)
  _checks.check_same_structure("first", first, "second", second)

  def share(n: Array, m: Array) -> Array:
    total = n.astype(jnp.float32) + m.astype(jnp.float32)
    return m / jnp.maximum(total, 1)

  shares = jax.tree.map(share, first.count, second.count)

  def root(a: Array, b: Array, s: Array) -> Array:
    parts = [jnp.sqrt(1 - s).astype(a.dtype) * a, jnp.sqrt(s).astype(b.dtype) * b]
    return safe_norm(jnp.stack(parts), axis=0)

  def together(n: Array, m: Array) -> Array:
    total = n + m
    return jnp.where(total < n, jnp.iinfo(jnp.int32).max, total)

  mean = lambda a, b, s: a + (b - a) * s.astype(a.dtype)
  return GateStats(
    jax.tree.map(root, first.rms, second.rms, shares),
    jax.tree.map(mean, first.mean_abs, second.mean_abs, shares),
    jax.tree.map(together, first.count, second.count),
  )


def _batches(apply_fn: Callable[[Any, Any], PyTree], batches: PyTree) -> tuple[PyTree, int]:
  """Batches as arrays, and their number."""
  _arguments.check_function_of("apply_fn", apply_fn, "params", "batch")
  leaves, treedef = jax.tree.flatten(batches, is_leaf=lambda leaf: leaf is None)
  arrays = [_checks.check_array("batches", leaf, min_rank=1) for leaf in leaves]
  if not arrays:
    raise ValueError("batches must hold at least one array; got an empty pytree.")
  if len({array.shape[0] for array in arrays}) > 1:
    shapes = [array.shape for array in arrays]
    raise ValueError(f"batches must have one leading axis, that of the batches; got {shapes}.")
  return jax.tree.unflatten(treedef, arrays), arrays[0].shape[0]


def collect_gate_stats(
  apply_fn: Callable[[Any, Any], PyTree], params: PyTree, batches: PyTree
) -> GateStats:
  r"""Root mean square and mean magnitude of every channel, over batches that are read one by one.

  Args:
    apply_fn: ``apply_fn(params, batch) -> activations``: one array float[..., F], or a pytree of
      them, one a layer; for CHESS what the gates are multiplied with, a_up = x W_up.
    params: of any network.
    batches: pytree of arrays whose leading axis is that of the batches.

  Returns:
    ``GateStats``; its fields have the structure of the activations. At least float32.

  Raises:
    TypeError: ``apply_fn`` is no function of (params, batch), or an array is not floating-point.
    ValueError: ``batches`` have no common leading axis, or an array is empty.

  Note:
    A scan: one batch of activations is in memory at a time, and what does not lead to them is not
    computed. Batches that do not fit in memory together: call it on parts, ``merge_gate_stats``.
    NaN and infinity reach the statistics.

  Example:
    >>> stats = collect_gate_stats(lambda w, x: x @ w, jnp.eye(2), jnp.array([[[3.0, 0.0]]]))
    >>> stats.rms, int(stats.count)
    (Array([3., 0.], dtype=float32), 1)

  Reference:
    He, Wu, Wen, Xue and Li, CHESS: optimizing LLM inference via channel-wise thresholding and
    selective sparsification, 2024.
  """
  batches, _ = _batches(apply_fn, batches)

  def of_batch(batch: PyTree) -> GateStats:
    found = apply_fn(params, batch)
    rows = jax.tree.map(lambda a: upcast(_rows(a)), found)
    return GateStats(
      jax.tree.map(lambda a: safe_norm(a, axis=0) / jnp.sqrt(jnp.float32(len(a))), rows),
      jax.tree.map(lambda a: jnp.mean(jnp.abs(a), axis=0), rows),
      jax.tree.map(lambda a: jnp.full((), len(a), jnp.int32), rows),
    )

  first = jax.tree.map(lambda leaf: leaf[0], batches)
  shapes = jax.eval_shape(of_batch, first)
  start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
  step = lambda stats, batch: (merge_gate_stats(stats, of_batch(batch)), None)
  return jax.lax.scan(step, start, batches)[0]


def _rows(activations: ArrayLike) -> Array:
  array = _checks.check_float_array("activations", activations, min_rank=1)
  return array.reshape(-1, array.shape[-1])


def gate_weights(stats: GateStats, *, stat: str = "rms", down: PyTree = None) -> PyTree:
  r"""Weights of the channels of a gate, for ``chess_thresholds``.

  They are w_i = rms(a_up_i), or the mean of |a_up_i|; with ``down`` times the norms of its rows,
  n_i = ||W_down[i, :]||_2, over the largest of them: an importance then stands for the error behind
  the last product, not before it.

  Args:
    stats: ``GateStats`` of a_up, of one layer or of many.
    stat: ``"rms"``, from the derivation, or ``"mean_abs"``, as in the authors' newer code.
    down: None, or W_down, float[F, n], a pytree of them like the layers of ``stats``.

  Returns:
    float[F] >= 0, or a pytree of them like the layers of ``stats``.

  Raises:
    TypeError: ``stats`` are no ``GateStats``.
    ValueError: an unknown statistic, or kernels that do not fit the channels.

  Example:
    >>> stats = GateStats(jnp.array([2.0, 1.0]), jnp.array([1.0, 1.0]), jnp.int32(4))
    >>> gate_weights(stats, down=jnp.array([[3.0, 4.0], [0.0, 1.0]]))
    Array([2. , 0.2], dtype=float32)

  Reference:
    He, Wu, Wen, Xue and Li, CHESS: optimizing LLM inference via channel-wise thresholding and
    selective sparsification, 2024; the factor of ``down`` is ours.
  """
  stats = _arguments.check_state("stats", stats, GateStats)
  _arguments.check_option("stat", stat, ("rms", "mean_abs"))
  weights = stats.rms if stat == "rms" else stats.mean_abs
  if down is None:
    return weights
  treedef: Any = jax.tree.structure(weights)
  kernels, found = jax.tree.flatten(down, is_leaf=lambda leaf: leaf is None)
  if found != treedef:
    raise ValueError(f"down must have the structure of stats, {treedef}; got {found}.")

  def weighted(w: Array, kernel: ArrayLike) -> Array:
    array = _checks.check_float_array("down", kernel, rank=2)
    if len(array) != len(w):
      raise ValueError(f"down must have the {len(w)} channels of stats; got shape {array.shape}.")
    norms = safe_norm(upcast(array), axis=1)
    return w * (norms / divisor(jnp.max(norms)))  # a common factor changes no threshold

  return jax.tree.unflatten(treedef, list(map(weighted, jax.tree.leaves(weights), kernels)))


def activation_thresholds(
  apply_fn: Callable[[Any, Any], PyTree],
  params: PyTree,
  batches: PyTree,
  *,
  sparsity: ArrayLike,
  weights: PyTree = None,
) -> PyTree:
  r"""Thresholds of many batches: the mean over them of each batch's own.

  Without ``weights`` one number a layer, ``cats_threshold``: for gates, and for the inputs of
  projections of attention. With them one number a channel, ``chess_thresholds``.

  Args:
    apply_fn: ``apply_fn(params, batch) -> activations``: one array float[..., F], or a pytree of
      them, one a layer: what is to be thresholded.
    params: of any network.
    batches: pytree of arrays whose leading axis is that of the batches.
    sparsity: in [0, 1], the share to be dropped, a scalar; may be traced and mapped over.
    weights: None, or float[F] >= 0, a pytree of them like the activations: ``gate_weights``.

  Returns:
    A pytree like the activations, of float[] or float[F], at least float32.

  Raises:
    TypeError: ``apply_fn`` is no function of (params, batch), or an array is not floating-point.
    ValueError: ``batches`` have no common leading axis, ``weights`` do not fit the activations, or
      ``sparsity`` is out of range.

  Note:
    The mean of quantiles is not the quantile of all batches together; so do the authors. NaN in an
    activation gives NaN.

  Example:
    >>> batches = jnp.array([[[1.0, 4.0]], [[3.0, 2.0]]])
    >>> float(activation_thresholds(lambda w, x: x @ w, jnp.eye(2), batches, sparsity=0.5))
    1.5

  Reference:
    He, Wu, Wen, Xue and Li, CHESS: optimizing LLM inference via channel-wise thresholding and
    selective sparsification, 2024 (thresholds averaged over calibration batches).
  """
  batches, number = _batches(apply_fn, batches)
  share = check_share("sparsity", sparsity)
  layers = None if weights is None else jax.tree.leaves(weights)
  wanted: Any = jax.tree.structure(weights)

  def of_batch(batch: PyTree) -> PyTree:
    found, treedef = jax.tree.flatten(apply_fn(params, batch))
    rows = [check_activations("activations", a) for a in found]
    if layers is None:
      return jax.tree.unflatten(treedef, [scalar_threshold(a, share) for a in rows])
    if wanted != treedef:
      raise ValueError(
        f"weights must have the structure of the activations, {treedef}; got {wanted}."
      )
    scaled = [check_weights("weights", w, a.shape[1]) for w, a in zip(layers, rows, strict=True)]
    cuts = [channel_thresholds(a, w, share) for a, w in zip(rows, scaled, strict=True)]
    return jax.tree.unflatten(treedef, cuts)

  shapes = jax.eval_shape(of_batch, jax.tree.map(lambda leaf: leaf[0], batches))
  start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
  # A sum of shares, not a running mean: thresholds may be infinite.
  add = lambda total, new: total + new / number
  step = lambda total, batch: (jax.tree.map(add, total, of_batch(batch)), None)
  return jax.lax.scan(step, start, batches)[0]
