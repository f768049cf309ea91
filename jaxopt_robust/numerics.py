"""Numerically safe building blocks: norms, quotients, masked and log-domain means, thresholds."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _checks
from jaxopt_robust._deprecations import install_getattr
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "hard_threshold",
  "log_average",
  "log_mean_exp",
  "masked_mean",
  "safe_divide",
  "safe_norm",
  "soft_threshold",
  "tree_all_finite",
  "tree_where",
  "upcast",
]

install_getattr(__name__)


def upcast(x: ArrayLike) -> Array:
  """Raises half-precision floats to float32 and leaves wider ones as they are.

  Reductions and exponentials are computed in at least float32; the caller casts the result back.

  Args:
    x: float[...] or complex[...] array.

  Returns:
    An array like ``x`` of dtype float32, complex64 or wider.

  Example:
    >>> upcast(jnp.ones(2, jnp.bfloat16)).dtype
    dtype('float32')

  Reference:
    Micikevicius et al., Mixed Precision Training, 2018, section 3.3 (reductions in float32).
  """
  array = _checks.as_array("x", x)
  return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def safe_norm(x: ArrayLike, *, axis: int | tuple[int, ...] | None = None) -> Array:
  r"""Euclidean norm of any scale, whose derivative at zero is zero instead of NaN.

  Computes ||x||_2 = sqrt(sum_i |x_i|^2) over ``axis``, as m sqrt(sum_i |x_i / m|^2) with m the
  largest magnitude.

  Args:
    x: float[...] or complex[...] array.
    axis: axes to reduce; all of them by default.

  Returns:
    float[...] without the reduced axes, real also for complex ``x``. 0 where nothing is reduced.

  Raises:
    TypeError: when ``x`` holds no numbers.

  Note:
    No square overflows or vanishes; half precision is summed in float32. At x = 0 the
    sub-differential is the unit ball; its element 0 is returned. NaN stays NaN; inf gives inf.

  Example:
    >>> float(jax.grad(lambda v: safe_norm(v))(jnp.zeros(3)).sum())
    0.0

  Reference:
    The sub-differential of a norm: Rockafellar, Convex Analysis, 1970, section 23.
  """
  array = _checks.check_float_array("x", x, non_empty=False, complex_ok=True)
  wide = upcast(array)
  norm = norm_by(
    wide,
    lambda v: jnp.sum(v, axis=axis, keepdims=True),
    lambda v: jnp.max(v, axis=axis, keepdims=True, initial=0),
  )
  shape = jax.eval_shape(lambda v: jnp.sum(v, axis=axis), wide).shape
  return norm.reshape(shape).astype(jnp.finfo(array.dtype).dtype)


def norm_by(
  x: Array,
  total: Callable[[Array], Array],
  largest: Callable[[Array], Array],
  back: Callable[[Array], Array] = lambda v: v,
) -> Array:
  """Norms of the groups of real or complex ``x`` that ``total`` and ``largest`` reduce.

  ``back`` expands a number a group to the entries. These are divided by the largest of their group
  first: squares of 1e-30 or 1e30 do not fit in float32. The derivative at a zero group is 0.
  """
  halves = (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)
  sizes = [jnp.abs(half) for half in jax.lax.stop_gradient(halves)]
  top = largest(sizes[0] if len(sizes) == 1 else jnp.maximum(*sizes))
  scale = divisor(jnp.where(top < jnp.inf, top, 1))  # NaN and inf pass through the sum
  squares = [(half / back(scale)) ** 2 for half in halves]
  square = total(squares[0] if len(squares) == 1 else squares[0] + squares[1])
  is_zero = square == 0  # False for NaN, which stays NaN
  return scale * jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, square)))


def divisor(size: Array) -> Array:
  """What numbers of a size are divided by to be of size 1 (at most 4): 1 in place of 0.

  Compiled code multiplies by inverses, and those of the largest numbers are flushed to 0.
  """
  largest = 1 / jnp.finfo(size.dtype).tiny
  fits = (size <= largest) | ~(size < jnp.inf)  # so does NaN
  return jnp.where(size == 0, 1, jnp.where(fits, size, largest))


def magnitude(x: Array) -> Array:
  """|x| of real or complex numbers, whose derivative at 0 is 0."""
  return norm_by(x, lambda v: v, lambda v: v) if jnp.iscomplexobj(x) else jnp.abs(x)


def safe_divide(numerator: ArrayLike, denominator: ArrayLike, *, default: ArrayLike = 0.0) -> Array:
  """Quotient that is ``default`` where the denominator is zero, with zero derivative there.

  Args:
    numerator: float[...].
    denominator: float[...], broadcast against the numerator.
    default: value where the denominator is 0.

  Returns:
    float[...], ``numerator / denominator`` or ``default``.

  Example:
    >>> safe_divide(jnp.array([1.0, 1.0]), jnp.array([2.0, 0.0]))
    Array([0.5, 0. ], dtype=float32)

  Reference:
    The double ``where`` of the JAX documentation, "Frequently asked questions: gradients contain
    NaN where using where".
  """
  numerator = _checks.as_array("numerator", numerator)
  denominator = _checks.as_array("denominator", denominator)
  try:
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
  except ValueError as error:
    raise ValueError(
      "numerator and denominator must have shapes that broadcast; got "
      f"{numerator.shape} and {denominator.shape}."
    ) from error
  numerator, denominator = jnp.broadcast_to(numerator, shape), jnp.broadcast_to(denominator, shape)
  is_zero = denominator == 0
  quotient = numerator / jnp.where(is_zero, jnp.ones_like(denominator), denominator)
  default = _checks.as_array("default", default).astype(quotient.dtype)
  return jnp.where(is_zero, default, quotient)


def masked_mean(
  x: ArrayLike, where: ArrayLike | None = None, *, axis: int | tuple[int, ...] | None = None
) -> Array:
  r"""Mean over the entries where a mask is true; 0 where there are none.

  Computes sum_i w_i x_i / max(sum_i w_i, 1) with w in {0, 1}.

  Args:
    x: float[...]; whole numbers and bools count as floats.
    where: bool[...] of the shape of ``x``, or None for all entries.
    axis: axes to reduce; all of them by default.

  Returns:
    float[...] without the reduced axes. Entries that are masked out may be NaN: they are ignored.

  Example:
    >>> float(masked_mean(jnp.array([1.0, jnp.nan]), jnp.array([True, False])))
    1.0

  Reference:
    The sample mean of the rows that a mask keeps; the value 0 for an empty mask is a convention of
    this package.
  """
  array = _checks.check_float_array("x", x, non_empty=False, complex_ok=True)
  mask = _checks.check_mask("where", where, shape=array.shape)
  if mask is None:
    return jnp.mean(array, axis=axis)
  wide = upcast(jnp.where(mask, array, 0))
  count = jnp.sum(mask, axis=axis)
  return (jnp.sum(wide, axis=axis) / jnp.maximum(count, 1).astype(wide.dtype)).astype(array.dtype)


def log_mean_exp(x: ArrayLike, *, axis: int = -1, where: ArrayLike | None = None) -> Array:
  r"""Logarithm of the mean exponential, log( (1/n) sum_i exp(x_i) ), without overflow.

  Args:
    x: float[..., n].
    axis: axis to reduce.
    where: bool of the shape of ``x``: the mean runs over the true entries only.

  Returns:
    float[...] without ``axis``; -inf where no entry is true.

  Example:
    >>> float(log_mean_exp(jnp.array([1000.0, 1000.0])))
    1000.0

  Reference:
    Blanchard, Higham and Higham, Accurately computing the log-sum-exp and softmax functions, 2021.
  """
  array = _checks.check_float_array("x", x, non_empty=False)
  mask = _checks.check_mask("where", where, shape=array.shape)
  wide = upcast(array)
  if mask is None:
    count = jnp.asarray(array.shape[axis], wide.dtype)
    mean = jax.nn.logsumexp(wide, axis=axis) - jnp.log(count)
  else:
    count = jnp.sum(mask, axis=axis)
    total = jax.nn.logsumexp(wide, axis=axis, where=mask)
    mean = total - jnp.log(jnp.maximum(count, 1).astype(wide.dtype))
  return mean.astype(array.dtype)


def log_average(log_old: ArrayLike, log_new: ArrayLike, rate: ArrayLike) -> Array:
  r"""Moving average of positive numbers that are kept as logarithms.

  Computes log( (1 - rate) exp(log_old) + rate exp(log_new) ), and log_new where log_old is -inf,
  which marks that nothing was averaged yet: the first value is taken whole.

  Args:
    log_old: float[...], logarithm of the average so far, or -inf.
    log_new: float[...], logarithm of the new value.
    rate: in (0, 1], the weight of the new value; may be traced.

  Returns:
    float[...] in the dtype of ``log_new``. NaN stays NaN.

  Example:
    >>> first = log_average(-jnp.inf, jnp.array(1000.0), 0.5)
    >>> float(first), round(float(log_average(first, jnp.array(0.0), 0.5)), 3)
    (1000.0, 999.307)

  Reference:
    Wang and Yang, Finite-sum coupled compositional stochastic optimization: theory and
    applications, 2022 (the moving average of SOX, in the log domain).
  """
  real = partial(_checks.check_float_array, non_empty=False)
  new = real("log_new", log_new)
  rate, old = real("rate", rate).astype(new.dtype), real("log_old", log_old).astype(new.dtype)
  mixed = jnp.logaddexp(jnp.log1p(-rate) + old, jnp.log(rate) + new)
  return jnp.where(jnp.isneginf(old), new, mixed)


def _sizes(x: ArrayLike, threshold: ArrayLike) -> tuple[Array, Array, Array]:
  """The array, its magnitudes and the threshold in their dtype, checked where known."""
  array = _checks.check_float_array("x", x, non_empty=False, complex_ok=True)
  threshold = _checks.check_float_array("threshold", threshold, non_empty=False)
  if _checks.is_concrete(threshold) and np.any(np.asarray(threshold) < 0):
    raise ValueError(f"threshold must be >= 0; got {np.min(np.asarray(threshold))}.")
  size = magnitude(array)
  return array, size, jnp.asarray(threshold, size.dtype)


def soft_threshold(x: ArrayLike, threshold: ArrayLike) -> Array:
  r"""Soft thresholding, sign(x) max(|x| - threshold, 0).

  Args:
    x: float[...], or complex[...]: then sign(x) = x / |x|.
    threshold: >= 0, a scalar or an array of the shape of ``x``; may be traced.

  Returns:
    An array of the shape and dtype of ``x``; NaN in an entry or its threshold gives NaN.

  Raises:
    TypeError: when ``x`` or the threshold holds no numbers.
    ValueError: when a known threshold is negative.

  Note:
    At |x| = threshold the derivative is 0.

  Example:
    >>> soft_threshold(jnp.array([-3.0, 0.5, 2.0]), 1.0)
    Array([-2.,  0.,  1.], dtype=float32)

  Reference:
    Donoho and Johnstone, Ideal spatial adaptation by wavelet shrinkage, 1994.
  """
  array, size, threshold = _sizes(x, threshold)
  left = jax.nn.relu(size - threshold)
  if jnp.iscomplexobj(array):
    return array * safe_divide(left, size, default=left)
  return jnp.sign(array) * left


def hard_threshold(x: ArrayLike, threshold: ArrayLike) -> Array:
  r"""Hard thresholding: x where |x| > threshold, else 0.

  Args:
    x: float[...] or complex[...].
    threshold: >= 0, a scalar or an array of the shape of ``x``; may be traced.

  Returns:
    An array of the shape and dtype of ``x``; NaN in an entry or its threshold gives NaN.

  Raises:
    TypeError: when ``x`` or the threshold holds no numbers.
    ValueError: when a known threshold is negative.

  Note:
    At |x| = threshold the value is 0.

  Example:
    >>> hard_threshold(jnp.array([-3.0, 0.5, 1.0]), 1.0)
    Array([-3.,  0.,  0.], dtype=float32)

  Reference:
    Blumensath and Davies, Iterative thresholding for sparse approximations, 2008, equation 2.
  """
  array, size, threshold = _sizes(x, threshold)
  kept = jnp.where(size <= threshold, 0, array)
  return jnp.where(jnp.isnan(size) | jnp.isnan(threshold), jnp.nan, kept)


def tree_all_finite(tree: PyTree) -> Array:
  """Whether every floating-point entry of a pytree is finite.

  Args:
    tree: pytree of arrays.

  Returns:
    bool scalar.

  Example:
    >>> bool(tree_all_finite({"a": jnp.array([1.0, jnp.inf])}))
    False

  Reference:
    Entrywise test; no source.
  """
  finite = [
    jnp.all(jnp.isfinite(leaf))
    for leaf in jax.tree.leaves(tree)
    if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
  ]
  return jnp.all(jnp.stack(finite)) if finite else jnp.asarray(True)


def tree_where(condition: ArrayLike, a: PyTree, b: PyTree) -> PyTree:
  """Chooses one of two pytrees of the same structure by a scalar condition.

  Args:
    condition: bool scalar; may be traced.
    a: pytree taken where the condition is true.
    b: pytree taken where it is false.

  Returns:
    pytree like ``a``.

  Example:
    >>> tree_where(True, {"a": jnp.ones(1)}, {"a": jnp.zeros(1)})["a"]
    Array([1.], dtype=float32)

  Reference:
    Leafwise ``jnp.where``; no source.
  """
  condition = _checks.as_array("condition", condition)
  return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)
