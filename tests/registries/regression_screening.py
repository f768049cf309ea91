"""Public names and bad inputs of screening in ``regression``."""

import functools

import jax.numpy as jnp

from jaxopt_robust import regression
from tests.helpers import BadInput

COVERED = {"MIScreening", "mi_binned", "mi_kde", "mi_kde_discrete", "mi_screen"}

_X, _Y, _CLASSES = jnp.ones((3, 2)), jnp.ones(3), jnp.array([0, 1, 0])
BAD_INPUTS: list[BadInput] = []


def _add(name, what, error, match, *args, **options):
  call = functools.partial(getattr(regression, name), *args, **options)
  BAD_INPUTS.append(BadInput(f"regression.{name}", what, call, error, match))


_add("mi_kde", "rank", ValueError, "x must have rank 1", _X, _Y)
_add("mi_kde", "rows", ValueError, "y must have a number for each of the 3 rows", _Y, _Y[:2])
_add("mi_kde", "grid", ValueError, "num_grid must be at least 8", _Y, _Y, num_grid=1)
_add("mi_kde", "kernel", ValueError, "Did you mean 'gaussian'", _Y, _Y, kernel="gauss")
_add("mi_kde", "complex", TypeError, "x must be a floating-point array of real", 1j * _Y, _Y)
_add("mi_kde_discrete", "rank", ValueError, "x must have rank 1", _X, _CLASSES, num_classes=2)
_add("mi_kde_discrete", "kind", TypeError, "labels must hold integer", _Y, _Y, num_classes=2)
_add("mi_kde_discrete", "range", ValueError, r"labels must lie in \[0, 1\)", _Y, _CLASSES,
     num_classes=1)  # fmt: skip
_add("mi_kde_discrete", "classes", ValueError, "num_classes must be", _Y, _CLASSES, num_classes=0)
_add("mi_binned", "rows", ValueError, "y must have a number for each of the 3 rows", _Y, _Y[:2])
_add("mi_binned", "bins", ValueError, "max_bins must be at least 2", _Y, _Y, max_bins=1)
_SCREEN = functools.partial(_add, "mi_screen")
_SCREEN("rank", ValueError, "x must have rank 2", _Y, _Y, top_k=1)
_SCREEN("rows", ValueError, "y must have a number for each", _X, _Y[:2], top_k=1)
_SCREEN("top", ValueError, "top_k must be at most 2", _X, _Y, top_k=3)
_SCREEN("estimator", ValueError, "Did you mean 'binned'", _X, _Y, top_k=1, estimator="bins")
_SCREEN("block", ValueError, "block_size must be at least 1", _X, _Y, top_k=1, block_size=0)
_SCREEN(
  "missing", ValueError, "num_classes must be given", _X, _CLASSES, top_k=1, estimator="discrete"
)
_SCREEN(
  "labels", TypeError, "y must hold integer", _X, _Y, top_k=1, estimator="discrete", num_classes=2
)
_SCREEN(
  "bins", ValueError, "max_bins must be at least 2", _X, _Y, top_k=1, estimator="binned", max_bins=1
)
