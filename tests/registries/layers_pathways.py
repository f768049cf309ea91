"""Public names and bad inputs of re-mixed experts."""

import jax.numpy as jnp
import optax

from jaxopt_robust import layers
from tests.helpers import BadInput

COVERED = {
  "Neighbors",
  "Pathway",
  "PathwayInfo",
  "PathwaySearchInfo",
  "RemixInfo",
  "core_expert_mask",
  "kernel_neighbors",
  "load_balance_loss",
  "mean_shift",
  "neighborhood_loss",
  "override_router",
  "pathway_gradient_descent",
  "pathway_kernel_regression",
  "pathway_line_search",
  "pathway_mode_finding",
  "remix_pathways",
  "restrict_pathway",
  "select_experts",
}

_W = jnp.array([[0.5, 0.5], [0.9, 0.1]])
_CORE = jnp.ones((2, 2), bool)
_PATHWAY = layers.Pathway(_W, _CORE)
_X = jnp.ones((3, 2))
_Y = jnp.zeros(3, jnp.int32)
_NEAR = layers.Neighbors(
  jnp.zeros((3, 1), jnp.int32), jnp.ones((3, 1)), jnp.ones((3, 1)), jnp.ones((3, 1), bool)
)
_VALUE = lambda pathway: jnp.sum(pathway.weights)


def _model(params, x, override):
  router = jnp.full((x.shape[0], 1, 2), 0.5)
  return layers.override_router(router, override)[:, 0] * params, router


def _bad(name, what, call, error, match):
  return BadInput(f"layers.{name}", what, call, error, match)


def _near(queries=_X, references=_X, **options):
  return lambda: layers.kernel_neighbors(queries, references, **options)


def _descend(objective=_VALUE, start=_PATHWAY, **options):
  options = {"optimizer": optax.sgd(0.1), **options}
  return lambda: layers.pathway_gradient_descent(objective, start, **options)


def _loss(pathway=None, **options):
  pathway = layers.Pathway(_W[:1], _CORE[:1]) if pathway is None else pathway
  options = {"inputs": _X, "labels": _Y, "weights": jnp.ones(3), **options}
  return lambda: layers.neighborhood_loss(_model, 1.0, pathway, **options)


def _remix(model=_model, x=_X, **options):
  options = {
    "inputs": _X, "labels": _Y, "neighbors": _NEAR, "num_experts": 2, "num_layers": 1, **options
  }  # fmt: skip
  return lambda: layers.remix_pathways(model, 1.0, x, **options)


BAD_INPUTS: list[BadInput] = [
  *(
    _bad("kernel_neighbors", what, call, error, match)
    for what, call, error, match in (
      ("features", _near(_X[:, :1]), ValueError, "queries must have the 2 features"),
      ("rank", _near(_X, _X[0]), ValueError, "references must have rank 2"),
      ("many", _near(num_neighbors=4), ValueError, "num_neighbors must be at most 3"),
      ("none", _near(num_neighbors=0), ValueError, "num_neighbors must be at least 1"),
      ("kernel", _near(kernel="gausian"), ValueError, "Did you mean 'gaussian'"),
      ("radius", _near(radius=0.0), ValueError, "radius must be > 0"),
      ("bandwidth", _near(bandwidth=-1.0), ValueError, "bandwidth must be > 0"),
      ("similarity", _near(max_similarity=-2.0), ValueError, "max_similarity must be > -1"),
      ("where", _near(where=jnp.ones(2, bool)), ValueError, "where must have shape"),
      ("nan", _near(_X * jnp.nan), ValueError, "queries must be finite"),
    )
  ),
  _bad(
    "mean_shift", "features", lambda: layers.mean_shift(_X[:, :1], _X), ValueError,
    "points must have the 2 features",
  ),
  _bad(
    "mean_shift", "alpha", lambda: layers.mean_shift(_X, _X, alpha=1.5), ValueError,
    "alpha must be in",
  ),
  _bad(
    "override_router", "kind", lambda: layers.override_router(_W, _W), TypeError,
    "override must be a Pathway",
  ),
  _bad(
    "override_router", "shape", lambda: layers.override_router(_W[0], _PATHWAY), ValueError,
    "override.weights must have the shape",
  ),
  _bad(
    "override_router", "core", lambda: layers.override_router(_W, layers.Pathway(_W, _W)),
    TypeError, "override.core must be a boolean mask",
  ),
  _bad(
    "override_router", "no core", lambda: layers.override_router(_W, layers.Pathway(_W, None)),
    TypeError, "override.core must be a boolean mask",
  ),
  _bad(
    "select_experts", "many", lambda: layers.select_experts(_W, num_selected=3), ValueError,
    "num_selected must be at most 2",
  ),
  _bad(
    "select_experts", "option",
    lambda: layers.select_experts(_W, num_selected=1, renormalize="yes"), ValueError,
    "renormalize must be one of",
  ),
  _bad(
    "load_balance_loss", "none", lambda: layers.load_balance_loss(_W, num_selected=0), ValueError,
    "num_selected must be at least 1",
  ),
  _bad(
    "core_expert_mask", "layers",
    lambda: layers.core_expert_mask(_W, num_experts=1, num_layers=3), ValueError,
    "num_layers must be at most 2",
  ),
  _bad(
    "core_expert_mask", "rank", lambda: layers.core_expert_mask(_W[0]), ValueError,
    "weights must have rank at least 2",
  ),
  _bad(
    "restrict_pathway", "total", lambda: layers.restrict_pathway(_W, _CORE, total="1"), ValueError,
    "total must be one of",
  ),
  _bad(
    "restrict_pathway", "negative", lambda: layers.restrict_pathway(-_W, _CORE), ValueError,
    "weights must be >= 0",
  ),
  _bad(
    "restrict_pathway", "no mask", lambda: layers.restrict_pathway(_W, None), TypeError,
    "core must be a boolean mask",
  ),
  *(
    _bad("pathway_gradient_descent", what, call, error, match)
    for what, call, error, match in (
      ("objective", _descend(lambda pathway: pathway.weights), ValueError, "a floating-point sca"),
      ("batch", _descend(start=layers.Pathway(_W[None], _CORE[None])), ValueError, "jax.vmap"),
      ("optimizer", _descend(optimizer=optax.sgd), TypeError, "optimizer must be an optax"),
      ("form", _descend(parametrization="logits"), ValueError, "parametrization must be one of"),
      ("steps", _descend(num_steps=-1), ValueError, "num_steps must be at least 0"),
      ("floor", _descend(floor=1.0), ValueError, "floor must be in"),
      ("tol", _descend(tol=-1.0), ValueError, "tol must be >= 0"),
      ("start", _descend(start=layers.Pathway(-_W, _CORE)), ValueError, "start.weights must be f"),
    )
  ),
  _bad(
    "pathway_kernel_regression", "shape",
    lambda: layers.pathway_kernel_regression(_PATHWAY, _W[None, :1], jnp.ones(1)), ValueError,
    "references must have shape .k, 2, 2.",
  ),
  _bad(
    "pathway_kernel_regression", "weights",
    lambda: layers.pathway_kernel_regression(_PATHWAY, _W[None], jnp.ones(2)), ValueError,
    "weights must have one number a reference",
  ),
  _bad(
    "pathway_mode_finding", "many",
    lambda: layers.pathway_mode_finding(_PATHWAY, _W[None], num_neighbors=2), ValueError,
    "num_neighbors must be at most 1",
  ),
  _bad(
    "pathway_line_search", "shape",
    lambda: layers.pathway_line_search(
      _VALUE, _PATHWAY, layers.Pathway(_W[:1], _CORE[:1])
    ), ValueError, "estimate must have the shape",
  ),
  _bad(
    "pathway_line_search", "points",
    lambda: layers.pathway_line_search(_VALUE, _PATHWAY, _PATHWAY, num_points=1), ValueError,
    "num_points must be at least 2",
  ),
  *(
    _bad("neighborhood_loss", what, call, error, match)
    for what, call, error, match in (
      ("labels", _loss(labels=_Y[:2]), ValueError, "labels must have 3 rows"),
      ("weights", _loss(weights=jnp.ones(2)), ValueError, "weights must have 3 rows"),
      ("negative", _loss(weights=-jnp.ones(3)), ValueError, "weights must be >= 0"),
      ("inputs", _loss(inputs={}), ValueError, "inputs must be an array or a pytree"),
      ("mean", _loss(loss_fn=lambda f, y: jnp.mean(f)), ValueError, "one loss a neighbour"),
      ("many", _loss(layers.Pathway(_W[None], _CORE[None])), ValueError, "jax.vmap takes many"),
    )
  ),
  *(
    _bad("remix_pathways", what, call, error, match)
    for what, call, error, match in (
      ("labels", _remix(labels=_Y[:2]), ValueError, "labels must have 3 rows"),
      ("neighbours", _remix(neighbors=_Y), TypeError, "neighbors must be Neighbors"),
      ("rows", _remix(x=_X[:2]), ValueError, r"neighbors.rows must have shape \[2, k\]"),
      ("index", _remix(inputs=_X[:0], labels=_Y[:0]), ValueError, "inputs must be an array"),
      (
        "router", _remix(lambda p, x, o: (x, x)), ValueError,
        r"routing weights \[3, layers, experts\]",
      ),
      ("total", _remix(total="sum"), ValueError, "total must be one of"),
    )
  ),
]  # fmt: skip
