"""Bilevel problems: what is covered, and calls that must fail."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import bilevel, solvers
from tests.helpers import BadInput

COVERED = set(bilevel.__all__)

_Y, _X = jnp.ones(2), jnp.array(1.0)


def _inner(y, x):
  return 0.5 * jnp.sum((y - 1.0) ** 2) + 0.5 * x * jnp.sum(y**2)


def _outer(y, x):
  return jnp.sum(y)


_VECTOR = lambda y, x: y
_LOWER = bilevel.strongly_convex_descent(_inner, strong_convexity=1.0, smoothness=3.0)
_KNOWN = bilevel.BilevelConstants(1.0, 1.0, 1.0)
_MAID: dict[str, Any] = {"strong_convexity": 1.0, "outer_smoothness": 1.0}

BAD_INPUTS: list[BadInput] = []


def _bad(name: str, what: str, error: type[Exception], match: str, *args: Any, **options: Any):
  call = functools.partial(getattr(bilevel, name), *args, **options)
  BAD_INPUTS.append(BadInput(f"bilevel.{name}", what, call, error, match))


for _name in ("second_order_products", "finite_difference_products"):
  _bad(_name, "function", TypeError, "inner must be callable", 1.0, _Y, _X, _Y)
  _bad(_name, "no scalar", ValueError, "inner.* must be a scalar", _VECTOR, _Y, _X, _Y)
  _bad(_name, "vector", ValueError, "v and y", _inner, _Y, _X, jnp.ones(3))
_bad(
  "finite_difference_products", "radius", ValueError, "radius must be > 0", _inner, _Y, _X, _Y,
  radius=0.0,
)  # fmt: skip

_bad("hypergradient", "function", TypeError, "outer must be callable", _inner, None, _Y, _X)
_bad("hypergradient", "no scalar", ValueError, "outer.* must be a scalar", _inner, _VECTOR, _Y, _X)
_bad("hypergradient", "text", TypeError, "y must", _inner, _outer, "text", _X)
for _option, _value, _error, _match in (
  ("adjoint", jnp.ones(3), ValueError, "adjoint and y"),
  ("tol", -1.0, ValueError, "tol must be >= 0"),
  ("atol", -1.0, ValueError, "atol must be >= 0"),
  ("linear_solve", 1.0, TypeError, "linear_solve must be callable"),
  ("products", 1.0, TypeError, "products must be callable"),
  ("support", 1.0, TypeError, "support must be callable"),
  ("constants", 1.0, TypeError, "constants must be BilevelConstants"),
):
  _bad("hypergradient", _option, _error, _match, _inner, _outer, _Y, _X, **{_option: _value})

_half = lambda y, x: 0.5 * y
_bad(
  "fixed_point_hypergradient", "function", TypeError, "fixed_point must be callable", None, _outer,
  _Y, _X,
)  # fmt: skip
_bad(
  "fixed_point_hypergradient", "shape", ValueError, "fixed_point.*and y", lambda y, x: y[:1],
  _outer, _Y, _X,
)  # fmt: skip
_bad(
  "fixed_point_hypergradient", "tol", ValueError, "tol must be >= 0", _half, _outer, _Y, _X,
  tol=-1.0,
)  # fmt: skip
_bad(
  "unrolled_hypergradient", "solver", TypeError, "solver must be a Solver", None, _outer, _Y, _X,
  num_steps=2,
)  # fmt: skip
_bad(
  "unrolled_hypergradient", "steps", ValueError, "num_steps must be at least 1", _LOWER, _outer,
  _Y, _X, num_steps=0,
)  # fmt: skip
_bad(
  "unrolled_hypergradient", "last", ValueError, "last must be at most num_steps", _LOWER, _outer,
  _Y, _X, num_steps=2, last=3,
)  # fmt: skip

_solve = lambda x: jnp.stack([x, x])
_bad("zeroth_order_hypergradient", "function", TypeError, "solve must be callable", None, _outer,
     _X, key=jax.random.key(0))  # fmt: skip
for _options, _error, _match in (
  ({"key": 0}, TypeError, "key must be a typed key"),
  ({"num_directions": 0}, ValueError, "num_directions must be at least 1"),
  ({"radius": 0.0}, ValueError, "radius must be > 0"),
):
  _bad(
    "zeroth_order_hypergradient", next(iter(_options)), _error, _match, _solve, _outer, _X,
    **({"key": jax.random.key(0)} | _options),
  )  # fmt: skip

_same = lambda v: v
_key = jax.random.key(0)
for _options, _error, _match in (
  ({"key": 0}, TypeError, "key must be a typed key"),
  ({"num_terms": 0}, ValueError, "num_terms must be at least 1"),
  ({"stepsize": 0.0}, ValueError, "stepsize must be > 0"),
):
  _bad(
    "solve_random_neumann", next(iter(_options)), _error, _match, _same, _Y,
    **({"key": _key, "num_terms": 2, "stepsize": 0.5} | _options),
  )  # fmt: skip

_bad(
  "inner_distance_bound", "norm", ValueError, "gradient_norm must be >= 0", -1.0,
  strong_convexity=1.0,
)  # fmt: skip
_bad(
  "inner_distance_bound", "mu", ValueError, "strong_convexity must be > 0", 1.0,
  strong_convexity=0.0,
)  # fmt: skip
_bad("hypergradient_bound", "kind", TypeError, "must be BilevelConstants", 1.0, 1.0, 1.0,
     constants=None)  # fmt: skip
_bad("hypergradient_bound", "distance", ValueError, "distance must be >= 0", -1.0, 1.0, 1.0,
     constants=_KNOWN)  # fmt: skip
_bad("hypergradient_bound", "cross", ValueError, "constants.cross_norm must be >= 0", 1.0, 1.0, 1.0,
     constants=_KNOWN._replace(cross_norm=-1.0))  # fmt: skip
_bad("unrolled_bound", "step", ValueError, "must be at most 1", 2, stepsize=2.0,
     strong_convexity=1.0, jacobian_norm=1.0)  # fmt: skip
_bad("one_step_bound", "rate", ValueError, "contraction must be in", contraction=1.0,
     derivative_norm=1.0)  # fmt: skip
_bad("conjugate_gradient_bound", "kappa", ValueError, "condition_number must be in", 1,
     condition_number=0.5)  # fmt: skip
_bad("outer_value_interval", "distance", ValueError, "distance must be >= 0", 1.0, 1.0, -1.0,
     smoothness=1.0)  # fmt: skip

_bad("strongly_convex_descent", "function", TypeError, "inner must be callable", None,
     strong_convexity=1.0, smoothness=1.0)  # fmt: skip
_bad("strongly_convex_descent", "mu", ValueError, "strong_convexity must be > 0", _inner,
     strong_convexity=0.0, smoothness=1.0)  # fmt: skip

for _option, _value, _error, _match in (
  ("strong_convexity", 0.0, ValueError, "strong_convexity must be > 0"),
  ("outer_smoothness", -1.0, ValueError, "outer_smoothness must be >= 0"),
  ("accuracy", 0.0, ValueError, "accuracy must be > 0"),
  ("shrink", 1.0, ValueError, "shrink must be in"),
  ("growth", 0.5, ValueError, "growth must be in"),
  ("descent", 0.0, ValueError, "descent must be in"),
  ("decrease", 0.0, ValueError, "decrease must be > 0"),
  ("max_backtracks", 0, ValueError, "max_backtracks must be at least 1"),
  ("project", 1.0, TypeError, "project must be callable"),
):
  _bad("maid", _option, _error, _match, _inner, _outer, _LOWER, **_MAID | {_option: _value})
_bad("maid", "solver", TypeError, "inner_solver must be a Solver", _inner, _outer, None, **_MAID)


for _option, _value, _error, _match in (
  ("accuracy", 0.1, TypeError, "accuracy must be callable"),
  ("stepsize", 0.0, ValueError, "stepsize must be > 0"),
  ("slack", -1.0, ValueError, "slack must be >= 0"),
  ("max_products", 0, ValueError, "max_products must be at least 1"),
):
  _bad("hoag", _option, _error, _match, _inner, _outer, _LOWER, **{_option: _value})
_bad("geometric_accuracy", "decay", ValueError, "decay must be in", decay=1.0)
_bad("polynomial_accuracy", "power", ValueError, "power must be > 1", power=1.0)


_SOBA = bilevel.soba_directions(lambda y, x, b: _inner(y, x), lambda y, x, b: _outer(y, x))
_SGD = bilevel.BilevelVariables(*(optax.sgd(0.1),) * 3)
_bad("soba_directions", "function", TypeError, "inner must be callable", None, _outer)
_bad("soba_directions", "ball", ValueError, "max_adjoint must be > 0", _inner, _outer,
     max_adjoint=0.0)  # fmt: skip
_bad("neumann_directions", "terms", ValueError, "num_terms must be at least 1", _inner, _outer,
     num_terms=0, stepsize=0.1, random=True)  # fmt: skip
_bad("neumann_directions", "step", ValueError, "stepsize must be > 0", _inner, _outer,
     num_terms=1, stepsize=0.0)  # fmt: skip
_bad("f2sa_directions", "penalty", ValueError, "penalty must be > 0", _inner, _outer, penalty=0.0)
_bad("bome_directions", "control", ValueError, "control must be > 0", _inner, _outer, stepsize=0.1,
     control=0.0)  # fmt: skip
for _name, _options, _match in (
  ("saga", {"num_inner": 0, "num_outer": 1}, "num_inner must be at least 1"),
  ("storm", {"rate": 1.5}, "rate must be in"),
  ("spider", {"period": 0}, "period must be at least 1"),
  ("moving_average", {"rate": 0.0}, "rate must be in"),
):
  _bad(_name, "range", ValueError, _match, _SOBA, **_options)
  _good = {"saga": {"num_inner": 1, "num_outer": 1}, "spider": {"period": 1}}.get(_name, {})
  _bad(_name, "method", TypeError, "method must be a StochasticMethod", None, **_good)
_bad("stochastic_bilevel", "method", TypeError, "method must be a StochasticMethod", None, _SGD)
_bad("stochastic_bilevel", "optimizers", TypeError, "must be BilevelVariables of", _SOBA, None)
_bad("stochastic_bilevel", "one optimizer", TypeError, "optimizers.x must be an optax", _SOBA,
     _SGD._replace(x=0.1))  # fmt: skip
_bad("stochastic_bilevel", "steps", ValueError, "inner_steps must be at least 1", _SOBA, _SGD,
     inner_steps=0)  # fmt: skip
_bad("stochastic_bilevel", "moves", ValueError, "inner_moves must be", _SOBA, _SGD,
     inner_moves=("x",))  # fmt: skip


def _stochastic(params, batch):
  solver = bilevel.stochastic_bilevel(_SOBA, _SGD)
  return lambda: solver.step(solver.init(params, None, batch), None, batch)


_VARIABLES, _BATCH = bilevel.BilevelVariables(_X, _Y, _Y), bilevel.BilevelBatch(_Y, _Y)
for _what, _args, _match in (
  ("batch", (_VARIABLES, _Y), "batch must be a BilevelBatch"),
  ("params", (_Y, _BATCH), "params must be BilevelVariables"),
):
  _call = _stochastic(*_args)
  BAD_INPUTS.append(BadInput("bilevel.stochastic_bilevel", _what, _call, TypeError, _match))


def _params():
  method = bilevel.maid(_inner, _outer, _LOWER, **_MAID)
  return solvers.run_until(method, _Y, None, tol=0.1, max_steps=1)


BAD_INPUTS.append(
  BadInput("bilevel.maid", "params", _params, TypeError, "params must be a BilevelPoint")
)
_bad("storm", "parts", ValueError, "parts must be", _SOBA, parts=("w",))
