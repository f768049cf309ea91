"""Calls of proximal nonlinear conjugate gradients and of accelerated gradient that must fail."""

import functools

import jax.numpy as jnp

from jaxopt_robust import prox, solvers
from tests.helpers import BadInput

COVERED: set[str] = set()  # tests/registries/solvers.py names them all

X = jnp.ones(2)
FUN = lambda w: jnp.sum(w**2)
BAD_INPUTS: list[BadInput] = []


def _add(name, what, error, match, *args, **options):
  call = functools.partial(getattr(solvers, name), *args, **options)
  BAD_INPUTS.append(BadInput(f"solvers.{name}", what, call, error, match))


def _run(fun=FUN, split=solvers.split_mcp, hyper=(1.0, 2.0)):
  solver = solvers.nonconvex_ag(fun, split, lipschitz=2.0)
  return solvers.run_until(solver, X, hyper, tol=1e-3, max_steps=3)


_add("prox_ncg", "function", TypeError, "fun must be callable", None, prox.lasso)
_add("prox_ncg", "penalty", TypeError, "penalty must be a Penalty", FUN, prox.prox_lasso)
_add("prox_ncg", "step", ValueError, "init_stepsize must be", FUN, prox.lasso, init_stepsize=0.0)
_add("prox_ncg", "growth", ValueError, "growth must be in", FUN, prox.lasso, growth=0.5)
_add("prox_ncg", "tries", ValueError, "max_backtracks", FUN, prox.lasso, max_backtracks=0)
_add("prox_ncg", "trials", ValueError, "max_line_trials", FUN, prox.lasso, max_line_trials=0)
_AG = functools.partial(_add, "nonconvex_ag")
_AG("function", TypeError, "fun must be callable", None, solvers.split_mcp, lipschitz=1.0)
_AG("split", TypeError, "split must be callable", FUN, prox.mcp.value(X, (1.0, 2.0)), lipschitz=1.0)
_AG("lipschitz", ValueError, "lipschitz must be", FUN, solvers.split_mcp, lipschitz=0.0)
_AG(
  "schedule", ValueError, "Did you mean 'optimal'", FUN, solvers.split_mcp, lipschitz=1.0,
  schedule="optimum",
)  # fmt: skip
_AG(
  "restart", ValueError, "restart must be one of", FUN, solvers.split_mcp, lipschitz=1.0,
  restart="gradient",
)  # fmt: skip
BAD_INPUTS += [
  BadInput(
    "solvers.nonconvex_ag", "vector", lambda: _run(lambda w: w), ValueError, "return a scal"
  ),
  BadInput("solvers.nonconvex_ag", "hyper", lambda: _run(hyper=1.0), ValueError, "must be a pair"),
]
_add("split_scad", "pair", ValueError, r"must be a pair \(lam, a\)", 1.0)
_add("split_scad", "strength", ValueError, "lam of hyperparams must be >= 0", (-1.0, 3.7))
_add("split_scad", "bend", ValueError, "a of hyperparams must be > 2", (1.0, 2.0))
_add("split_scad", "vector", ValueError, "a of hyperparams must have rank 0", (1.0, X))
_add("split_mcp", "pair", ValueError, r"must be a pair \(lam, theta\)", 1.0)
_add("split_mcp", "strength", ValueError, "lam of hyperparams must be >= 0", (-1.0, 3.0))
_add("split_mcp", "bend", ValueError, "theta of hyperparams must be > 0", (1.0, 0.0))
