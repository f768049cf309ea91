"""Public names and bad inputs of ``unfolding``."""

import functools

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import prox, solvers
from jaxopt_robust import unfolding as u
from tests.helpers import BadInput

COVERED = {
  "ListaLayers",
  "Measurements",
  "SparseBatch",
  "StepLayers",
  "ThresholdLayers",
  "Trained",
  "WeightLayers",
  "alista_cell",
  "alista_layers",
  "alista_weight",
  "continuation_layers",
  "from_positive",
  "hard_threshold_cell",
  "iht_cell",
  "ista_cell",
  "ista_layers",
  "l0_objective",
  "l1_objective",
  "lista_cell",
  "lista_cp_cell",
  "lista_cp_layers",
  "lista_layers",
  "repeat_layers",
  "sample_sparse_batch",
  "shrink_bernoulli_gaussian",
  "soft_threshold_except_largest",
  "step_layers",
  "supervised_loss",
  "support_schedule",
  "tied_ista_cell",
  "tista_cell",
  "tista_weight",
  "to_positive",
  "train_end_to_end",
  "train_incremental",
  "unfold",
  "unfold_equilibrium",
  "unfold_solver",
}

_KEY = jax.random.key(0)
_A = jnp.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]])
_DATA = u.Measurements(jnp.ones(2), _A, _A)
_X, _ONE = jnp.zeros(3), jnp.ones(())
_STEP = u.StepLayers(_ONE)
_SOFT = u.ThresholdLayers(_ONE, _ONE)
_CELLS = {
  "ista_cell": (u.ista_cell, _SOFT),
  "tied_ista_cell": (functools.partial(u.tied_ista_cell, strength=1.0), _STEP),
  "iht_cell": (functools.partial(u.iht_cell, strength=1.0), _STEP),
  "hard_threshold_cell": (u.hard_threshold_cell, _SOFT),
  "lista_cell": (u.lista_cell, u.ListaLayers(_A.T, jnp.eye(3), _ONE)),
  "lista_cp_cell": (u.lista_cp_cell, u.WeightLayers(_A, _ONE)),
  "alista_cell": (u.alista_cell, _SOFT),
  "tista_cell": (functools.partial(u.tista_cell, rate=0.1, noise_variance=0.1), _STEP),
}


def _bad(name, what, call, error, match):
  return BadInput(f"unfolding.{name}", what, call, error, match)


def _loss(params, batch, depth):
  return jnp.sum(params.step)


def _train(name, **changes):
  options = {
    "key": _KEY, "loss": _loss, "params": u.StepLayers(jnp.ones(2)), "optimizer": optax.sgd(0.1),
    "sampler": lambda key: None, "num_steps": 2,
  } | ({"num_layers": 2} if name == "train_incremental" else {}) | changes  # fmt: skip
  first = [options.pop(k) for k in ("key", "loss", "params")]
  return getattr(u, name)(*first, **options)


def _unfold(**changes):
  options = {"params": u.ista_layers(_A, 1.0, num_layers=4), "x": _X, "cell": u.ista_cell} | changes
  first = [options.pop(k) for k in ("cell", "params", "x")]
  return u.unfold(*first, _DATA, **options)


def _solver_of(step):
  return solvers.ista(lambda w: jnp.sum(w**2), prox.prox_lasso, stepsize=step)


def _layers(name, matrix, **options):
  strength = () if name in ("step_layers", "alista_layers") else (1.0,)
  return getattr(u, name)(matrix, *strength, **{"num_layers": 2, **options})


BAD_INPUTS = [
  *(
    case
    for name, (cell, layer) in _CELLS.items()
    for case in (
      _bad(name, "layer", lambda f=cell: f(_X, 3, _DATA), TypeError, "layer must be a"),
      _bad(name, "data", lambda f=cell, l=layer: f(_X, l, _A), TypeError, "data must be Meas"),
      _bad(name, "x", lambda f=cell, l=layer: f(_X[:2], l, _DATA), ValueError, "x must have shape"),
      _bad(
        name, "batch", lambda f=cell, l=layer: f(jnp.zeros((4, 3)), l, _DATA), ValueError,
        "equal leading axes",
      ),
    )
  ),
  *(
    _bad(name, "no weight", lambda f=cell, l=layer: f(_X, l, _DATA._replace(weight=None)),
         ValueError, "data.weight must be an array")
    for name, (cell, layer) in _CELLS.items() if name in ("alista_cell", "tista_cell")
  ),
  *(
    _bad(name, "strength", lambda f=name: getattr(u, f)(_X, _STEP, _DATA, strength=-1.0),
         ValueError, "strength must be >= 0")
    for name in ("tied_ista_cell", "iht_cell")
  ),
  _bad(
    "iht_cell", "all layers", lambda: u.iht_cell(_X, u.StepLayers(jnp.ones(4)), _DATA, strength=1),
    ValueError, "unfold takes the layers apart",
  ),
  _bad(
    "ista_cell", "threshold",
    lambda: u.ista_cell(_X, u.ThresholdLayers(_ONE, jnp.ones(4)), _DATA), ValueError,
    "layer.threshold must be a scalar",
  ),
  _bad(
    "iht_cell", "vector strength",
    lambda: u.iht_cell(_X, _STEP, _DATA, strength=jnp.ones(2)), ValueError, "strength must be a sc",
  ),
  _bad(
    "lista_cell", "weights",
    lambda: u.lista_cell(_X, u.ListaLayers(_A, jnp.eye(3), _ONE), _DATA), ValueError,
    "layer.input_weight must have shape",
  ),
  _bad(
    "lista_cp_cell", "weights", lambda: u.lista_cp_cell(_X, u.WeightLayers(_A.T, _ONE), _DATA),
    ValueError, "layer.weight must have",
  ),
  _bad(
    "tista_cell", "rate",
    lambda: u.tista_cell(_X, _STEP, _DATA, rate=2.0, noise_variance=0.1), ValueError, "rate must",
  ),
  *(
    case
    for name in ("step_layers", "ista_layers", "continuation_layers", "lista_layers",
                 "lista_cp_layers", "alista_layers")
    for make in [functools.partial(_layers, name)]
    for case in (
      _bad(name, "matrix", lambda m=make: m(_X), ValueError, "matrix must have rank 2"),
      _bad(name, "NaN", lambda m=make: m(_A * jnp.nan), ValueError, "matrix must be finite"),
      _bad(name, "layers", lambda m=make: m(_A, num_layers=0), ValueError, "num_layers must be at"),
    )
  ),
  *(
    _bad(name, "strength", lambda f=name: getattr(u, f)(_A, -1.0, num_layers=2), ValueError,
         "strength must be >= 0")
    for name in ("ista_layers", "continuation_layers", "lista_layers", "lista_cp_layers")
  ),
  *(
    _bad(name, "lipschitz",
         lambda f=name, a=args: getattr(u, f)(_A, *a, num_layers=2, lipschitz=0.0), ValueError,
         "lipschitz must be > 0")
    for name, args in (("step_layers", ()), ("ista_layers", (1.0,)), ("lista_layers", (1.0,)))
  ),
  _bad(
    "ista_layers", "vector strength", lambda: u.ista_layers(_A, jnp.ones(2), num_layers=2),
    ValueError, "strength must be a scalar",
  ),
  _bad(
    "continuation_layers", "decay", lambda: u.continuation_layers(_A, 1.0, num_layers=2, decay=1.0),
    ValueError, "decay must be in",
  ),
  _bad(
    "alista_layers", "support", lambda: u.alista_layers(_A, num_layers=2, support=jnp.zeros(3)),
    ValueError, "support must have shape",
  ),
  _bad(
    "lista_cp_layers", "support",
    lambda: u.lista_cp_layers(_A, 1.0, num_layers=2, support=jnp.zeros(3)), ValueError,
    "support must have shape",
  ),
  _bad("alista_weight", "matrix", lambda: u.alista_weight(_X), ValueError, "matrix must have rank"),
  _bad("tista_weight", "matrix", lambda: u.tista_weight("a"), TypeError, "matrix must be a number"),
  _bad("support_schedule", "rate", lambda: u.support_schedule(num_layers=2, rate=2.0), ValueError,
       "rate must be in"),
  _bad(
    "soft_threshold_except_largest", "support",
    lambda: u.soft_threshold_except_largest(_X, 1.0, support=2.0), ValueError, "support must be in",
  ),
  _bad(
    "shrink_bernoulli_gaussian", "variance",
    lambda: u.shrink_bernoulli_gaussian(_X, rate=0.1, noise_variance=0.0), ValueError,
    "noise_variance must be > 0",
  ),
  _bad(
    "shrink_bernoulli_gaussian", "shape",
    lambda: u.shrink_bernoulli_gaussian(_X, rate=0.1, noise_variance=jnp.ones(2)), ValueError,
    "noise_variance must be a scalar",
  ),
  _bad("supervised_loss", "shape", lambda: u.supervised_loss(_X, _X[:2]), ValueError, "equal shap"),
  _bad("l1_objective", "data", lambda: u.l1_objective(_X, 1, strength=1.0), TypeError, "data must"),
  _bad("l0_objective", "width", lambda: u.l0_objective(_X, _DATA, strength=1.0, width=0.0),
       ValueError, "width must be > 0"),
  _bad("sample_sparse_batch", "key", lambda: u.sample_sparse_batch(0, _A, batch=2), TypeError,
       "key must be a typed key"),
  _bad("sample_sparse_batch", "rate", lambda: u.sample_sparse_batch(_KEY, _A, batch=2, rate=1.5),
       ValueError, "rate must be in"),
  _bad("repeat_layers", "layers", lambda: u.repeat_layers(_STEP, num_layers=0), ValueError,
       "num_layers must be at least 1"),
  _bad("to_positive", "scale", lambda: u.to_positive(_X, scale=0.0), ValueError, "scale must be"),
  _bad("from_positive", "zero", lambda: u.from_positive(_X), ValueError, "values must be > 0"),
  _bad("unfold", "cell", lambda: _unfold(cell=3), TypeError, "cell must be callable"),
  _bad(
    "unfold", "no layers", lambda: _unfold(params=_SOFT), ValueError, "one common leading axis",
  ),
  _bad(
    "unfold", "unequal", lambda: _unfold(params=u.ThresholdLayers(jnp.ones(2), jnp.ones(3))),
    ValueError, "one common leading axis",
  ),
  _bad("unfold", "checkpoint", lambda: _unfold(checkpoint=3), ValueError, "checkpoint must divide"),
  _bad("unfold", "depth", lambda: _unfold(depth=-1), ValueError, "depth must be at least 0"),
  _bad("unfold", "output", lambda: _unfold(cell=lambda x, layer, data: x[:1]), ValueError,
       "output of cell"),
  _bad(
    "unfold_solver", "no solver",
    lambda: u.unfold_solver(lambda step: 3, jnp.ones(2), _X, 1.0), TypeError,
    r"make_solver\(layer\) must be a Solver",
  ),
  _bad("unfold_solver", "layers", lambda: u.unfold_solver(_solver_of, _ONE, _X, 1.0), ValueError,
       "layers must hold arrays with one common"),
  _bad(
    "unfold_equilibrium", "cell",
    lambda: u.unfold_equilibrium(3, _SOFT, _X, _DATA, tol=1e-3, max_steps=9), TypeError,
    "cell must be callable",
  ),
  _bad(
    "unfold_equilibrium", "tol",
    lambda: u.unfold_equilibrium(u.ista_cell, _SOFT, _X, _DATA, tol=-1.0, max_steps=9), ValueError,
    "tol must be >= 0",
  ),
  *(
    case
    for name in ("train_end_to_end", "train_incremental")
    for case in (
      _bad(name, "key", lambda n=name: _train(n, key=0), TypeError, "key must be a typed key"),
      _bad(name, "loss", lambda n=name: _train(n, loss=0), TypeError, "loss must be callable"),
      _bad(
        name, "vector loss", lambda n=name: _train(n, loss=lambda p, b, d: p.step), ValueError,
        "loss must return a scalar",
      ),
      _bad(
        name, "optimizer", lambda n=name: _train(n, optimizer=0.1), TypeError, "optimizer must be",
      ),
      _bad(name, "sampler", lambda n=name: _train(n, sampler=0), TypeError, "sampler must be call"),
      _bad(name, "steps", lambda n=name: _train(n, num_steps=0), ValueError, "num_steps must be"),
    )
  ),
  _bad("train_incremental", "layers", lambda: _train("train_incremental", num_layers=0), ValueError,
       "num_layers must be at least 1"),
  _bad("train_incremental", "evaluate", lambda: _train("train_incremental", evaluate=3), TypeError,
       "evaluate must be callable"),
]  # fmt: skip
