"""All optax links, and calls that must fail."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import optax

from jaxopt_robust import prox, transforms
from tests.helpers import BadInput


class TransformCase(NamedTuple):
  """A link under the contract tests of ``tests/transforms``.

  Attributes:
    name: its name.
    make: factory; takes the keyword arguments ``hyper``.
    hyper: hyper-parameters that ``optax.inject_hyperparams`` injects.
    static: names of arguments that are not injected.
    fixed: other arguments of the factory.
  """

  name: str
  make: Callable
  hyper: dict
  static: tuple
  fixed: dict


TRANSFORMS = [
  TransformCase(
    "proximal",
    transforms.proximal,
    {"hyperparams": 0.3, "learning_rate": 0.1},
    ("prox",),
    {"prox": prox.prox_lasso},
  )
]
COVERED = {"ProximalState", "apply_updates_projected", "proximal"}

SIMPLEX = optax.projections.projection_simplex
X = jnp.ones(2)
TX = transforms.proximal(prox.prox_lasso, learning_rate=0.1)

BAD_INPUTS = [
  BadInput(
    "transforms.proximal", "prox", lambda: transforms.proximal(1.0, learning_rate=0.1), TypeError,
    "prox must be callable",
  ),
  BadInput(
    "transforms.proximal", "rate",
    lambda: transforms.proximal(prox.prox_lasso, learning_rate=-0.1), ValueError,
    "learning_rate must be >= 0; got -0.1",
  ),
  BadInput(
    "transforms.proximal", "no params", lambda: TX.update(X, TX.init(X)), ValueError,
    "needs the current parameters",
  ),
  BadInput(
    "transforms.apply_updates_projected", "projection",
    lambda: transforms.apply_updates_projected(X, X, None), TypeError, "projection must",
  ),
  BadInput(
    "transforms.apply_updates_projected", "structure",
    lambda: transforms.apply_updates_projected(X, {"a": X}, SIMPLEX), ValueError, "structure",
  ),
  BadInput(
    "transforms.apply_updates_projected", "integers",
    lambda: transforms.apply_updates_projected(jnp.arange(2), X, SIMPLEX), TypeError, "floating",
  ),
]  # fmt: skip
