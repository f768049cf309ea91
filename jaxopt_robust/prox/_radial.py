"""Functions of norms: a group keeps its direction; one number gives its new length."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust.prox._common import factor_of
from jaxopt_robust.typing import Array, ArrayLike, Penalty


def check_shared(hyperparams: Any, shape: tuple[int, ...], what: str) -> None:
  """Every leaf of the hyper-parameters is a scalar or holds one number for each ``what``."""
  for leaf in jax.tree.leaves(hyperparams):
    if jnp.ndim(leaf) and jnp.shape(leaf) != shape:
      raise ValueError(
        f"each of hyperparams must be a scalar or hold one number a {what}, shape {shape}; "
        f"got shape {jnp.shape(leaf)}."
      )


def factors(penalty: Penalty, norms: Array, hyperparams: Any, scaling: ArrayLike) -> Array:
  """New length over old length: what each entry of a group is multiplied with.

  At a zero group it is the slope of the operator there, so that the derivative is right for smooth
  penalties and 0 for those that threshold.
  """
  lengths, slopes = jax.jvp(
    lambda r: penalty.prox(r, hyperparams, scaling), (norms,), (jnp.ones_like(norms),)
  )
  return factor_of(norms, lengths, slopes)
