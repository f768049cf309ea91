"""Calls of gradient-normalized Newton and of curvature models that must fail."""

import functools

import jax.numpy as jnp

from jaxopt_robust import solvers, transforms
from tests.helpers import BadInput

COVERED: set[str] = set()  # tests/registries/solvers.py and transforms.py name them all

X = jnp.ones(2)
FUN = lambda w: jnp.sum(w**2)
ZERO = solvers.zero_curvature()


def _newton(fun=FUN, curvature=ZERO, **options):
  return lambda: solvers.gns_newton(fun, curvature, **options)


def _step(fun=FUN, curvature=ZERO, params=X, **options):
  def call():
    solver = solvers.gns_newton(fun, curvature, **options)
    return solver.step(solver.init(params, None), None)

  return call


def _link(curvature=ZERO, **options):
  return lambda: transforms.scale_by_gns(curvature, **options)


def _update(*args, grads=X, **extra):
  def call():
    tx = transforms.scale_by_gns(ZERO)
    return tx.update(grads, tx.init(X), *args, **extra)

  return call


def _model(name, *args, **options):
  return functools.partial(getattr(solvers, name), *args, **options)


GIVEN = {"value": 1.0, "value_fn": FUN}
LOW = solvers.LowRankCurvature
RULES = (
  ("gamma", {"gamma": 0.0}, ValueError, "gamma must be > 0"),
  ("vector gamma", {"gamma": X}, ValueError, "gamma must be a scalar"),
  ("growth", {"growth": 0.5}, ValueError, "growth must be in"),
  ("shrink", {"shrink": 1.0}, ValueError, "shrink must be in"),
  ("decrease", {"decrease": 0.5}, ValueError, "decrease must be in"),
  ("least", {"min_gamma": -1.0}, ValueError, "min_gamma must be >= 0"),
  ("trials", {"max_trials": 0}, ValueError, "max_trials must be at least 1"),
  ("tolerance", {"cg_tol": 0.0}, ValueError, "cg_tol must be > 0"),
  ("limit", {"cg_max_steps": 0}, ValueError, "cg_max_steps must be at least 1"),
  ("metric", {"metric": "A"}, TypeError, "metric must be"),
  ("rank of the metric", {"metric": jnp.ones(())}, ValueError, "metric must have rank 1 or 2"),
)
BAD_INPUTS = [
  BadInput(name, what, call, error, match)
  for name, what, call, error, match in (
    *(("solvers.gns_newton", what, _newton(**o), e, m) for what, o, e, m in RULES),
    *(("transforms.scale_by_gns", what, _link(**o), e, m) for what, o, e, m in RULES),
    ("solvers.gns_newton", "fun", _newton(None), TypeError, "fun must be callable"),
    ("solvers.gns_newton", "curvature", _newton(FUN, X), TypeError, "curvature must be callable"),
    (
      "solvers.gns_newton", "shape of the metric", _step(metric=jnp.eye(3)), ValueError,
      r"metric must have shape \(2,\) or \(2, 2\)",
    ),
    (
      "solvers.gns_newton", "shape of the made metric", _step(metric=lambda: jnp.ones(3)),
      ValueError, r"metric must have shape \(2,\)",
    ),
    (
      "solvers.gns_newton", "shape", _step(curvature=lambda w: jnp.eye(3)), ValueError,
      r"curvature\(params\) must have shape \(2, 2\)",
    ),
    (
      "solvers.gns_newton", "factors", _step(curvature=lambda w: LOW(jnp.eye(2), jnp.ones(1))),
      ValueError, r"factors must have shape \(2, 1\)",
    ),
    (
      "solvers.gns_newton", "text", _step(curvature=lambda w: "eye"), TypeError,
      r"curvature\(params\) must be",
    ),
    (
      "solvers.gns_newton", "product", _step(curvature=lambda w: lambda v: v[:1]), ValueError,
      r"curvature\(params\)\(v\) must be like the parameters",
    ),
    ("solvers.gns_newton", "vector", _step(lambda w: w), ValueError, "fun must return a scalar"),
    ("solvers.gns_newton", "complex", _step(params=1j * X), TypeError, "params must be a floating"),
    ("transforms.scale_by_gns", "curvature", _link(X), TypeError, "curvature must be callable"),
    ("transforms.scale_by_gns", "made metric", _link(metric=FUN), TypeError, "metric must be an"),
    (
      "transforms.scale_by_gns", "no params", _update(**GIVEN), ValueError,
      "needs the current parameters",
    ),
    ("transforms.scale_by_gns", "no value", _update(X, value_fn=FUN), ValueError, "needs the val"),
    ("transforms.scale_by_gns", "no function", _update(X, value=1.0), ValueError, "needs the val"),
    (
      "transforms.scale_by_gns", "function", _update(X, value=1.0, value_fn=1.0), TypeError,
      "value_fn must be callable",
    ),
    (
      "transforms.scale_by_gns", "gradient", _update(X, grads=jnp.ones(3), **GIVEN), ValueError,
      "updates must be like the parameters",
    ),
    ("solvers.exact_curvature", "fun", _model("exact_curvature", 1.0), TypeError, "fun must be"),
    (
      "solvers.exact_curvature", "form", _model("exact_curvature", FUN, form="factors"), ValueError,
      "form must be one of 'matrix', 'product'",
    ),
    (
      "solvers.exact_curvature", "vector", lambda: solvers.exact_curvature(lambda w: w)(X),
      ValueError, "fun must return a scalar",
    ),
    *(
      case
      for name, argument, options in (
        ("gauss_newton_curvature", "residual_fn", {}),
        ("power_norm_curvature", "residual_fn", {"power": 4.0}),
        ("log_sum_exp_curvature", "scores_fn", {}),
        ("empirical_fisher", "losses_fn", {}),
      )
      for case in (
        (
          f"solvers.{name}", "function", _model(name, X, **options), TypeError,
          f"{argument} must be callable",
        ),
        (
          f"solvers.{name}", "form", _model(name, FUN, form="matrx", **options), ValueError,
          "Did you mean 'matrix'",
        ),
        (
          f"solvers.{name}", "params",
          lambda n=name, o=options: getattr(solvers, n)(FUN, **o)(None), TypeError,
          "params must be an array",
        ),
        (
          f"solvers.{name}", "nothing",
          lambda n=name, o=options: getattr(solvers, n)(lambda w: None, **o)(X), TypeError,
          rf"{argument}\(params\) must be an array",
        ),
      )
    ),
    (
      "solvers.power_norm_curvature", "power", _model("power_norm_curvature", FUN, power=1.5),
      ValueError, "power must be in",
    ),
    (
      "solvers.power_norm_fisher", "power", _model("power_norm_fisher", FUN, power=1.5), ValueError,
      "power must be in",
    ),
    (
      "solvers.power_norm_fisher", "function", _model("power_norm_fisher", X, power=4.0), TypeError,
      "residual_fn must be callable",
    ),
    (
      "solvers.log_sum_exp_curvature", "mu", _model("log_sum_exp_curvature", FUN, mu=0.0),
      ValueError, "mu must be > 0",
    ),
    ("solvers.zero_curvature", "params", lambda: ZERO(None), TypeError, "params must be an array"),
  )
]  # fmt: skip
