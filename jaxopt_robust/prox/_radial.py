"""Functions of norms: a group keeps its direction; one number gives its new length."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust.numerics import safe_divide
from jaxopt_robust.prox._common import root
from jaxopt_robust.typing import Array, ArrayLike, Penalty


def check_shared(hyperparams: Any, shape: tuple[int, ...], what: str) -> None:
  """Every leaf of the hyper-parameters is a scalar or holds one number for each ``what``."""
  for leaf in jax.tree.leaves(hyperparams):
    if jnp.ndim(leaf) and jnp.shape(leaf) != shape:
      raise ValueError(
        f"each of hyperparams must be a scalar or hold one number a {what}, shape {shape}; "
        f"got shape {jnp.shape(leaf)}."
      )


def norms_of(
  x: Array,
  total: Callable[[Array], Array],
  largest: Callable[[Array], Array],
  back: Callable[[Array], Array],
) -> Array:
  """Norms of the groups of ``x`` that ``total`` and ``largest`` reduce and ``back`` expands.

  The entries are divided by the largest of their group first: squares of 1e-30 or 1e30 do not fit
  in float32. The derivative at a zero group is 0.
  """
  top = jax.lax.stop_gradient(largest(jnp.abs(x)))
  scale = jnp.where((top > 0) & (top < jnp.inf), top, 1)  # NaN and inf pass through the sum
  return scale * root(total((x / back(scale)) ** 2))


def norm_of(x: Array) -> Array:
  """Norm of all entries of one array, as ``norms_of``."""
  return norms_of(x, jnp.sum, jnp.max, lambda scale: scale)


def factors(penalty: Penalty, norms: Array, hyperparams: Any, scaling: ArrayLike) -> Array:
  """New length over old length: what each entry of a group is multiplied with.

  At a zero group it is the slope of the operator there, so that the derivative is right for smooth
  penalties and 0 for those that threshold.
  """
  lengths, slopes = jax.jvp(
    lambda r: penalty.prox(r, hyperparams, scaling), (norms,), (jnp.ones_like(norms),)
  )
  finite = ~jnp.isinf(norms)
  # Both are divided by a constant first: a derivative squares the denominator.
  size = jax.lax.stop_gradient(jnp.where(finite & (norms > 0), norms, 1))
  lengths, relative = jnp.where(finite, lengths, 1), jnp.where(finite, norms, 1) / size
  factor = safe_divide(lengths / size, relative)
  return jnp.where(norms == 0, slopes, factor)
