"""Thresholds of activations, one a layer or one a channel, from a calibration set."""

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks, _units
from jaxopt_robust.numerics import divisor, safe_divide, upcast
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["apply_gate_threshold", "cats_threshold", "chess_thresholds", "quantile_kth"]


def check_share(name: str, share: ArrayLike) -> Array:
  """A number in [0, 1], a scalar that may be traced."""
  _checks.check_interval(name, share, 0.0, 1.0, scalar=True)
  return upcast(_checks.check_float_array(name, share, rank=0))


def _whole(product: Array, rounded: Array) -> Array:
  """``rounded``, but what is within rounding of a whole number is that number."""
  near = jnp.round(product)
  slack = 4 * jnp.finfo(product.dtype).eps * jnp.maximum(product, 1)
  return jnp.where(jnp.abs(product - near) <= slack, near, rounded)


def count_of(share: Array, size: int) -> Array:
  """floor(share size); what is within rounding of a whole number is that number."""
  product = share * size
  return jnp.clip(_whole(product, jnp.floor(product)), 0, size).astype(jnp.int32)


def count_left(share: Array, size: int) -> Array:
  """floor((1 - share) size), likewise: 1 - share itself would lose digits."""
  product = share * size
  return jnp.clip(size - _whole(product, jnp.ceil(product)), 0, size).astype(jnp.int32)


def kth_smallest(values: Array, share: Array) -> Array:
  """The k-th smallest of all values, k = ``count_of``; -inf for k = 0; NaN where one is NaN."""
  k = count_of(share, values.size)
  ordered = jnp.sort(values.ravel())  # NaN is last
  found = jnp.where(k == 0, -jnp.inf, ordered[jnp.maximum(k - 1, 0)])
  return jnp.where(jnp.isnan(ordered[-1]) | jnp.isnan(share), jnp.nan, found)


def check_weights(name: str, weights: ArrayLike, channels: int) -> Array:
  """Non-negative finite numbers, one a channel, divided by the largest: what is equal becomes 1."""
  w = upcast(_checks.check_float_array(name, weights, rank=1))
  if w.shape != (channels,):
    raise ValueError(f"{name} must have one entry for each of {channels} channels; got {w.shape}.")
  _checks.check_non_negative(name, w)
  _checks.check_holds(jnp.isfinite(w), f"{name} must be finite; got infinity.")
  return w / divisor(jnp.max(w))


def check_activations(name: str, values: ArrayLike) -> Array:
  """Finite activations [..., F] as rows [T, F], at least float32."""
  array = _checks.check_float_array(name, values, min_rank=1)
  _checks.check_holds(jnp.isfinite(array), f"{name} must be finite; got NaN or infinity.")
  return upcast(array).reshape(-1, array.shape[-1])


def scalar_threshold(rows: Array, sparsity: Array) -> Array:
  """One number for all channels; 0 where nothing is to be dropped."""
  return jnp.maximum(kth_smallest(jnp.abs(rows), sparsity), 0)


def channel_thresholds(rows: Array, weights: Array, sparsity: Array) -> Array:
  """One number a channel: what one cut of |a| w means for each of them."""
  size = jnp.abs(rows)
  unit = _units.power(_units.exponent_of(jnp.max(size)), size.dtype)
  size = size / unit
  weights = jnp.broadcast_to(weights, size.shape)
  importance = size * weights
  cut = kth_smallest(importance, sparsity)
  found = safe_divide(cut, weights[0], default=jnp.inf)
  # The quotient may be rounded below an entry that the cut drops, or up to one that it keeps.
  below = importance <= cut
  dropped = jnp.max(jnp.where(below, size, 0), axis=0)
  kept = jnp.min(jnp.where(below, jnp.inf, size), axis=0)
  found = jnp.where((found >= kept) & jnp.isfinite(kept), dropped, jnp.maximum(found, dropped))
  return unit * jnp.where(cut == -jnp.inf, 0, found)


def quantile_kth(x: ArrayLike, q: ArrayLike) -> Array:
  r"""The k-th smallest of all entries with k = floor(q n), without interpolation.

  Args:
    x: float[...] with n entries in all.
    q: in [0, 1], a scalar; may be traced. q n within rounding of a whole number is that number.

  Returns:
    float scalar in the dtype of ``x``: at least k entries are at most this, k of them without ties.
    -inf for k = 0, and NaN where an entry is NaN.

  Raises:
    TypeError: ``x`` is not floating-point.
    ValueError: ``x`` is empty, or ``q`` out of range or no scalar.

  Example:
    >>> x = jnp.array([4.0, 1.0, 3.0, 2.0])
    >>> float(quantile_kth(x, 0.5)), float(quantile_kth(x, 0.0))
    (2.0, -inf)

  Reference:
    He, Wu, Wen, Xue and Li, CHESS: optimizing LLM inference via channel-wise thresholding and
    selective sparsification, 2024 (the quantile of their public code).
  """
  array = _checks.check_float_array("x", x)
  return kth_smallest(array, check_share("q", q))


def cats_threshold(gates: ArrayLike, *, sparsity: ArrayLike) -> Array:
  r"""One threshold for all activations of a layer: a quantile of their magnitudes (CATS).

  With n entries in ``gates`` the threshold is the k-th smallest magnitude, k = floor(sparsity n):
  dropping what is not above it drops k entries. It serves gates of a feed-forward network, and the
  inputs of projections of attention (``selective_attention``).

  Args:
    gates: float[...], activations of calibration data, all tokens and channels of one batch.
    sparsity: in [0, 1], the share to be dropped, a scalar; may be traced.

  Returns:
    float scalar >= 0, at least float32; 0 where k = 0.

  Raises:
    TypeError: ``gates`` are not floating-point.
    ValueError: they are empty or not finite, or ``sparsity`` is out of range.

  Note:
    Where many activations are exactly 0, as behind a ReLU, the quantile is 0 and only these are
    dropped. Many batches: ``activation_thresholds``.

  Example:
    >>> float(cats_threshold(jnp.array([[1.0, -3.0], [2.0, 0.5]]), sparsity=0.5))
    1.0

  Reference:
    Lee, Lee, Zhang, Tiwari and Mirhoseini, CATS: contextually-aware thresholding for sparsity in
    large language models, 2024.
  """
  return scalar_threshold(check_activations("gates", gates), check_share("sparsity", sparsity))


def chess_thresholds(gates: ArrayLike, up_weight: ArrayLike, *, sparsity: ArrayLike) -> Array:
  r"""One threshold a channel, from one cut of the importance of gates (CHESS).

  A gated network computes (a_gate o a_up) W_down. Dropping entry i of the gate costs about
  a_gate_i^2 w_i^2 with w_i^2 the mean of a_up_i^2, if both are independent. Of the importances

    I_ti = |a_ti| w_i,    tau = quantile_kth(I, sparsity),    t_i = tau / w_i,

  over all tokens t and channels i, the smallest are dropped: channels whose other factor is small
  get a high threshold.

  Args:
    gates: float[..., F], activations a of calibration data, all tokens of one batch.
    up_weight: float[F] >= 0, w: ``gate_weights`` of ``collect_gate_stats``. With ``column_norms``
      of the layer that follows the cut is that of WINA, by threshold.
    sparsity: in [0, 1], the share to be dropped, a scalar; may be traced.

  Returns:
    float[F] >= 0, at least float32, for ``apply_gate_threshold``. Of the entries of ``gates``
    exactly floor(sparsity n) are not above it where no two importances are equal. 0 where none is
    to be dropped, otherwise infinite for channels of weight 0.

  Raises:
    TypeError: an array is not floating-point.
    ValueError: shapes do not fit, an array is not finite, a weight negative, or ``sparsity`` out of
      range.

  Note:
    Equal weights give ``cats_threshold`` for every channel. Keep thresholds in float32: in bfloat16
    they move the sparsity that results by up to a point.

  Example:
    >>> gates = jnp.array([[1.0, 4.0], [3.0, 2.0]])
    >>> chess_thresholds(gates, jnp.array([2.0, 1.0]), sparsity=0.5)
    Array([1., 2.], dtype=float32)

  Reference:
    He, Wu, Wen, Xue and Li, CHESS: optimizing LLM inference via channel-wise thresholding and
    selective sparsification, 2024, channel-wise thresholding. Their first code averages squares
    over batches, the newer one roots, as here.
  """
  rows = check_activations("gates", gates)
  weights = check_weights("up_weight", up_weight, rows.shape[1])
  return channel_thresholds(rows, weights, check_share("sparsity", sparsity))


def apply_gate_threshold(gate: ArrayLike, threshold: ArrayLike) -> Array:
  r"""Drops activations that are not above their threshold, a where |a| > t, else 0.

  Args:
    gate: float[..., F].
    threshold: float[] or float[F], >= 0 or infinite; may be traced.

  Returns:
    float[..., F] in the dtype of ``gate``, compared in float32 at least. NaN in an entry or its
    threshold gives NaN.

  Raises:
    TypeError: an array is not floating-point.
    ValueError: the threshold is negative, or neither a scalar nor one a channel.

  Note:
    The derivative is 1 where an entry is kept and 0 elsewhere, also at |a| = t; none goes to the
    threshold.

  Example:
    >>> apply_gate_threshold(jnp.array([1.0, -3.0, 2.0]), jnp.array([1.0, 1.0, 4.0]))
    Array([ 0., -3.,  0.], dtype=float32)

  Reference:
    He, Wu, Wen, Xue and Li, CHESS: optimizing LLM inference via channel-wise thresholding and
    selective sparsification, 2024. Of their two codes one drops |a| <= t, as here, one |a| < t.
  """
  array = _checks.check_float_array("gate", gate, min_rank=1)
  t = upcast(_checks.check_float_array("threshold", threshold, rank=(0, 1)))
  if t.shape not in ((), (1,), array.shape[-1:]):
    raise ValueError(
      f"threshold must be a scalar or one number for each of {array.shape[-1]} channels; got "
      f"shape {t.shape}."
    )
  _checks.check_holds(~(t < 0), "threshold must be >= 0; got a negative number.")
  t = jnp.broadcast_to(jax.lax.stop_gradient(t), array.shape)
  size = jnp.abs(upcast(jax.lax.stop_gradient(array)))
  kept = jnp.where(size <= t, jnp.zeros_like(array), array)
  return jnp.where(jnp.isnan(t), jnp.asarray(jnp.nan, array.dtype), kept)
