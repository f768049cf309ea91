"""All optax links, and calls that must fail."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
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
    extra: ``grads -> extra arguments`` that its update cannot do without.
    separable: whether a block's update does not depend on the others.
  """

  name: str
  make: Callable
  hyper: dict
  static: tuple
  fixed: dict
  extra: Callable = lambda grads: {}
  separable: bool = True


TRANSFORMS = [
  TransformCase(
    "proximal",
    transforms.proximal,
    {"hyperparams": 0.3, "learning_rate": 0.1},
    ("prox",),
    {"prox": prox.prox_lasso},
  ),
  TransformCase("ema_first", transforms.ema_first, {"rate": 0.3}, (), {}),
  TransformCase(
    "storm_momentum",
    transforms.storm_momentum,
    {"rate": 0.3},
    (),
    {},
    lambda grads: {"previous_grads": grads},
  ),
  TransformCase("normalized_gradient", transforms.normalized_gradient, {}, (), {}, separable=False),
  TransformCase(
    "exponentiated_gradient",
    transforms.exponentiated_gradient,
    {"learning_rate": 0.3},
    ("parametrization",),
    {},
  ),
  TransformCase(
    "project_updates",
    transforms.project_updates,
    {},
    ("projections",),
    {"projections": optax.projections.projection_non_negative},
  ),
  TransformCase(
    "scale_by_tract",
    transforms.scale_by_tract,
    {"lam": 0.3},
    (),
    {},
    lambda grads: {"gram": jax.tree.map(lambda g: jnp.eye(math.prod(g.shape[:-1])), grads)},
  ),
]
# The saddle-point optimizers have parameters of their own: tests/transforms/test_auc_margin.py and
# test_min_max.py. Masks and what trains through them: test_masks.py and test_sparse_flow.py. The
# line search and Newton steps take the objective of all parameters: test_armijo.py, test_gns.py.
# Layers: test_first_layer.py. Progressive n:m sparsity: transforms_nm_sparsity.py.
COVERED = {case.name for case in TRANSFORMS} | {
  "ArmijoState",
  "EmaFirstState",
  "ExponentiatedGradientState",
  "GnsLinkState",
  "PdscaState",
  "PesgState",
  "ProximalState",
  "SparseFlowState",
  "StormState",
  "apply_updates_projected",
  "armijo_descent",
  "block_mask",
  "input_gram",
  "min_max",
  "nm_mask",
  "patch_gram",
  "pdsca",
  "pesg",
  "scale_by_gns",
  "sparse_flow",
  "topk_mask",
  "tract_conv",
  "tract_dense",
  "unstructured_mask",
}

MATRIX = jnp.ones((2, 4))
PAIRS = functools.partial(transforms.nm_mask, n=1, m=2)
SIMPLEX = optax.projections.projection_simplex
X = jnp.ones(2)
TX = transforms.proximal(prox.prox_lasso, learning_rate=0.1)
MARGIN = {"w": X, "a": jnp.zeros(()), "b": jnp.zeros(())}


def _call(tx, *args, **extra):
  return tx.update(MARGIN, tx.init(MARGIN), *args, **extra)


def _flow(mask=PAIRS, inner=None, **options):
  return transforms.sparse_flow(inner or optax.sgd(0.1), mask, **options)[0]


def _flow_step(*args, **options):
  tx = _flow(**options)
  return tx.update(MATRIX, tx.init(MATRIX), *args)


def _mask(name, what, call, error, match):
  return BadInput(f"transforms.{name}", what, call, error, match)


BAD_INPUTS = [
  _mask("topk_mask", "k", lambda: transforms.topk_mask(X, 3), ValueError, "k must be at most 2"),
  _mask("topk_mask", "scalar", lambda: transforms.topk_mask(1.0, 0), ValueError, "rank at least 1"),
  _mask("topk_mask", "dtype", lambda: transforms.topk_mask(1j * X, 1), TypeError, "floati"),
  _mask("nm_mask", "n", lambda: transforms.nm_mask(X, 3, 2), ValueError, "n must be at most m"),
  _mask("nm_mask", "m", lambda: transforms.nm_mask(X, 1, 3), ValueError, "m must divide"),
  _mask("nm_mask", "axis", lambda: transforms.nm_mask(X, 1, 2, axis=1), ValueError, "axis must be"),
  _mask(
    "unstructured_mask", "density", lambda: transforms.unstructured_mask(X, 1.5), ValueError,
    "density must be in",
  ),
  _mask(
    "block_mask", "block", lambda: transforms.block_mask(MATRIX, (2, 3), 0.5), ValueError,
    "block must divide",
  ),
  _mask(
    "block_mask", "pair", lambda: transforms.block_mask(MATRIX, 2, 0.5), ValueError, "a pair of",
  ),
  _mask("block_mask", "rank", lambda: transforms.block_mask(X, (1, 1), 0.5), ValueError, "rank 2"),
  _mask("sparse_flow", "inner", lambda: _flow(inner=0.1), TypeError, "inner must be an optax"),
  _mask("sparse_flow", "mask", lambda: _flow(mask=0.5), TypeError, "mask must be callable"),
  _mask("sparse_flow", "flow", lambda: _flow(flow="hard"), ValueError, "flow must be one of"),
  _mask("sparse_flow", "decay", lambda: _flow(decay=1.5), ValueError, "decay must be in"),
  _mask("sparse_flow", "strength", lambda: _flow(strength=-1.0), ValueError, "strength must be"),
  _mask("sparse_flow", "predicate", lambda: _flow(predicate=True), TypeError, "predicate must be"),
  _mask("sparse_flow", "no params", _flow_step, ValueError, "needs the current parameters"),
  _mask(
    "sparse_flow", "kind of mask", lambda: _flow_step(MATRIX, mask=jnp.abs), ValueError,
    "mask must return a boolean array",
  ),
  BadInput(
    "transforms.proximal", "prox", lambda: transforms.proximal(1.0, learning_rate=0.1), TypeError,
    "prox must be a proximal operator",
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
    "transforms.ema_first", "rate", lambda: transforms.ema_first(0.0), ValueError,
    r"rate must be in \(0.0, 1.0\]",
  ),
  BadInput(
    "transforms.storm_momentum", "rate", lambda: transforms.storm_momentum(1.5), ValueError,
    "rate must be in",
  ),
  BadInput(
    "transforms.storm_momentum", "no gradients",
    lambda: _call(transforms.storm_momentum(0.5), MARGIN), ValueError, "needs the gradients at the",
  ),
  BadInput(
    "transforms.storm_momentum", "structure",
    lambda: _call(
      transforms.storm_momentum(0.5), previous_grads={**MARGIN, "a": jnp.zeros(2)}
    ),
    ValueError, "previous_grads and updates must agree in shapes",
  ),
  BadInput(
    "transforms.exponentiated_gradient", "rate",
    lambda: transforms.exponentiated_gradient(-1.0), ValueError, "learning_rate must be >= 0",
  ),
  BadInput(
    "transforms.exponentiated_gradient", "parametrization",
    lambda: transforms.exponentiated_gradient(1.0, parametrization="logits"), ValueError,
    "parametrization must be one of",
  ),
  BadInput(
    "transforms.exponentiated_gradient", "no params",
    lambda: _call(transforms.exponentiated_gradient(1.0)), ValueError, "needs the current param",
  ),
  BadInput(
    "transforms.project_updates", "kind", lambda: transforms.project_updates({"w": 1.0}), TypeError,
    "projections must hold functions or None; got float",
  ),
  BadInput(
    "transforms.project_updates", "no params", lambda: _call(transforms.project_updates(SIMPLEX)),
    ValueError, "needs the current parameters",
  ),
  BadInput(
    "transforms.min_max", "primal", lambda: transforms.min_max(0.1, optax.sgd(0.1), "min"),
    TypeError, "primal must be an optax.GradientTransformation; got float",
  ),
  BadInput(
    "transforms.min_max", "dual", lambda: transforms.min_max(optax.sgd(0.1), None, "min"),
    TypeError, "dual must be an optax",
  ),
  *(
    BadInput(
      f"transforms.{name}", option, lambda make=make, option=option, value=value: make(
        **{option: value}
      ), ValueError, f"{option} must be",
    )
    for name, make in (("pesg", transforms.pesg), ("pdsca", transforms.pdsca))
    for option, value in (
      ("learning_rate", 0.0), ("margin", 0.0), ("epoch_decay", -1.0), ("weight_decay", -1.0),
      ("clip", 0.0), ("stage_decay", 0.5),
    )
  ),
  BadInput(
    "transforms.pesg", "momentum", lambda: transforms.pesg(momentum=0.0), ValueError, "momentum mu",
  ),
  BadInput(
    "transforms.pesg", "direction", lambda: transforms.pesg(direction=0.9), TypeError, "direction",
  ),
  BadInput(
    "transforms.pesg", "variables", lambda: transforms.pesg(variables="ab"), TypeError,
    "variables must be callable",
  ),
  BadInput(
    "transforms.pesg", "no params", lambda: _call(transforms.pesg()), ValueError, "needs the curre",
  ),
  BadInput(
    "transforms.pdsca", "inner_rate", lambda: transforms.pdsca(inner_rate=0.0), ValueError, "inner",
  ),
  BadInput(
    "transforms.pdsca", "outer_rate", lambda: transforms.pdsca(outer_rate=2.0), ValueError, "outer",
  ),
  BadInput(
    "transforms.pdsca", "inner_learning_rate",
    lambda: transforms.pdsca(inner_learning_rate=0.0), ValueError, "inner_learning_rate must be",
  ),
  BadInput(
    "transforms.pdsca", "no params", lambda: _call(transforms.pdsca(), phase=0), ValueError,
    "needs the current",
  ),
  BadInput(
    "transforms.pdsca", "no phase", lambda: _call(transforms.pdsca(), MARGIN), ValueError,
    "needs the phase",
  ),
  BadInput(
    "transforms.pdsca", "phase", lambda: _call(transforms.pdsca(), MARGIN, phase=2), ValueError,
    "phase must be in",
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
    lambda: transforms.apply_updates_projected(1j * X, X, SIMPLEX), TypeError, "floating",
  ),
]  # fmt: skip
