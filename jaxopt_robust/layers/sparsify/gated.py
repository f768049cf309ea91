"""Gated feed-forward networks and attention that skip channels."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.layers.sparsify.linear import largest_places, product, rows_product
from jaxopt_robust.layers.sparsify.thresholds import apply_gate_threshold
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "AttentionKernels",
  "GatedKernels",
  "KeyValue",
  "gated_mlp",
  "gated_mlp_gather",
  "selective_attention",
]


class GatedKernels(NamedTuple):
  """Kernels of a gated feed-forward network.

  Attributes:
    gate: float[n, F].
    up: float[n, F].
    down: float[F, m].

  Example:
    >>> GatedKernels._fields
    ('gate', 'up', 'down')

  Reference:
    Shazeer, GLU variants improve transformer, 2020.
  """

  gate: ArrayLike
  up: ArrayLike
  down: ArrayLike


def _gated(x: ArrayLike, kernels: GatedKernels) -> tuple[Array, Array, Array, Array]:
  if not isinstance(kernels, GatedKernels):
    raise TypeError(
      f"kernels must be GatedKernels(gate, up, down); got {_checks.describe(kernels)}."
    )
  array = _checks.check_float_array("x", x, min_rank=1)
  gate, up, down = (
    _checks.check_float_array(f"kernels.{name}", kernel, rank=2)
    for name, kernel in zip(GatedKernels._fields, kernels, strict=True)
  )
  if up.shape != gate.shape or down.shape[0] != gate.shape[1] or array.shape[-1] != len(gate):
    raise ValueError(
      "x and kernels must have shapes [..., n], [n, F], [n, F] and [F, m]; got "
      f"{array.shape}, {gate.shape}, {up.shape} and {down.shape}."
    )
  return array, gate, up, down


def gated_mlp(
  x: ArrayLike,
  kernels: GatedKernels,
  *,
  threshold: ArrayLike | None = None,
  activation: Callable[[Array], Array] = jax.nn.silu,
) -> Array:
  r"""Gated feed-forward network, dense or with gates dropped by threshold.

  Computes y = (a_gate o (x W_up)) W_down with a_gate = activation(x W_gate), of which
  ``apply_gate_threshold`` leaves what is above its threshold.

  Args:
    x: float[..., n].
    kernels: ``GatedKernels``.
    threshold: None (dense), or float[] or float[F], ``cats_threshold`` or ``chess_thresholds`` of
      a_gate; may be traced.
    activation: entrywise.

  Returns:
    float[..., m] in the dtype of ``x``; products are summed in float32 at least.

  Raises:
    TypeError: an array is not floating-point, or ``kernels`` are no ``GatedKernels``.
    ValueError: shapes do not fit.

  Note:
    The masked form: it computes all channels, on any device as fast as the dense one. What a kernel
    that skips rows would touch: ``activated_cost``. A static number of channels:
    ``gated_mlp_gather``.

  Example:
    >>> kernels = GatedKernels(jnp.eye(2), jnp.ones((2, 2)), jnp.eye(2))
    >>> gated_mlp(jnp.array([1.0, 3.0]), kernels, threshold=2.0, activation=jax.nn.relu)
    Array([ 0., 12.], dtype=float32)

  Reference:
    He, Wu, Wen, Xue and Li, CHESS: optimizing LLM inference via channel-wise thresholding and
    selective sparsification, 2024.
  """
  array, gate, up, down = _gated(x, kernels)
  _arguments.check_callable("activation", activation)
  a = activation(product(array, gate))
  if threshold is not None:
    a = apply_gate_threshold(a, threshold)
  return product(a * product(array, up), down).astype(array.dtype)


def gated_mlp_gather(
  x: ArrayLike,
  kernels: GatedKernels,
  up_weight: ArrayLike | None = None,
  *,
  k: int,
  activation: Callable[[Array], Array] = jax.nn.silu,
) -> Array:
  r"""Gated feed-forward network on the k channels whose gates are most important.

  With S the k largest of |a_gate_i| w_i, y = (a_gate_S o (x W_up[:, S])) W_down[S, :].

  Args:
    x: float[..., n].
    kernels: ``GatedKernels``.
    up_weight: None for 1, or float[F] >= 0, w: ``gate_weights``.
    k: 0 <= k <= F, static.
    activation: entrywise.

  Returns:
    float[..., m] in the dtype of ``x``: what masking all other channels gives.

  Raises:
    TypeError: an array is not floating-point, ``kernels`` are no ``GatedKernels``, or ``k`` no
      static integer.
    ValueError: shapes do not fit, a weight is negative, or k is out of range.

  Note:
    One row of x after the other: for single tokens, not for long batches. Of W_down the rows S are
    read; of W_up the columns S, which are far apart in memory, so that CPUs read it whole. Of equal
    importances the first channels are taken.

  Example:
    >>> kernels = GatedKernels(jnp.eye(2), jnp.ones((2, 2)), jnp.eye(2))
    >>> gated_mlp_gather(jnp.array([1.0, 3.0]), kernels, k=1, activation=jax.nn.relu)
    Array([ 0., 12.], dtype=float32)

  Reference:
    He, Wu, Wen, Xue and Li, CHESS: optimizing LLM inference via channel-wise thresholding and
    selective sparsification, 2024 (contract of their kernels).
  """
  array, gate, up, down = _gated(x, kernels)
  _arguments.check_callable("activation", activation)

  def row(x: Array) -> Array:
    a = activation(product(x, gate))
    places = largest_places(a, up_weight, k=k, name="up_weight")
    # Columns are far apart in memory: on CPUs the whole kernel is read faster.
    other = jax.lax.platform_dependent(
      x, up, places,
      cpu=lambda x, up, places: product(x, up)[places],
      default=lambda x, up, places: product(x, up[:, places]),
    )  # fmt: skip
    return rows_product(a[places] * other, places, down)

  tokens = array.reshape(-1, array.shape[-1])
  rows = row(tokens[0])[None] if len(tokens) == 1 else jax.lax.map(row, tokens)
  return rows.reshape(*array.shape[:-1], down.shape[1]).astype(array.dtype)


class AttentionKernels(NamedTuple):
  """Kernels of multi-head attention.

  Attributes:
    query: float[n, heads e].
    key: float[n, groups e]; groups divides heads (grouped queries).
    value: float[n, groups e].
    output: float[heads e, m].

  Example:
    >>> AttentionKernels._fields
    ('query', 'key', 'value', 'output')

  Reference:
    Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser and Polosukhin, Attention is all you
    need, 2017.
  """

  query: ArrayLike
  key: ArrayLike
  value: ArrayLike
  output: ArrayLike


class KeyValue(NamedTuple):
  """Keys and values of the tokens, for a cache.

  Attributes:
    key: float[..., tokens, groups, e].
    value: float[..., tokens, groups, e].

  Example:
    >>> KeyValue._fields
    ('key', 'value')

  Reference:
    Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser and Polosukhin, Attention is all you
    need, 2017.
  """

  key: Array
  value: Array


def _attend(q: Array, k: Array, v: Array, causal: bool) -> Array:
  """Softmax attention of [..., tokens, heads, e]; JAX's own takes the softmax in float32 always."""
  if q.dtype != jnp.float64:
    batch = lambda a: a.reshape(-1, *a.shape[-3:])
    return jax.nn.dot_product_attention(batch(q), batch(k), batch(v), is_causal=causal)
  tokens, heads, size = q.shape[-3:]
  k, v = (jnp.repeat(a, heads // a.shape[-2], axis=-2) for a in (k, v))
  logits = jnp.einsum("...the,...she->...hts", q, k) / size**0.5
  if causal:
    seen = jnp.broadcast_to(jnp.tri(tokens, dtype=bool), logits.shape)
    logits = jnp.where(seen, logits, -jnp.inf)
  return jnp.einsum("...hts,...she->...the", jax.nn.softmax(logits, axis=-1), v)


def selective_attention(
  x: ArrayLike,
  kernels: AttentionKernels,
  *,
  num_heads: int,
  t_in: ArrayLike | None = None,
  t_out: ArrayLike | None = None,
  causal: bool = False,
) -> tuple[Array, KeyValue]:
  r"""Softmax attention whose query and output projections see thresholded inputs only.

  With x' and c' what ``apply_gate_threshold`` leaves of x and of the heads' outputs c,

    q = x' W_q,    k = x W_k,    v = x W_v,    c = softmax(q k^T / sqrt(e)) v,    y = c' W_o.

  Keys and values come from the dense input: their errors would stay in a cache.

  Args:
    x: float[..., tokens, n].
    kernels: ``AttentionKernels``.
    num_heads: heads, static.
    t_in: None (dense), or float[] or float[n], ``cats_threshold`` of x; may be traced.
    t_out: None (dense), or float[] or float[heads e], ``cats_threshold`` of c; may be traced.
    causal: whether a token sees only those before it and itself, static.

  Returns:
    (float[..., tokens, m] in the dtype of ``x``, ``KeyValue``). The keys and values do not depend
    on the thresholds, bit for bit.

  Raises:
    TypeError: an array is not floating-point, or ``kernels`` are no ``AttentionKernels``.
    ValueError: shapes do not fit.

  Example:
    >>> eye = jnp.eye(2)
    >>> kernels = AttentionKernels(eye, eye, eye, eye)
    >>> selective_attention(jnp.array([[1.0, 3.0]]), kernels, num_heads=1, t_in=9.0, t_out=2.0)[0]
    Array([[0., 3.]], dtype=float32)

  Reference:
    He, Wu, Wen, Xue and Li, CHESS: optimizing LLM inference via channel-wise thresholding and
    selective sparsification, 2024, selective sparsification.
  """
  if not isinstance(kernels, AttentionKernels):
    raise TypeError(
      "kernels must be AttentionKernels(query, key, value, output); got "
      f"{_checks.describe(kernels)}."
    )
  array = _checks.check_float_array("x", x, min_rank=2)
  query, key, value, output = (
    _checks.check_float_array(f"kernels.{name}", kernel, rank=2)
    for name, kernel in zip(AttentionKernels._fields, kernels, strict=True)
  )
  heads = _checks.check_int("num_heads", num_heads, minimum=1)
  _arguments.check_option("causal", causal, (True, False))
  n, width = array.shape[-1], query.shape[1]
  if any(len(kernel) != n for kernel in (query, key, value)) or len(output) != width:
    shapes = [kernel.shape for kernel in (query, key, value, output)]
    raise ValueError(f"kernels must map the {n} features of x; got shapes {shapes}.")
  if width % heads or key.shape != value.shape or key.shape[1] % (width // heads):
    raise ValueError(
      f"num_heads must split the kernels into heads of one size; got {heads} of query "
      f"{query.shape}, key {key.shape} and value {value.shape}."
    )
  size = width // heads
  if heads % (key.shape[1] // size):
    raise ValueError(
      f"num_heads must be a multiple of the {key.shape[1] // size} heads of the keys; got {heads}."
    )
  split = lambda a: a.reshape(*a.shape[:-1], -1, size)
  with _arguments.within("t_in"):
    seen = array if t_in is None else apply_gate_threshold(array, t_in)
  q, k, v = (
    split(product(a, kernel).astype(array.dtype))
    for a, kernel in ((seen, query), (array, key), (array, value))
  )
  mixed = _attend(q, k, v, bool(causal)).reshape(*array.shape[:-1], width)
  if t_out is not None:
    with _arguments.within("t_out"):
      mixed = apply_gate_threshold(mixed, t_out)
  return product(mixed, output).astype(array.dtype), KeyValue(k, v)
