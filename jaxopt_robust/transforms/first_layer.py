"""First layers whose weight gradient moves the pre-activations along their own gradient (TrAct)."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _checks
from jaxopt_robust._units import exponent_of, power
from jaxopt_robust.numerics import upcast
from jaxopt_robust.transforms._patches import EXACT, Padding, convolve, patches_of, window_of
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["input_gram", "patch_gram", "scale_by_tract", "tract_conv", "tract_dense"]


def tract_dense(
  x: ArrayLike, w: ArrayLike, *, lam: ArrayLike = 0.1, axis_name: str | None = None
) -> Array:
  r"""Product x w of a first layer, with a weight gradient that trains the pre-activations.

  With X float[b, n] the rows of ``x``, Z = X w and G the gradient by Z, the derivative by w is

    (X^T X / b + lam I)^{-1} X^T G        instead of X^T G,

  the minimiser D, up to the sign, of ||b G + X D||_F^2 + lam b ||D||_F^2: one step of rate r along
  it moves Z as nearly by -r b G as a ridge allows, however bright the inputs are or how strong
  their contrast is. The value, and the derivative by x, are those of the plain product, bit by bit.

  Args:
    x: float[..., n], inputs; all leading axes count as rows.
    w: float[n, m], weights.
    lam: >= 0, ridge; may be traced. The paper takes 0.1 for standardised inputs, 0.05 for short and
      0.2 for long trainings.
    axis_name: name of a mapped axis (``shard_map``, ``pmap``) that splits the rows: the Gram matrix
      and X^T G are averaged over it, so that the gradient does not depend on the number of devices.

  Returns:
    float[..., m], in the common dtype.

  Raises:
    TypeError: an argument is not floating-point.
    ValueError: shapes that do not fit, or a negative lam.

  Note:
    Write the loss as a mean over the examples: b G is meant to be the gradient of one of them. With
    b < n (and no ``axis_name``) the same formula is solved as X^T (X X^T / b + lam I)^{-1} G, a
    b x b system. A lam below the rounding of the Gram matrix, eps trace(X^T X / b), is raised to
    it. Reverse mode only: this is deliberately not the derivative of the value. Clip such gradients
    apart from others (``optax.partition``): they have another scale.

  Example:
    >>> x, w = jnp.array([[2.0, 0.0], [0.0, 8.0]]), jnp.zeros((2, 1))
    >>> tract_dense(x, w, lam=0.1).shape
    (2, 1)
    >>> loss = lambda w: jnp.mean(tract_dense(x, w, lam=0.0) - 1.0)
    >>> (x @ jax.grad(loss)(w)).round(3)  # each row moves by its own gradient, not by |x|^2 of it
    Array([[1.],
           [1.]], dtype=float32)

  Reference:
    Petersen, Borgelt and Ermon, TrAct: making first-layer pre-activations trainable, 2024,
    equations 3 to 7. Their public code inverts with ``cholesky_inverse`` of the matrix itself as
    an option; here it is a Cholesky solve.
  """
  x = _checks.check_float_array("x", x, min_rank=1)
  w = _checks.check_float_array("w", w, rank=2)
  if x.shape[-1] != w.shape[0]:
    raise ValueError(f"the last axis of x must match the first of w; got {x.shape} and {w.shape}.")
  lam = _check_lam(lam)
  dtype = jnp.promote_types(x.dtype, w.dtype)
  return _dense(x.astype(dtype), w.astype(dtype), lam, axis_name)


def tract_conv(
  x: ArrayLike,
  w: ArrayLike,
  *,
  lam: ArrayLike = 0.1,
  strides: int | Sequence[int] = 1,
  padding: Padding = "SAME",
  dilation: int | Sequence[int] = 1,
  groups: int = 1,
  axis_name: str | None = None,
) -> Array:
  r"""Convolution of a first layer, with the weight gradient of ``tract_dense`` over its patches.

  The rows of X are the patches of all images and positions, b = images * positions of them, each of
  n = in * product(window) numbers. A patch embedding is a convolution whose strides are its window.

  Args:
    x: float[..., *size, in], images with channels last.
    w: float[*window, in / groups, out], as flax has it; one to three spatial axes.
    lam: >= 0, ridge; may be traced.
    strides: >= 1, static, one number or one an axis.
    padding: ``"SAME"``, ``"VALID"``, or a pair (before, after) for each spatial axis; static.
    dilation: >= 1, static, of the kernel.
    groups: >= 1, static; each group of channels has its own Gram matrix.
    axis_name: as in ``tract_dense``.

  Returns:
    float[..., *positions, out], in the common dtype.

  Raises:
    TypeError: an argument is not floating-point, or a size no static integer.
    ValueError: shapes that do not fit, an unknown padding, or a number out of its range.

  Note:
    The backward pass holds all patches: product(window) / product(strides) times the images.

  Example:
    >>> x, w = jnp.ones((2, 4, 4, 1)), jnp.ones((2, 2, 1, 3))
    >>> tract_conv(x, w, strides=2).shape
    (2, 2, 2, 3)

  Reference:
    Petersen, Borgelt and Ermon, TrAct: making first-layer pre-activations trainable, 2024, section
    3.2. Dilation, groups and padding are kept, which the wrapper of their public code drops.
  """
  x = _checks.check_float_array("x", x, min_rank=1)
  w = _checks.check_float_array("w", w, rank=(3, 4, 5))
  spatial = w.ndim - 2
  if x.ndim < spatial + 1:
    raise ValueError(
      f"x must have the {spatial} spatial axes of w and channels; got {x.shape} and {w.shape}."
    )
  groups = _checks.check_int("groups", groups, minimum=1)
  if x.shape[-1] != w.shape[-2] * groups or w.shape[-1] % groups:
    raise ValueError(
      "w must have shape [..., in / groups, out] with out a multiple of groups; got "
      f"{w.shape} for {x.shape[-1]} channels of x and groups = {groups}."
    )
  lam = _check_lam(lam)
  window = window_of(w.shape[:spatial], strides, padding, dilation)
  dtype = jnp.promote_types(x.dtype, w.dtype)
  images = x.reshape(-1, *x.shape[x.ndim - spatial - 1 :]).astype(dtype)
  out = _conv(images, w.astype(dtype), lam, window, groups, axis_name)
  return out.reshape(*x.shape[: x.ndim - spatial - 1], *out.shape[1:])


def input_gram(x: ArrayLike, *, axis_name: str | None = None) -> Array:
  r"""Second moments X^T X / b of the inputs of a dense layer, for ``scale_by_tract``.

  Args:
    x: float[..., n], inputs; all leading axes count as rows, b of them.
    axis_name: name of a mapped axis over whose devices the matrix is averaged.

  Returns:
    float[n, n], in float32 or wider.

  Raises:
    TypeError: x is not floating-point.
    ValueError: x is empty or a scalar.

  Example:
    >>> input_gram(jnp.array([[1.0, 0.0], [1.0, 2.0]]))
    Array([[1., 1.],
           [1., 2.]], dtype=float32)

  Reference:
    Petersen, Borgelt and Ermon, TrAct: making first-layer pre-activations trainable, 2024,
    equation 7.
  """
  x = upcast(_checks.check_float_array("x", x, min_rank=1))
  rows = x.reshape(-1, x.shape[-1])
  return _mean_over(_gram(rows), axis_name)


def patch_gram(
  x: ArrayLike,
  *,
  window: Sequence[int],
  strides: int | Sequence[int] = 1,
  padding: Padding = "SAME",
  dilation: int | Sequence[int] = 1,
  axis_name: str | None = None,
) -> Array:
  r"""Second moments X^T X / b of the patches under a convolution, for ``scale_by_tract``.

  Args:
    x: float[..., *size, in], images with channels last.
    window: size of the kernel along each spatial axis, static.
    strides: >= 1, static, one number or one an axis.
    padding: ``"SAME"``, ``"VALID"``, or a pair (before, after) for each spatial axis; static.
    dilation: >= 1, static, of the kernel.
    axis_name: name of a mapped axis over whose devices the matrix is averaged.

  Returns:
    float[n, n] with n = product(window) * in, in the order of a kernel [*window, in, out].

  Raises:
    TypeError: x is not floating-point, or a size no static integer.
    ValueError: shapes that do not fit, or an unknown padding.

  Example:
    >>> patch_gram(jnp.ones((1, 2, 2, 1)), window=(1, 2), padding="VALID")
    Array([[1., 1.],
           [1., 1.]], dtype=float32)

  Reference:
    Petersen, Borgelt and Ermon, TrAct: making first-layer pre-activations trainable, 2024, section
    3.2.
  """
  x = upcast(_checks.check_float_array("x", x, min_rank=2))
  if not isinstance(window, tuple | list):
    raise TypeError(f"window must hold a size for each spatial axis; got {window!r}.")
  sizes = tuple(_checks.check_int("window", size, minimum=1) for size in window)
  if not 1 <= len(sizes) <= min(3, x.ndim - 1):
    raise ValueError(f"window must have 1 to 3 axes, all of them in x; got {sizes} and {x.shape}.")
  images = x.reshape(-1, *x.shape[x.ndim - len(sizes) - 1 :])
  rows = patches_of(images, window_of(sizes, strides, padding, dilation))
  return _mean_over(_gram(rows.reshape(len(rows), -1)), axis_name)


def scale_by_tract(lam: ArrayLike = 0.1) -> optax.GradientTransformationExtraArgs:
  r"""The gradient of ``tract_dense`` out of the ordinary one: a link of an optax chain.

  A gradient g of weights [..., out], seen as a matrix with the axes before the last one as rows,
  becomes (gram + lam I)^{-1} g, with gram = X^T X / b of the inputs of their layer.

  Args:
    lam: >= 0, ridge; may be traced.

  Returns:
    ``optax.GradientTransformationExtraArgs`` without state. ``update`` needs the extra argument
    ``gram``: float[n, n] (``input_gram``, ``patch_gram``), or a pytree like the gradients with one
    for each leaf. Choose the leaves by ``optax.masked`` or ``optax.partition``.

  Raises:
    ValueError: lam is negative and known, ``update`` gets no ``gram``, or one of another size.

  Note:
    On several devices average the gradient and the Gram matrix first (``axis_name`` of
    ``input_gram``), then update: the solution of a mean is not the mean of solutions.

  Example:
    >>> tx = optax.masked(scale_by_tract(0.0), {"kernel": True, "bias": False})
    >>> grads = {"kernel": jnp.array([[2.0], [8.0]]), "bias": jnp.ones(1)}
    >>> updates, _ = tx.update(grads, tx.init(grads), gram=jnp.diag(jnp.array([2.0, 32.0])))
    >>> updates["kernel"].ravel().round(3), updates["bias"]
    (Array([1.  , 0.25], dtype=float32), Array([1.], dtype=float32))

  Reference:
    Petersen, Borgelt and Ermon, TrAct: making first-layer pre-activations trainable, 2024,
    equation 7.
  """
  _check_lam(lam)

  def init(params: PyTree) -> optax.EmptyState:
    del params
    return optax.EmptyState()

  def update(
    updates: PyTree,
    state: optax.EmptyState,
    params: PyTree | None = None,
    *,
    gram: Any = None,
    **extra_args: Any,
  ) -> tuple[PyTree, optax.EmptyState]:
    del params, extra_args
    if gram is None:
      raise ValueError(
        "scale_by_tract needs the second moments of the inputs: call "
        "tx.update(grads, state, params, gram=input_gram(x))."
      )
    is_masked = lambda u: isinstance(u, optax.MaskedNode)

    def one(gradient: Array, moments: ArrayLike) -> Array:
      if is_masked(gradient):
        return gradient
      rows = math.prod(jnp.shape(gradient)[:-1])
      moments = upcast(_checks.check_float_array("gram", moments, rank=2))
      if moments.shape != (rows, rows):
        raise ValueError(
          f"gram must have shape {(rows, rows)} for a gradient of shape {jnp.shape(gradient)}; got "
          f"{moments.shape}. Other leaves are left out by optax.masked."
        )
      dtype = jnp.promote_types(moments.dtype, upcast(gradient).dtype)
      ridge = jnp.asarray(lam, dtype)
      largest = jnp.maximum(jnp.max(jnp.abs(moments), initial=0).astype(dtype), ridge)
      unit = power(exponent_of(largest), dtype)
      matrix = gradient.astype(dtype).reshape(rows, -1)
      solved = _ridge_solve(moments.astype(dtype) / unit, ridge / unit, matrix) / unit
      return solved.reshape(gradient.shape).astype(gradient.dtype)

    if jax.tree_util.treedef_is_leaf(jax.tree.structure(gram)):
      new = jax.tree.map(lambda g: one(g, gram), updates, is_leaf=is_masked)
    else:
      new = jax.tree.map(one, updates, gram, is_leaf=is_masked)
    return new, state

  return optax.GradientTransformationExtraArgs(init, update)


def _check_lam(lam: ArrayLike) -> Array:
  _checks.check_non_negative("lam", lam, scalar=True)
  return _checks.check_float_array("lam", lam, rank=0)


def _mean_over(value: Array, axis_name: str | None) -> Array:
  return value if axis_name is None else jax.lax.pmean(value, axis_name)


def _gram(rows: Array) -> Array:
  return jnp.matmul(rows.T, rows, precision=EXACT) / max(1, len(rows))


def _ridge_solve(moments: Array, ridge: Array, right: Array) -> Array:
  """(moments + ridge I)^{-1} right by a Cholesky factor, which rounding must leave to exist."""
  least = jnp.finfo(moments.dtype).eps * jnp.trace(moments)
  shift = jnp.maximum(ridge, least)
  shift = jnp.where(shift == 0, 1, shift)  # no input and no ridge: the right side is 0 as well
  matrix = moments + shift * jnp.eye(len(moments), dtype=moments.dtype)
  return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix), True), right)


def _weight_gradient(rows: Array, upstream: Array, lam: Array, axis_name: str | None) -> Array:
  """(X^T X / b + lam I)^{-1} X^T G, by the smaller of the two systems, in units of size 1."""
  x, g = upcast(rows), upcast(upstream)
  lam = jnp.asarray(lam, x.dtype)  # kept as a plain number under jax.checkpoint
  size = jnp.maximum(jnp.max(jnp.abs(x), initial=0), jnp.sqrt(lam))
  if axis_name is not None:
    size = jax.lax.pmax(size, axis_name)
  unit = power(exponent_of(size), x.dtype)
  x, ridge = x / unit, lam / unit / unit
  multiply = functools.partial(jnp.matmul, precision=EXACT)
  if axis_name is None and x.shape[0] < x.shape[1]:
    solved = multiply(x.T, _ridge_solve(multiply(x, x.T) / len(x), ridge, g))
  else:
    raw = _mean_over(multiply(x.T, g), axis_name)
    solved = _ridge_solve(_mean_over(_gram(x), axis_name), ridge, raw)
  return solved / unit


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _dense(x: Array, w: Array, lam: Array, axis_name: str | None) -> Array:
  del lam, axis_name
  return jnp.dot(x, w)


def _dense_forward(x: Array, w: Array, lam: Array, axis_name: str | None) -> tuple[Array, tuple]:
  return _dense(x, w, lam, axis_name), (x, w, lam)


def _dense_backward(axis_name: str | None, kept: tuple, upstream: Array) -> tuple:
  x, w, lam = kept
  (to_x,) = jax.linear_transpose(lambda x: jnp.dot(x, w), x)(upstream)
  rows, g = x.reshape(-1, x.shape[-1]), upstream.reshape(-1, upstream.shape[-1])
  to_w = _weight_gradient(rows, g, lam, axis_name).astype(w.dtype)
  return to_x, to_w, jnp.zeros_like(lam)


_dense.defvjp(_dense_forward, _dense_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _conv(
  x: Array, w: Array, lam: Array, window: tuple, groups: int, axis_name: str | None
) -> Array:
  del lam, axis_name
  return convolve(x, w, window, groups)


def _conv_forward(
  x: Array, w: Array, lam: Array, window: tuple, groups: int, axis_name: str | None
) -> tuple[Array, tuple]:
  return _conv(x, w, lam, window, groups, axis_name), (x, w, lam)


def _conv_backward(
  window: tuple, groups: int, axis_name: str | None, kept: tuple, upstream: Array
) -> tuple:
  x, w, lam = kept
  (to_x,) = jax.linear_transpose(lambda x: convolve(x, w, window, groups), x)(upstream)
  patches = patches_of(upcast(x), window)
  count, taps, channels = patches.shape
  # A group has its channels and its outputs: [groups, rows, taps * channels], [groups, rows, out].
  rows = patches.reshape(count, taps, groups, channels // groups)
  rows = jnp.moveaxis(rows, 2, 0).reshape(groups, count, -1)
  g = jnp.moveaxis(upstream.reshape(count, groups, -1), 1, 0)
  each = jax.vmap(lambda r, g: _weight_gradient(r, g, lam, axis_name))(rows, g)
  to_w = jnp.moveaxis(each, 0, 1).reshape(w.shape).astype(w.dtype)
  return to_x, to_w, jnp.zeros_like(lam)


_conv.defvjp(_conv_forward, _conv_backward)
