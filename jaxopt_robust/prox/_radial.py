"""Functions of norms: a group keeps its direction; one number gives its new length."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _checks
from jaxopt_robust.prox._common import factor_of
from jaxopt_robust.typing import Array, ArrayLike, Penalty


def check_shared(
  hyperparams: Any, shape: tuple[int, ...], what: str, name: str = "each of hyperparams"
) -> None:
  """Every leaf of the hyper-parameters is a scalar or holds one number for each ``what``."""
  for leaf in jax.tree.leaves(hyperparams):
    if np.ndim(leaf) and np.shape(leaf) != shape:  # anything that is no number too
      raise ValueError(
        f"{name} must be a scalar or hold one number a {what}, shape {shape}; "
        f"got shape {np.shape(leaf)}."
      )


def check_lam(lam: Any, shape: tuple[int, ...], what: str) -> None:
  """A strength >= 0, one for all or one for each ``what``; None means 1."""
  if lam is not None:
    _checks.check_non_negative("lam", lam)
    check_shared(lam, shape, what, "lam")


def factors(penalty: Penalty, norms: Array, hyperparams: Any, scaling: ArrayLike) -> Array:
  """New length over old length: what each entry of a group is multiplied with.

  At a zero group it is the slope of the operator there, so that the derivative is right for smooth
  penalties and 0 for those that threshold.
  """
  lengths, slopes = jax.jvp(
    lambda r: penalty.prox(r, hyperparams, scaling), (norms,), (jnp.ones_like(norms),)
  )
  return factor_of(norms, lengths, slopes)
