"""Robust, non-smooth and structured optimization in JAX.

Pure functions that compose: losses and proximal operators say *what* is minimised, solvers and
optax transformations say *how*, methods (recovery, robustness, ...) wire them together, and
``sweeps`` says *where* it runs. Subpackages are loaded on first use, so that importing this package
costs little more than importing JAX and optax.

Example:
  >>> import jax.numpy as jnp
  >>> import jaxopt_robust as jr
  >>> jr.prox.prox_lasso(jnp.array([-3.0, 0.5, 2.0]), 1.0)
  Array([-2.,  0.,  1.], dtype=float32)
"""

import importlib
from types import ModuleType

from jaxopt_robust._version import __version__

_PUBLIC_MODULES = (
  "bilevel",
  "calibration",
  "compositional",
  "debug",
  "layers",
  "linalg",
  "losses",
  "nets",
  "numerics",
  "problems",
  "projections",
  "prox",
  "recovery",
  "regression",
  "robustness",
  "solvers",
  "surrogates",
  "sweeps",
  "transforms",
  "typing",
  "unfolding",
)

__all__ = ["__version__", *_PUBLIC_MODULES]


def __getattr__(name: str) -> ModuleType:
  if name in _PUBLIC_MODULES:
    return importlib.import_module(f"{__name__}.{name}")
  raise importlib.import_module(f"{__name__}._names").unknown(__name__, name)


def __dir__() -> list[str]:
  return sorted(__all__)
