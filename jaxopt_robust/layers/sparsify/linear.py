"""Linear layers on few of their inputs, chosen by size and by the weights they meet."""

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, _units
from jaxopt_robust.layers.sparsify.thresholds import check_share, check_weights, count_left
from jaxopt_robust.numerics import safe_norm, upcast
from jaxopt_robust.transforms import topk_mask
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "column_norms",
  "dense_prefix",
  "empirical_icdf",
  "sparse_linear",
  "teal_mask",
  "wina_mask",
]


def product(x: Array, kernel: Array) -> Array:
  """x W, summed in float32 at least."""
  wide = jnp.promote_types(jnp.result_type(x, kernel), jnp.float32)
  return jnp.matmul(x, kernel, precision="highest", preferred_element_type=wide)


_UNROLL = 8  # rows that a step of the loop adds up


def _row_by_row(values: Array, places: Array, kernel: Array) -> Array:
  """sum_j v_j W[p_j, :] without a copy of the rows: on CPUs faster than a gather."""
  wide = jnp.promote_types(jnp.result_type(values, kernel), jnp.float32)
  values = values.astype(wide)

  def add(total: Array, place: Array, count: int) -> Array:
    for j in range(count):
      row = jax.lax.dynamic_index_in_dim(kernel, places[place + j], keepdims=False)
      total = total + values[place + j] * row.astype(wide)
    return total

  whole, rest = divmod(len(values), _UNROLL)
  total = jnp.zeros(kernel.shape[1:], wide)
  step = lambda i, total: add(total, i * _UNROLL, _UNROLL)
  if whole:
    total = jax.lax.fori_loop(0, whole, step, total)
  return add(total, jnp.asarray(whole * _UNROLL), rest)


def _by_gather(values: Array, places: Array, kernel: Array) -> Array:
  return product(values, kernel[places])


@jax.custom_jvp
def rows_product(values: Array, places: Array, kernel: Array) -> Array:
  """sum_j v_j W[p_j, :], float[k], int[k] and float[n, m]; at least float32."""
  return jax.lax.platform_dependent(values, places, kernel, cpu=_row_by_row, default=_by_gather)


@rows_product.defjvp
def _rows_product_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
  """Derivatives by the gather: that of the loop would sum whole kernels."""
  values, places, kernel = primals
  dot = lambda v, w: _by_gather(v, places, w)
  return rows_product(*primals), dot(tangents[0], kernel) + dot(values, tangents[2])


def _score(x: Array, norms: Array | None) -> Array:
  """|x| c in units of each row; NaN and infinity come first."""
  size = jnp.abs(upcast(jax.lax.stop_gradient(x)))
  if norms is not None:
    known = jnp.where(jnp.isfinite(size), size, 0)
    exponent = _units.exponent_of(jnp.max(known, axis=-1, keepdims=True))
    # Powers of two change no order.
    wide = jnp.broadcast_to(jax.lax.stop_gradient(norms), size.shape)
    size = size / _units.power(exponent, size.dtype) * wide
  return jnp.where(jnp.isfinite(size), size, jnp.inf)


def _norms(norms: ArrayLike | None, channels: int, name: str) -> Array | None:
  return None if norms is None else check_weights(name, norms, channels)


def largest_places(x: Array, norms: ArrayLike | None, *, k: int, name: str) -> Array:
  """Places of the k largest |x| c of each row, rising; of equal ones the first."""
  score = _score(x, _norms(norms, x.shape[-1], name))
  return jnp.sort(jax.lax.top_k(score, _check_k(k, x.shape[-1]))[1], axis=-1)


def _check_k(k: int | None, size: int) -> int:
  k = _checks.check_int("k", k, minimum=0)
  if k > size:
    raise ValueError(f"k must be at most {size}, the number of inputs; got {k}.")
  return k


def _mask(score: Array, k: int | None, sparsity: ArrayLike | None) -> Array:
  size = score.shape[-1]
  if (k is None) == (sparsity is None):
    raise ValueError(f"exactly one of k and sparsity must be given; got {k} and {sparsity}.")
  if sparsity is None:
    return topk_mask(score, _check_k(k, size))
  count = count_left(check_share("sparsity", sparsity), size)
  rows = score.reshape(-1, size)
  order = jnp.argsort(rows, axis=-1, stable=True, descending=True)  # equal ones in their order
  kept = jnp.broadcast_to(jnp.arange(size)[None] < count, rows.shape)
  mask = jnp.zeros(rows.shape, bool)
  mask = mask.at[jnp.arange(len(rows))[:, None], order].set(kept, unique_indices=True)
  return mask.reshape(score.shape)


def column_norms(kernel: ArrayLike, *, in_axis: int = 0) -> Array:
  r"""Euclidean norms of what each input of a kernel is multiplied with, c_j = ||W[j, :]||_2.

  Args:
    kernel: float[...], such as [inputs, outputs] of a dense layer of flax.
    in_axis: axis of the inputs, static; the norm runs over all others. 1 for kernels of shape
      [outputs, inputs], whose columns they are.

  Returns:
    float[inputs] >= 0, at least float32.

  Raises:
    TypeError: the kernel is not floating-point, or the axis no static integer.
    ValueError: the kernel is empty or has no such axis.

  Example:
    >>> column_norms(jnp.array([[3.0, 4.0], [0.0, 1.0]]))
    Array([5., 1.], dtype=float32)

  Reference:
    Chen, Zhao, Ko, Banbury, Zhuang, Liang, Cameron and Chen, WINA: weight informed neuron
    activation for accelerating large language model inference, 2025.
  """
  array = _checks.check_float_array("kernel", kernel, min_rank=1)
  axis = _checks.check_int("in_axis", in_axis, minimum=-array.ndim, maximum=array.ndim - 1)
  return safe_norm(upcast(jnp.moveaxis(array, axis, 0)).reshape(array.shape[axis], -1), axis=1)


def wina_mask(
  x: ArrayLike, norms: ArrayLike, *, k: int | None = None, sparsity: ArrayLike | None = None
) -> Array:
  r"""Marks the k inputs of a linear layer with the largest |x_j| c_j (WINA).

  Where the rows of the kernel, W[j, :] with inputs first, are orthogonal to one another, dropping a
  set D of inputs changes the output by

    ||(m o x) W - x W||_2^2 = sum_{j in D} x_j^2 c_j^2,

  so that this mask has the least error of all with k entries. Without that there is no such order.

  Args:
    x: float[..., n].
    norms: float[n] >= 0, c: ``column_norms`` of the kernel.
    k: 0 <= k <= n, static; or
    sparsity: in [0, 1], a scalar that may be traced: then k = floor(n (1 - sparsity)).

  Returns:
    bool[..., n], exactly k true in each row; of equal products the first. NaN and infinity count as
    the largest.

  Raises:
    TypeError: an array is not floating-point, or ``k`` no static integer.
    ValueError: shapes do not fit, a norm is negative or not finite, both or none of ``k`` and
      ``sparsity`` are given, or one is out of range.

  Note:
    By one threshold for all tokens instead: ``chess_thresholds(x, norms, sparsity=...)`` of
    calibration data and ``apply_gate_threshold``. With a nonlinearity behind the layer, or another
    layer, the least error of this one need not be the least at the end.

  Example:
    >>> wina_mask(jnp.array([3.0, -1.0, 2.0]), jnp.array([1.0, 4.0, 1.0]), k=2)
    Array([ True,  True, False], dtype=bool)

  Reference:
    Chen, Zhao, Ko, Banbury, Zhuang, Liang, Cameron and Chen, WINA: weight informed neuron
    activation for accelerating large language model inference, 2025. Their lemma asks for
    W^T W = I; orthogonal columns are what its proof needs and their transformation gives.
  """
  array = _checks.check_float_array("x", x, min_rank=1)
  return _mask(_score(array, _norms(norms, array.shape[-1], "norms")), k, sparsity)


def teal_mask(x: ArrayLike, *, k: int | None = None, sparsity: ArrayLike | None = None) -> Array:
  r"""Marks the k inputs of largest magnitude (TEAL): ``wina_mask`` with equal norms.

  Args:
    x: float[..., n].
    k: 0 <= k <= n, static; or
    sparsity: in [0, 1], a scalar that may be traced: then k = floor(n (1 - sparsity)).

  Returns:
    bool[..., n], exactly k true in each row; of equal magnitudes the first. NaN and infinity count
    as the largest.

  Raises:
    TypeError: ``x`` is not floating-point, or ``k`` no static integer.
    ValueError: ``x`` is a scalar, both or none of ``k`` and ``sparsity`` are given, or one is out
      of range.

  Note:
    Their method takes one threshold for all tokens: ``cats_threshold`` of calibration data.

  Example:
    >>> teal_mask(jnp.array([3.0, -1.0, 2.0]), sparsity=0.5)
    Array([ True, False, False], dtype=bool)

  Reference:
    Liu, Ponnusamy, Cai, Guo, Kim and Athiwaratkun, Training-free activation sparsity in large
    language models, 2024.
  """
  array = _checks.check_float_array("x", x, min_rank=1)
  return _mask(_score(array, None), k, sparsity)


def dense_prefix(mask: ArrayLike, *, share: ArrayLike = 0.01) -> Array:
  r"""Keeps all inputs of the first tokens: a mask holds for the last floor((1 - share) T) of T.

  Args:
    mask: bool[..., T, n].
    share: in [0, 1], a scalar; may be traced.

  Returns:
    bool[..., T, n].

  Raises:
    TypeError: ``mask`` is not boolean.
    ValueError: it has no axis of tokens, or ``share`` is out of range.

  Example:
    >>> dense_prefix(jnp.zeros((3, 2), bool), share=0.3)[:, 0]
    Array([ True, False, False], dtype=bool)

  Reference:
    Chen, Zhao, Ko, Banbury, Zhuang, Liang, Cameron and Chen, WINA: weight informed neuron
    activation for accelerating large language model inference, 2025 (their evaluation).
  """
  array = _checks.as_array("mask", mask)
  _checks.check_mask("mask", array, shape=array.shape)
  if array.ndim < 2:
    raise ValueError(f"mask must have axes of tokens and inputs; got shape {array.shape}.")
  tokens = array.shape[-2]
  first = tokens - count_left(check_share("share", share), tokens)
  is_first = jnp.broadcast_to((jnp.arange(tokens) < first)[:, None], array.shape)
  return array | is_first


def empirical_icdf(values: ArrayLike, share: ArrayLike) -> Array:
  r"""Number below which a share of magnitudes lies, with linear interpolation.

  Of sorted unique values u_1 < ... < u_m with F_j the share of all values that is at most u_j, the
  result is linear in the share between the points (0, 0), (F_1, u_1), ..., (F_m, u_m).

  Args:
    values: float[...] >= 0, such as |x| c of calibration data.
    share: float[...] in [0, 1]; may be traced.

  Returns:
    float[...] of the shape of ``share``, at least float32; NaN where a value is NaN. Entries with
    |x| c above it are kept: ``apply_gate_threshold(x, t / c)``.

  Raises:
    TypeError: an array is not floating-point.
    ValueError: ``values`` are empty or negative, or a share is out of range.

  Note:
    At share 0 the result is 0, where nothing but zeros is dropped.

  Example:
    >>> float(empirical_icdf(jnp.array([3.0, 1.0, 2.0, 4.0]), 0.625))
    2.5

  Reference:
    Chen, Zhao, Ko, Banbury, Zhuang, Liang, Cameron and Chen, WINA: weight informed neuron
    activation for accelerating large language model inference, 2025 (threshold variant; the point
    (0, 0) is ours).
  """
  array = upcast(_checks.check_float_array("values", values)).ravel()
  _checks.check_holds(~(array < 0), "values must be >= 0; got a negative number.")
  _checks.check_interval("share", share, 0.0, 1.0)
  at = jnp.asarray(_checks.check_float_array("share", share, non_empty=False), array.dtype)
  ordered = jnp.sort(array)
  size = len(ordered)
  below = jnp.searchsorted(ordered, ordered, side="right") / jnp.asarray(size, array.dtype)
  zero = jnp.zeros((1,), array.dtype)
  finite = jnp.isfinite(ordered)
  known = jnp.where(finite, ordered, jnp.max(jnp.where(finite, ordered, 0)))
  points = jnp.concatenate([zero, below]), jnp.concatenate([zero, known])
  found = jnp.interp(at.ravel(), *points).reshape(at.shape)
  last = jnp.sum(finite) / jnp.asarray(size, array.dtype)  # beyond it lie infinite values
  found = jnp.where(at > last, jnp.inf, found)
  return jnp.where(jnp.isnan(ordered[-1]), jnp.nan, found)


def sparse_linear(
  x: ArrayLike,
  kernel: ArrayLike,
  bias: ArrayLike | None = None,
  *,
  k: int,
  norms: ArrayLike | None = None,
  form: str = "gather",
) -> Array:
  r"""Linear layer on the k inputs with the largest |x_j| c_j, y = (m o x) W + b.

  Args:
    x: float[..., n].
    kernel: float[n, m], W.
    bias: None, or float[m], b.
    k: 0 <= k <= n, static; n is the dense layer.
    norms: float[n] >= 0, c: ``column_norms`` of the kernel (``wina_mask``); None for ones
      (``teal_mask``).
    form: ``"gather"``, which reads k rows of the kernel for each row of x, or ``"mask"``, which
      reads the whole kernel once; static.

  Returns:
    float[..., m] in the dtype of ``x``, the same for both forms up to the order of the sums, which
    are float32 at least.

  Raises:
    TypeError: an array is not floating-point, or ``k`` no static integer.
    ValueError: shapes do not fit, a norm is negative, k is out of range, or an unknown form.

  Note:
    ``"gather"`` is for single tokens, where reading the kernel is what takes time: on CPUs it is a
    loop over the rows that are kept, on other devices a copy of them and a product (benchmark
    ``sparse_linear``). For many tokens take ``"mask"``. The derivative is that of the chosen
    inputs; there is none of the choice.

  Example:
    >>> sparse_linear(jnp.array([3.0, -1.0]), jnp.array([[1.0], [9.0]]), k=1)
    Array([3.], dtype=float32)
    >>> kernel = jnp.array([[1.0], [9.0]])
    >>> sparse_linear(jnp.array([3.0, -1.0]), kernel, k=1, norms=column_norms(kernel))
    Array([-9.], dtype=float32)

  Reference:
    Chen, Zhao, Ko, Banbury, Zhuang, Liang, Cameron and Chen, WINA: weight informed neuron
    activation for accelerating large language model inference, 2025.
  """
  array = _checks.check_float_array("x", x, min_rank=1)
  matrix = _checks.check_float_array("kernel", kernel, rank=2)
  if len(matrix) != array.shape[-1]:
    raise ValueError(
      f"kernel must have a row for each of the {array.shape[-1]} inputs of x; got {matrix.shape}."
    )
  _arguments.check_option("form", form, ("gather", "mask"))
  rows = array.reshape(-1, array.shape[-1])
  if form == "gather":
    places = largest_places(rows, norms, k=k, name="norms")
    one = lambda row: rows_product(row[0][row[1]], row[1], matrix)
    # One after the other: side by side a step would gather again.
    out = one((rows[0], places[0]))[None] if len(rows) == 1 else jax.lax.map(one, (rows, places))
  else:
    mask = _mask(_score(rows, _norms(norms, rows.shape[-1], "norms")), k, None)
    out = product(jnp.where(mask, rows, 0), matrix)
  if bias is not None:
    shift = _checks.check_float_array("bias", bias, rank=1)
    if shift.shape != matrix.shape[1:]:
      raise ValueError(f"bias must have shape {matrix.shape[1:]}; got {shift.shape}.")
    out = out + shift.astype(out.dtype)[None]
  return out.reshape(*array.shape[:-1], matrix.shape[1]).astype(array.dtype)
