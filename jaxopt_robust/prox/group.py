"""Proximal operators that act on a whole group of entries at once."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import safe_norm, upcast
from jaxopt_robust.prox._common import scaled_for, start, strength, value_dtype
from jaxopt_robust.prox._stationary import quotient
from jaxopt_robust.typing import Array, ArrayLike, Penalty, PyTree

__all__ = ["group_lasso", "penalty_group_lasso", "prox_group_lasso"]


def _checked(l2reg: Any) -> Any:
  if l2reg is None:
    return 1.0
  _checks.check_non_negative("l2reg", l2reg)
  if jnp.ndim(l2reg) != 0:
    raise ValueError(
      f"l2reg must be a scalar (one group a call; use jax.vmap for many groups); "
      f"got shape {jnp.shape(l2reg)}."
    )
  return l2reg


def _norm(x: PyTree) -> Array:
  return safe_norm(jnp.stack([safe_norm(upcast(leaf)) for leaf in jax.tree.leaves(x)]))


def prox_group_lasso(x: PyTree, l2reg: Any = 1.0, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Block soft thresholding, the proximal operator of the (unsquared) l2 norm.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * lam ||y||_2 with lam = l2reg, by
  y = max(1 - scaling lam / ||x||_2, 0) x.

  Args:
    x: float[...] or complex[...] array or pytree of arrays: one group. Use ``jax.vmap`` over the
      rows of an array for many groups of one size.
    l2reg: lam >= 0, a scalar; may be traced. None means 1.
    scaling: >= 0, the step size; may be traced.

  Returns:
    Same structure, shapes and dtypes as ``x``. One NaN makes the whole group NaN.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when the strength or the scaling is negative or not a scalar.

  Note:
    At ||x|| = scaling * lam and at x = 0 the derivative is 0; with lam = 0 it is the identity away
    from 0.

  Example:
    >>> prox_group_lasso(jnp.array([3.0, 4.0]), 1.0)
    Array([2.4, 3.2], dtype=float32)

  Reference:
    Yuan and Lin, Model selection and estimation in regression with grouped variables, 2006.
  """
  x = start(x, scaling, complex_ok=True)
  norm = _norm(x)
  threshold = strength(scaled_for(scaling, norm), jnp.asarray(_checked(l2reg), norm.dtype))
  keep = norm > threshold
  factor = jnp.where(keep, 1 - quotient(threshold, jnp.where(keep, norm, 1)), 0)
  factor = jnp.where(jnp.isnan(norm) | jnp.isnan(threshold), jnp.nan, factor)
  return jax.tree.map(lambda v: (factor * upcast(v)).astype(v.dtype), x)


def penalty_group_lasso(x: PyTree, l2reg: Any = 1.0) -> Array:
  r"""The l2 norm of one group.

  Computes g(x) = lam ||x||_2 with lam = l2reg.

  Args:
    x: float[...] or complex[...] array or pytree of arrays: one group.
    l2reg: lam >= 0, a scalar; may be traced. None means 1.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when the strength is negative or not a scalar.

  Example:
    >>> float(penalty_group_lasso(jnp.array([3.0, 4.0]), 2.0))
    10.0

  Reference:
    Yuan and Lin, Model selection and estimation in regression with grouped variables, 2006.
  """
  x = _checks.check_float_tree("x", x, complex_ok=True)
  norm = _norm(x)
  return (jnp.asarray(_checked(l2reg), norm.dtype) * norm).astype(value_dtype(x))


group_lasso = Penalty(penalty_group_lasso, prox_group_lasso)
