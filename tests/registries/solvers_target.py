"""Calls of target-based surrogates that must fail."""

import functools

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import solvers
from tests.helpers import BadInput

COVERED: set[str] = set()  # tests/registries/solvers.py names them all

Z = jnp.ones(3)
MODEL = lambda w, x: x @ w
ORACLE = jax.value_and_grad(lambda z, y: jnp.sum((z - y) ** 2))
BATCH = solvers.TargetBatch(jnp.ones((3, 2)), Z)
GOOD = {"stepsize": 0.5, "inner": optax.sgd(0.1)}


def _sso(model=MODEL, oracle=ORACLE, **options):
  return lambda: solvers.sso(model, oracle, **{**GOOD, **options})


def _step(model=MODEL, oracle=ORACLE, batch=BATCH, **options):
  def call():
    solver = _sso(model, oracle, **options)()
    return solver.step(solver.init(jnp.ones(2), None, batch), None, batch)

  return call


def _surrogate(z=Z, at=Z, u=Z, **options):
  return lambda: solvers.target_surrogate(z, at, u, **{"stepsize": 1.0, **options})


def _search(fun=jnp.sum, z=Z, u=Z, **options):
  return lambda: solvers.target_line_search(fun, z, u, **{"stepsize": 1.0, **options})


def _rule(name, *args, **options):
  return functools.partial(getattr(solvers, name), *args, **options)


RULE = solvers.target_example_adagrad(num_examples=3)
FAR = BATCH._replace(index=jnp.array([0, 1, 3]))
BAD_INPUTS = [
  BadInput(f"solvers.{name}", what, call, error, match)
  for name, what, call, error, match in (
    ("sso", "model", _sso(None), TypeError, "apply_fn must be callable"),
    ("sso", "oracle", _sso(oracle=None), TypeError, "target_value_and_grad must be callable"),
    ("sso", "stepsize", _sso(stepsize=0.0), ValueError, "stepsize must be > 0; got 0"),
    ("sso", "inner", _sso(inner=0.1), TypeError, "inner must be an optax"),
    ("sso", "made inner", _step(inner=lambda hyper: 0.1), TypeError, r"inner\(hyper\) must be an"),
    ("sso", "steps", _sso(num_inner=0), ValueError, "num_inner must be at least 1"),
    ("sso", "divergence", _sso(divergence="square"), ValueError, "Did you mean 'squared'"),
    ("sso", "batch", _step(batch=Z), TypeError, "batch must be a TargetBatch"),
    ("sso", "no pair", _step(oracle=lambda z, y: jnp.sum(z)), TypeError, "must return a pair"),
    ("sso", "shapes", _step(oracle=lambda z, y: (jnp.sum(z), z[:2])), ValueError, "return a s"),
    ("sso", "vector value", _step(oracle=lambda z, y: (z, z)), ValueError, "must return a scalar"),
    ("sso", "scalar outputs", _step(lambda w, x: jnp.sum(w)), ValueError, "outputs must have rank"),
    (
      "sso", "vector schedule", _step(stepsize=lambda count: jnp.ones(2)), ValueError,
      "must return a scalar",
    ),
    ("target_surrogate", "complex", _surrogate(1j * Z), TypeError, "outputs must be a floating"),
    ("target_surrogate", "anchor", _surrogate(at=Z[:2]), ValueError, "outputs and anchor must"),
    ("target_surrogate", "gradient", _surrogate(u=Z[:2]), ValueError, "outputs and gradient must"),
    ("target_surrogate", "stepsize", _surrogate(stepsize=-1.0), ValueError, "stepsize must be > 0"),
    ("target_surrogate", "weights", _surrogate(weights=-Z), ValueError, "weights must be >= 0"),
    ("target_surrogate", "value", _surrogate(value=Z), ValueError, "value must have rank 0"),
    (
      "target_surrogate", "divergence", _surrogate(divergence="kll"), ValueError,
      "divergence must be one of",
    ),
    ("target_line_search", "function", _search(1.0), TypeError, "value_fn must be callable"),
    ("target_line_search", "vector", _search(jnp.abs), ValueError, "value_fn must return a"),
    ("target_line_search", "shapes", _search(u=Z[:2]), ValueError, "outputs and gradient must"),
    ("target_line_search", "stepsize", _search(stepsize=0.0), ValueError, "stepsize must be > 0"),
    ("target_line_search", "growth", _search(growth=0.0), ValueError, "growth must be in"),
    ("target_line_search", "shrink", _search(shrink=1.0), ValueError, "shrink must be in"),
    ("target_line_search", "decrease", _search(decrease=0.0), ValueError, "decrease must be in"),
    ("target_line_search", "trials", _search(max_trials=0), ValueError, "max_trials must be at le"),
    ("target_search", "stepsize", _rule("target_search", 0.0), ValueError, "stepsize must be > 0"),
    (
      "target_search", "least", _rule("target_search", min_stepsize=-1.0), ValueError,
      "min_stepsize must be >= 0",
    ),
    (
      "target_search", "largest", _rule("target_search", max_stepsize=0.0), ValueError,
      "max_stepsize must be > 0",
    ),
    ("target_adagrad", "stepsize", _rule("target_adagrad", 0.0), ValueError, "stepsize must be"),
    (
      "target_example_adagrad", "size", _rule("target_example_adagrad", num_examples=0), ValueError,
      "num_examples must be at least 1",
    ),
    (
      "target_example_adagrad", "initial",
      _rule("target_example_adagrad", num_examples=1, initial=-1.0), ValueError,
      "initial must be >= 0",
    ),
    (
      "target_example_adagrad", "no index", _step(stepsize=RULE), ValueError,
      "needs the index of the examples",
    ),
    (
      "target_example_adagrad", "index", _step(stepsize=RULE, batch=FAR), ValueError,
      r"index must lie in \[0, 3\)",
    ),
    (
      "target_curvature", "function", _rule("target_curvature", 1.0), TypeError,
      "curvature must be callable",
    ),
    (
      "target_curvature", "stepsize", _rule("target_curvature", jnp.abs, -1.0), ValueError,
      "stepsize must be > 0",
    ),
    (
      "inverse_sqrt_schedule", "range", _rule("inverse_sqrt_schedule", 0.0), ValueError,
      "init_value must be > 0",
    ),
  )
]  # fmt: skip
