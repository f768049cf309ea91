"""What every proximal operator shares: checked inputs, broadcast strengths, complex entries."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import magnitude, upcast
from jaxopt_robust.typing import Array, ArrayLike, PyTree


def real_dtype(dtype: Any) -> Any:
  """The dtype of the real part."""
  return jnp.finfo(dtype).dtype


def spread(
  name: str,
  hyper: Any,
  x: PyTree,
  *,
  check: Callable[[str, Any], None] = _checks.check_non_negative,
) -> PyTree:
  """A parameter for each leaf of ``x``: broadcasts a scalar or a pytree prefix; None means 1."""
  if hyper is None:
    hyper = 1.0
  check(name, hyper)
  try:
    spread_tree = jax.tree.broadcast(hyper, x)
  except ValueError as error:
    raise ValueError(
      f"{name} must be a number or a pytree prefix of x; got {jax.tree.structure(hyper)} "
      f"for x of structure {jax.tree.structure(x)}."
    ) from error

  def fit(leaf: Array, strength: ArrayLike) -> Array:
    array = jnp.asarray(strength, real_dtype(leaf.dtype))
    if array.ndim and array.shape != leaf.shape:
      raise ValueError(
        f"{name} must be a scalar or have the shape of x, {leaf.shape}; got {array.shape}."
      )
    return array

  return jax.tree.map(fit, x, spread_tree)


def _check_scaling(scaling: ArrayLike) -> None:
  _checks.check_non_negative("scaling", scaling)
  if jnp.ndim(scaling) != 0:
    raise ValueError(f"scaling must be a scalar; got shape {jnp.shape(scaling)}.")


def start(x: PyTree, scaling: ArrayLike, *, complex_ok: bool = False) -> PyTree:
  """Checks what every proximal operator takes: float arrays and a scaling >= 0."""
  _check_scaling(scaling)
  return _checks.check_float_tree("x", x, complex_ok=complex_ok)


def start_array(
  x: ArrayLike,
  scaling: ArrayLike = 0.0,
  *,
  min_rank: int = 0,
  shape: tuple[int, ...] | None = None,
  complex_ok: bool = False,
) -> Array:
  """Like ``start`` for one array of a least rank or a given shape, not a pytree; may be empty."""
  _check_scaling(scaling)
  array = _checks.check_float_array(
    "x", x, min_rank=min_rank, non_empty=False, complex_ok=complex_ok
  )
  if shape is not None and array.shape != shape:
    raise ValueError(f"x must have the shape of group_ids, {shape}; got {array.shape}.")
  return jax.lax.convert_element_type(array, array.dtype)  # without weak types


def scaled_for(scaling: ArrayLike, leaf: Array) -> Array:
  """The scaling in the real dtype of one leaf, so that it promotes nothing."""
  return jnp.asarray(scaling, real_dtype(leaf.dtype))


def strength(scaling: Array, lam: Array) -> Array:
  """scaling * lam, at most the largest number: an infinite strength times 0 would be NaN."""
  return jnp.minimum(scaling * lam, jnp.finfo(lam.dtype).max)


def factor_of(size: Array, lengths: Array, slopes: Array) -> Array:
  """lengths / size, and the slope of the operator where the size is 0."""
  finite = ~jnp.isinf(size)
  is_zero = size == 0
  # Both are multiplied by a constant first: a derivative squares the denominator. No quotients of
  # quotients, which compilers turn into products that overflow.
  unit = jax.lax.stop_gradient(1 / jnp.where(finite & ~is_zero, size, 1))
  relative = jnp.where(is_zero, 1, jnp.where(finite, size, 1) * unit)
  return jnp.where(is_zero, slopes, jnp.where(finite, lengths, 1) * unit / relative)


def radial(fun: Callable[[Array], Array], x: Array) -> Array:
  """A real operator on the modulus of complex numbers; the phase stays."""
  size = magnitude(x)
  return factor_of(size, *jax.jvp(fun, (size,), (jnp.ones_like(size),))) * x


def _nan_where(out: Array, *inputs: Array) -> Array:
  """``out``, and NaN where an input is: comparisons send NaN to one of the branches."""
  for value in inputs:
    out = jnp.where(jnp.isnan(value), jnp.nan, out)
  return out


def entrywise(fun: Callable[..., Array], x: PyTree, scaling: ArrayLike, *params: PyTree) -> PyTree:
  """``fun(v, scaling, *params)`` on every leaf, computed in float32 at least, in the leaf's dtype.

  Closed forms with roots lose too many digits in half precision. Where the caller let complex
  arrays in, ``fun`` acts on their moduli. NaN in any argument of an entry makes it NaN.
  """

  def one(v: Array, *leaves: Array) -> Array:
    wide = upcast(v)
    s = jnp.asarray(scaling, real_dtype(wide.dtype))
    wides = [upcast(leaf) for leaf in leaves]
    if jnp.iscomplexobj(v):
      return radial(lambda r: _nan_where(fun(r, s, *wides), s, *wides), wide).astype(v.dtype)
    return _nan_where(fun(wide, s, *wides), wide, s, *wides).astype(v.dtype)

  return jax.tree.map(one, x, *params)


def total_of(fun: Callable[..., Array], x: PyTree, *params: PyTree) -> Array:
  """Sum over all entries of ``fun(v, *params)``, ``|v|`` for complex ones; NaN gives NaN.

  Computed in float32 at least; the dtype is the real one of the leaves.
  """

  def one(v: Array, *leaves: Array) -> Array:
    wide = magnitude(upcast(v)) if jnp.iscomplexobj(v) else upcast(v)
    wides = [upcast(leaf) for leaf in leaves]
    return jnp.sum(_nan_where(fun(wide, *wides), wide, *wides))

  sums: list[Array] = jax.tree.leaves(jax.tree.map(one, x, *params))
  return jnp.asarray(sum(sums), value_dtype(x))


def value_dtype(x: PyTree) -> Any:
  """The dtype of a penalty's value: the real one of the leaves."""
  return real_dtype(jnp.result_type(*jax.tree.leaves(x)))


def root(square: ArrayLike) -> Array:
  """Square root with derivative 0 at 0."""
  array = jnp.asarray(square)
  is_zero = array == 0  # False for NaN, which stays NaN
  return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, array)))
